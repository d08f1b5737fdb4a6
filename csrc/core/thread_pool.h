// Threads that share the chunks of one loop at a time. Chunks are taken as threads come free, so a slow core
// or a busy neighbour holds nothing up; waiting threads spin briefly and then sleep, so an idle program costs
// nothing.
#pragma once

#include <cstdint>
#include <memory>

namespace chatglm {

class ThreadPool {
  public:
    static constexpr int kMaxThreads = 512;
    static constexpr int64_t kMaxChunks = (int64_t{1} << 20) - 1;

    // `n_threads` counts the calling thread; 0 means the fast physical cores.
    explicit ThreadPool(int n_threads = 0);
    // In a process forked from the one that made the pool its threads do not exist: there a loop runs on the
    // caller alone, and the pool's memory is left behind.
    ~ThreadPool();
    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;

    int size() const;

    // Calls body(chunk, thread) for every chunk in [0, n_chunks), thread in [0, size()). `body` must not
    // throw. Returns when all are done. Callers on several threads take turns.
    template <class Body>
    void parallel_for(int64_t n_chunks, const Body& body) {
        run(
            n_chunks,
            [](const void* context, int64_t chunk, int thread) {
                (*static_cast<const Body*>(context))(chunk, thread);
            },
            &body);
    }

  private:
    using Call = void (*)(const void* context, int64_t chunk, int thread);
    void run(int64_t n_chunks, Call call, const void* context);

    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace chatglm
