#include "generate/engine.h"

#include <algorithm>
#include <chrono>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "chatglm/error.h"
#include "core/processors.h"

namespace chatglm {
namespace {

// How often a thread that waits for a job looks whether it was interrupted.
constexpr std::chrono::milliseconds kSlice(50);

thread_local const Engine* engine_of_thread = nullptr;

}  // namespace

Engine::Engine(const GlmModel& model, Backend& backend, const Tokenizer& tokenizer,
               const PipelineOptions& options, DType kv, const DraftFile* draft)
    : n_threads_(backend.n_threads()),
      max_sequences_(options.max_sequences),
      max_queue_(options.max_queue),
      loop_(model, backend, tokenizer, options, kv, draft),
      page_bytes_(static_cast<int64_t>(loop_.cache().layout().page_bytes())) {}

Engine::~Engine() {
    stop();
}

void Engine::refuse_stopped() const {
    if (stop_.load()) throw Error("The pipeline was closed: nothing more is computed.");
}

bool Engine::in_own_thread() const {
    return engine_of_thread == this;
}

void Engine::refuse_own_thread() const {
    if (in_own_thread()) {
        throw Error("The pipeline is computing in this very thread: a constraint cannot wait for it.");
    }
}

void Engine::start_thread() {
    if (thread_.joinable()) return;
    try {
        thread_ = std::thread([this] {
            prefer_fast_cores(n_threads_);  // as its part of a loop is like that of the pool's threads
            work();
        });
    } catch (const std::system_error& error) {
        throw Error(std::string("The system gives no thread to compute with: ") + error.what() + ".");
    }
}

void Engine::check_memory(const Request& request) const {
    const int64_t most_pages = loop_.most_pages();
    if (most_pages < 0 || loop_.pages_for_longest(request) <= most_pages) return;
    const int n_beams = request.config.num_beams;
    throw ContextLengthError("Prompt and reply may reach " + std::to_string(request.longest()) + " tokens" +
                             (n_beams > 1 ? " in each of " + std::to_string(n_beams) + " beams" : "") +
                             ", for which cache_memory, " + std::to_string(most_pages * page_bytes_) +
                             " bytes of whole pages, is too small. Raise it, or lower max_length" +
                             (n_beams > 1 ? ", max_new_tokens or num_beams." : " or max_new_tokens."));
}

void Engine::submit(std::span<const std::shared_ptr<Request>> requests) {
    for (const auto& request : requests) check_memory(*request);
    // The end of a constraint may run code of Python's, for which the lock must be free.
    std::vector<std::shared_ptr<Request>> ended;
    {
        const std::lock_guard lock(mutex_);
        refuse_stopped();
        std::erase_if(waiting_, [&](const auto& waiting) {
            if (!waiting->ended()) return false;
            ended.push_back(waiting);
            return true;
        });
        // Those that end in the next step need no place any more.
        const auto n_running = static_cast<int>(std::count_if(
            running_.begin(), running_.end(), [](const Request* request) { return !request->ended(); }));
        const int n_waiting = static_cast<int>(waiting_.size());
        const int n_places = std::max(0, max_sequences_ + max_queue_ - n_running - n_waiting);
        if (static_cast<int>(requests.size()) > n_places) {
            throw Busy(std::to_string(n_running) + " replies are being computed and " +
                       std::to_string(n_waiting) + " requests wait, which leaves room for " +
                       std::to_string(n_places) + ". Ask again later, or raise max_queue.");
        }
        start_thread();
        waiting_.insert(waiting_.end(), requests.begin(), requests.end());
    }
    wake_.notify_one();
}

void Engine::run(const Task& task, const std::function<bool()>& interrupted) {
    refuse_own_thread();
    if (interrupted && interrupted())
        throw Interrupted();  // a short task may end before the first slice does
    const auto job = std::make_shared<Job>();
    job->task = task;
    std::unique_lock lock(mutex_);
    refuse_stopped();
    start_thread();
    jobs_.push_back(job);
    wake_.notify_one();
    while (!job->done) {
        if (!interrupted) {
            job_done_.wait(lock);
        } else if (job_done_.wait_for(lock, kSlice) == std::cv_status::timeout && !job->unwanted.load()) {
            lock.unlock();
            if (interrupted()) job->unwanted.store(true);
            lock.lock();
        }
    }
    if (!job->error) return;
    try {
        std::rethrow_exception(std::exchange(job->error, nullptr));
    } catch (const Interrupted&) {
        if (!job->unwanted.load()) refuse_stopped();  // it was not the caller
        throw;
    }
}

void Engine::run_job(Job& job) {
    std::exception_ptr error;
    try {
        if (job.unwanted.load()) throw Interrupted();
        job.task(loop_, [&] { return job.unwanted.load() || stop_.load(); });
    } catch (...) {
        error = std::current_exception();
    }
    {
        const std::lock_guard lock(mutex_);
        take_stock();
        job.error = std::move(error);
        job.done = true;
    }
    job_done_.notify_all();
}

// Moves requests to the replies that run, where those that nobody wants any more end. With the lock held.
void Engine::admit() {
    std::erase_if(waiting_, [this](const std::shared_ptr<Request>& request) {
        const bool over = request->ended() || request->expired();
        if (over) loop_.add(request);
        return over;
    });
    while (!waiting_.empty() && loop_.has_room_for(*waiting_.front())) {
        loop_.add(std::move(waiting_.front()));
        waiting_.pop_front();
    }
    take_stock();
}

// What others are told of the loop, before publish() lets go of what has left it. With the lock held.
void Engine::take_stock() {
    running_.clear();
    for (const auto& request : loop_.running()) running_.push_back(request.get());
    stats_.used_bytes = loop_.pages_in_use() * page_bytes_;
    stats_.cached_bytes = loop_.pages_cached() * page_bytes_;
    stats_.allocated_bytes = loop_.cache().allocated_bytes();
}

void Engine::work() {
    engine_of_thread = this;
    std::unique_lock lock(mutex_);
    for (;;) {
        wake_.wait(
            lock, [this] { return stop_.load() || !jobs_.empty() || !waiting_.empty() || loop_.size() > 0; });
        if (stop_.load()) return;
        std::shared_ptr<Job> job;
        if (!jobs_.empty()) {
            job = std::move(jobs_.front());
            jobs_.pop_front();
        }
        admit();
        computing_.store(true);
        lock.unlock();
        if (job) run_job(*job);
        try {
            loop_.step(stop_);
        } catch (...) {  // there is no memory even for lists of numbers
            loop_.fail_all(std::current_exception());
        }
        auto preempted = loop_.take_preempted();
        lock.lock();
        waiting_.insert(waiting_.begin(), preempted.begin(), preempted.end());
        take_stock();
        computing_.store(false);
        lock.unlock();
        loop_.publish();
        preempted.clear();  // what ended meanwhile goes without the lock, see submit
        lock.lock();
    }
}

void Engine::stop() {
    const std::lock_guard one_at_a_time(stop_mutex_);
    {
        const std::lock_guard lock(mutex_);
        stop_.store(true);
    }
    wake_.notify_one();
    if (thread_.joinable()) thread_.join();

    // The thread is gone: its things are ours.
    loop_.cancel_all();
    std::deque<std::shared_ptr<Request>> waiting;  // go without the lock, see submit
    {
        const std::lock_guard lock(mutex_);
        take_stock();
    }
    loop_.publish();
    const std::lock_guard lock(mutex_);
    waiting.swap(waiting_);
    for (const auto& request : waiting) {
        for (Outbox* outbox : request->outboxes()) outbox->end(FinishReason::kCancelled);
    }
    for (const auto& job : jobs_) {
        job->error = std::make_exception_ptr(Interrupted());
        job->done = true;
    }
    jobs_.clear();
    job_done_.notify_all();
}

PipelineStats Engine::stats() const {
    const std::lock_guard lock(mutex_);
    PipelineStats stats = stats_;
    stats.running = static_cast<int>(running_.size());
    stats.waiting = static_cast<int>(waiting_.size());
    return stats;
}

}  // namespace chatglm
