// The parts of the Python module chatglm_cpp._C.
#pragma once

#include <pybind11/pybind11.h>

#include <functional>
#include <memory>
#include <optional>

#include "chatglm/constraint.h"

namespace chatglm::bindings {

void bind_errors(pybind11::module_& m);
void bind_messages(pybind11::module_& m);
void bind_sampling(pybind11::module_& m);
void bind_sessions(pybind11::module_& m);
void bind_pipeline(pybind11::module_& m);
void bind_generation(pybind11::module_& m);
void bind_without_lock(pybind11::module_& m);
void bind_arrays(pybind11::module_& m);
void bind_bench(pybind11::module_& m);

// Releases the interpreter lock for a call that ends by itself; Python waits for it before it shuts down.
class WithoutLock {
  public:
    WithoutLock();
    ~WithoutLock();
    WithoutLock(const WithoutLock&) = delete;
    WithoutLock& operator=(const WithoutLock&) = delete;

  private:
    std::optional<pybind11::gil_scoped_release> release_;
};

// Runs `end`, which waits for a thread that may want the interpreter lock, without that lock. `elsewhere` has
// another thread do it, for who is that thread itself.
void end_without_lock(std::function<void()> end, bool elsewhere);

// A Python object with fill_mask(buffer) and accept(id) -> bool as a constraint; None as none.
std::shared_ptr<Constraint> to_constraint(const pybind11::object& object);

// Runs compute(interrupted) without the interpreter lock; Ctrl-C ends it as a Python exception.
void run_without_lock(const std::function<void(const std::function<bool()>& interrupted)>& compute);

// Python ends a thread that asks for the interpreter lock while it shuts down, in the middle of C++ code; so
// before it shuts down, computations without the lock are stopped and waited for. `stop` is called then, when
// `owner` still lives, to end a wait that would not end by itself.
void stop_at_exit(const std::shared_ptr<void>& owner, std::function<void()> stop);

}  // namespace chatglm::bindings
