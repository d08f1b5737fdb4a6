// Computing without the interpreter lock, until Ctrl-C or the end of Python.
#include <pybind11/pybind11.h>

#include <atomic>
#include <chrono>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "bindings/bindings.h"
#include "chatglm/error.h"

namespace py = pybind11;

namespace chatglm::bindings {
namespace {

std::atomic<bool> shutting_down{false};
std::atomic<int> running{0};

struct AtExit {
    std::weak_ptr<void> owner;
    std::function<void()> stop;
};
std::mutex at_exit_mutex;
std::vector<AtExit> at_exit;

void stop_computations() {
    shutting_down = true;
    const py::gil_scoped_release release;
    std::vector<AtExit> all;
    {
        const std::lock_guard lock(at_exit_mutex);
        all.swap(at_exit);
    }
    for (const AtExit& entry : all) {
        if (const auto owner = entry.owner.lock()) entry.stop();
    }
    while (running.load() > 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

bool on_main_thread() {
    const py::object main_thread = py::module_::import("threading").attr("main_thread")();
    return main_thread.attr("ident").cast<unsigned long>() == PyThread_get_thread_ident();
}

// Asks Python for pending signals (Ctrl-C), ten times a second at most and on the main thread only, where
// Python handles them: taking the interpreter lock from a busy thread costs milliseconds. True leaves the
// Python error set.
class SignalCheck {
  public:
    explicit SignalCheck(bool main_thread) : main_thread_(main_thread) {}

    bool operator()() {
        if (!main_thread_) return shutting_down.load();
        const auto now = std::chrono::steady_clock::now();
        if (now - last_ < std::chrono::milliseconds(100)) return false;
        last_ = now;
        py::gil_scoped_acquire acquire;
        return PyErr_CheckSignals() != 0;
    }

  private:
    bool main_thread_;
    std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

}  // namespace

WithoutLock::WithoutLock() {
    running.fetch_add(1);
    if (!shutting_down.load()) release_.emplace();
}

WithoutLock::~WithoutLock() {
    release_.reset();
    running.fetch_sub(1);
}

void end_without_lock(std::function<void()> end, bool elsewhere) {
    if (!elsewhere) {
        const WithoutLock without_lock;
        end();
        return;
    }
    running.fetch_add(1);
    std::thread([end = std::move(end)] {
        end();
        running.fetch_sub(1);
    }).detach();
}

void stop_at_exit(const std::shared_ptr<void>& owner, std::function<void()> stop) {
    const std::lock_guard lock(at_exit_mutex);
    std::erase_if(at_exit, [](const AtExit& entry) { return entry.owner.expired(); });
    at_exit.push_back({owner, std::move(stop)});
}

void run_without_lock(const std::function<void(const std::function<bool()>& interrupted)>& compute) {
    if (shutting_down.load()) throw Error("Python is shutting down: nothing more is computed.");
    struct Count {
        Count() { running.fetch_add(1); }
        ~Count() { running.fetch_sub(1); }
    } const count;
    try {
        SignalCheck check(on_main_thread());
        py::gil_scoped_release release;
        compute([&check] { return check(); });
    } catch (const Interrupted&) {
        if (PyErr_Occurred()) throw py::error_already_set();
        throw Error("Python is shutting down: nothing more is computed.");
    }
}

void bind_without_lock(py::module_&) {
    py::module_::import("atexit").attr("register")(py::cpp_function(&stop_computations));
}

}  // namespace chatglm::bindings
