#include "core/thread_pool.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "core/process.h"
#include "core/processors.h"

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

namespace chatglm {
namespace {

// Long enough to bridge the gap between two operations of a forward pass (a few microseconds), short enough
// that an idle laptop stays cool and a busy one gives the core away.
constexpr auto kSpin = std::chrono::microseconds(40);

inline void pause_briefly() {
#if defined(__x86_64__) || defined(_M_X64)
    for (int i = 0; i < 16; ++i) _mm_pause();
#elif (defined(__aarch64__) || defined(_M_ARM64)) && (!defined(_MSC_VER) || defined(__clang__))
    for (int i = 0; i < 16; ++i) __asm__ __volatile__("isb");
#endif
}

template <class Ready>
bool spin_until(const Ready& ready) {
    const auto end = std::chrono::steady_clock::now() + kSpin;
    do {
        for (int i = 0; i < 8; ++i) {
            if (ready()) return true;
            pause_briefly();
        }
    } while (std::chrono::steady_clock::now() < end);
    return ready();
}

constexpr uint64_t kFieldMask = (uint64_t{1} << 20) - 1;
constexpr uint64_t next_chunk(uint64_t ticket) {
    return ticket & kFieldMask;
}
constexpr uint64_t chunk_count(uint64_t ticket) {
    return (ticket >> 20) & kFieldMask;
}

}  // namespace

struct ThreadPool::State {
    void work(int thread);
    bool run_one_chunk(int thread);
    bool has_chunk() const;

    const int64_t process = process_id();
    std::vector<std::thread> workers;
    std::mutex turn;  // one loop at a time

    // The loop being run. `call` and `context` are stable while any chunk of it is unfinished.
    Call call = nullptr;
    const void* context = nullptr;
    // Loop number (24 bits), number of chunks (20), next chunk (20) in one word: a successful exchange claims
    // a chunk of the loop that is current at that very moment.
    alignas(64) std::atomic<uint64_t> ticket{0};
    alignas(64) std::atomic<int64_t> unfinished{0};

    std::mutex sleep;
    std::condition_variable wake_workers, wake_caller;
    std::atomic<int> sleeping_workers{0};
    std::atomic<bool> caller_sleeps{false};
    std::atomic<bool> stop{false};
};

int ThreadPool::size() const {
    return static_cast<int>(state_->workers.size()) + 1;
}

ThreadPool::ThreadPool(int n_threads) : state_(std::make_unique<State>()) {
    n_threads = n_threads <= 0 ? default_thread_count() : std::min(n_threads, kMaxThreads);
    state_->workers.reserve(static_cast<size_t>(n_threads - 1));
    try {
        for (int i = 1; i < n_threads; ++i) {
            state_->workers.emplace_back([state = state_.get(), i, n_threads] {
                prefer_fast_cores(n_threads);
                state->work(i);
            });
        }
    } catch (const std::system_error&) {
        // The system gives no more threads: those that started are enough to work with.
    }
}

ThreadPool::~ThreadPool() {
    if (state_->process != process_id()) {
        // Joining threads or destroying a condition variable that they waited for would never return.
        static_cast<void>(state_.release());
        return;
    }
    {
        std::lock_guard lock(state_->sleep);
        state_->stop = true;
    }
    state_->wake_workers.notify_all();
    for (std::thread& worker : state_->workers) worker.join();
}

bool ThreadPool::State::has_chunk() const {
    const uint64_t now = ticket.load();
    return next_chunk(now) < chunk_count(now);
}

bool ThreadPool::State::run_one_chunk(int thread) {
    uint64_t claimed = ticket.load();
    do {
        if (next_chunk(claimed) >= chunk_count(claimed)) return false;
    } while (!ticket.compare_exchange_weak(claimed, claimed + 1));
    call(context, static_cast<int64_t>(next_chunk(claimed)), thread);
    if (unfinished.fetch_sub(1) == 1 && caller_sleeps.load()) {
        std::lock_guard lock(sleep);
        wake_caller.notify_one();
    }
    return true;
}

void ThreadPool::State::work(int thread) {
    const auto ready = [this] { return stop.load() || has_chunk(); };
    while (true) {
        while (run_one_chunk(thread)) {
        }
        if (!spin_until(ready)) {
            std::unique_lock lock(sleep);
            sleeping_workers.fetch_add(1);
            wake_workers.wait(lock, ready);
            sleeping_workers.fetch_sub(1);
        }
        if (stop.load()) return;
    }
}

void ThreadPool::run(int64_t n_chunks, Call call, const void* context) {
    if (n_chunks <= 0) return;
    State& s = *state_;
    std::lock_guard turn(s.turn);
    if (s.workers.empty() || n_chunks == 1) {
        for (int64_t chunk = 0; chunk < n_chunks; ++chunk) call(context, chunk, 0);
        return;
    }
    for (int64_t begin = 0; begin < n_chunks; begin += kMaxChunks) {
        const int64_t count = std::min(n_chunks - begin, kMaxChunks);
        struct Offset {
            Call call;
            const void* context;
            int64_t begin;
        } const part{call, context, begin};
        s.call = begin == 0 ? call : [](const void* c, int64_t chunk, int thread) {
            const auto& p = *static_cast<const Offset*>(c);
            p.call(p.context, p.begin + chunk, thread);
        };
        s.context = begin == 0 ? context : &part;
        s.unfinished.store(count);
        const uint64_t loop = (s.ticket.load() >> 40) + 1;
        s.ticket.store(loop << 40 | static_cast<uint64_t>(count) << 20);
        if (s.sleeping_workers.load() > 0) {
            std::lock_guard lock(s.sleep);
            s.wake_workers.notify_all();
        }
        while (s.run_one_chunk(0)) {
        }
        const auto done = [&s] { return s.unfinished.load() == 0; };
        if (!spin_until(done)) {
            std::unique_lock lock(s.sleep);
            s.caller_sleeps.store(true);
            s.wake_caller.wait(lock, done);
            s.caller_sleeps.store(false);
        }
    }
}

}  // namespace chatglm
