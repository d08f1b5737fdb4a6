// The thread that computes all replies of a pipeline.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "core/process.h"
#include "generate/batch_loop.h"

namespace chatglm {

// Takes requests at any time from any thread. Its thread starts with the first one and sleeps while there is
// nothing to do. The model and its cache are touched by that thread alone.
class Engine {
  public:
    // All that is referred to must outlive the engine.
    Engine(const GlmModel& model, Backend& backend, const Tokenizer& tokenizer,
           const PipelineOptions& options, DType kv, const DraftFile* draft = nullptr);
    ~Engine();
    Engine(const Engine&) = delete;
    Engine& operator=(const Engine&) = delete;

    // Throws Busy when the queue is full, ContextLengthError when the longest reply would not fit in the
    // cache's budget, Error after stop().
    void submit(std::shared_ptr<Request> request);

    // Runs a computation of another kind in the engine's thread, between two steps, and waits for its end.
    // Exceptions of it come out here, and Interrupted when `interrupted`, asked many times a second, says
    // true.
    using Task = std::function<void(BatchLoop& loop, const std::function<bool()>& interrupted)>;
    void run(const Task& task, const std::function<bool()>& interrupted = nullptr);

    // Ends all replies as cancelled, and the thread. Nothing can be asked for afterwards.
    void stop();

    PipelineStats stats() const;

    // False in a process forked from the one that made the engine, where its thread does not exist and its
    // locks may be held for ever. There nothing of it can be used or destroyed.
    bool in_this_process() const { return process_ == process_id(); }
    // Whether the model was in the middle of something, which in a forked process nobody ends.
    bool computing() const { return computing_.load(); }

    // Whether the caller is called by the engine's thread, as a constraint is.
    bool in_own_thread() const;
    // Throws Error in the engine's thread, for what would wait for itself there.
    void refuse_own_thread() const;

  private:
    struct Job {
        Task task;
        std::atomic<bool> unwanted{false};
        bool done = false;
        std::exception_ptr error;
    };

    void work();
    void admit();
    void take_stock();
    void run_job(Job& job);
    void refuse_stopped() const;
    void start_thread();

    const int64_t process_ = process_id();
    const int n_threads_, max_sequences_, max_queue_;
    BatchLoop loop_;  // of the thread
    const int64_t page_bytes_;

    mutable std::mutex mutex_;
    std::condition_variable wake_, job_done_;
    std::deque<std::shared_ptr<Request>> waiting_;
    std::deque<std::shared_ptr<Job>> jobs_;
    std::vector<const Outbox*> running_;  // of the replies in the loop
    PipelineStats stats_;
    std::thread thread_;
    std::atomic<bool> stop_{false}, computing_{false};
    std::mutex stop_mutex_;
};

}  // namespace chatglm
