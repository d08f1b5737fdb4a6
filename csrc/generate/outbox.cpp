#include "generate/outbox.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "chatglm/error.h"

namespace chatglm {
namespace {

// How often a waiting thread looks whether it was interrupted. A token wakes it at once.
constexpr std::chrono::milliseconds kSlice(50);

double seconds_between(std::chrono::steady_clock::time_point a, std::chrono::steady_clock::time_point b) {
    return std::chrono::duration<double>(b - a).count();
}

}  // namespace

// Changes something that take() may wait for, and says so.
template <class Change>
void Outbox::change(const Change& apply) {
    std::shared_ptr<const std::function<void()>> listener;
    {
        const std::lock_guard lock(mutex_);
        if (finish_ != FinishReason::kNone) return;
        apply();
        listener = listener_;
    }
    changed_.notify_all();
    if (listener) (*listener)();
}

void Outbox::start(int n_cached) {
    change([&] {
        started_ = true;
        progress_.queue_seconds = seconds_between(submitted_, Clock::now());
        progress_.cached_tokens = progress_.computed_tokens = seen_computed_ = n_cached;
    });
}

void Outbox::note_computed(int n_computed) {
    change([&] {
        progress_.computed_tokens =
            std::max(progress_.computed_tokens, std::min(n_computed, progress_.prompt_tokens));
    });
}

void Outbox::put(int32_t token, FinishReason finish, const std::optional<TokenLogprobs>& logprobs) {
    change([&] {
        last_ = Clock::now();
        if (tokens_.empty()) first_ = last_;
        progress_.computed_tokens = seen_computed_ = progress_.prompt_tokens;
        tokens_.push_back(token);
        if (logprobs) logprobs_.push_back(*logprobs);
        if (finish != FinishReason::kNone) finish_locked(finish);
    });
}

void Outbox::put_all(std::span<const int32_t> tokens, float beam_score, FinishReason finish) {
    change([&] {
        first_ = last_ = Clock::now();
        progress_.computed_tokens = seen_computed_ = progress_.prompt_tokens;
        progress_.beam_score = beam_score;
        tokens_.assign(tokens.begin(), tokens.end());
        finish_locked(finish);
    });
}

void Outbox::note_guesses(int n_drafted, int n_accepted) {
    change([&] {
        progress_.drafted_tokens = n_drafted;
        progress_.accepted_tokens = n_accepted;
    });
}

void Outbox::end(FinishReason finish) {
    change([&] { finish_locked(finish); });
}

void Outbox::fail(std::exception_ptr error) {
    change([&] {
        error_ = std::move(error);
        finish_locked(FinishReason::kCancelled);
    });
}

void Outbox::finish_locked(FinishReason finish) {
    finish_ = finish;
    if (finish == FinishReason::kStop) progress_.computed_tokens = progress_.prompt_tokens;
    progress_.seconds = seconds_between(submitted_, Clock::now());
}

void Outbox::close(FinishReason reason) {
    std::shared_ptr<const std::function<void()>> listener;
    std::exception_ptr error;  // whose end may run code of Python's, for which the lock must be free
    {
        const std::lock_guard lock(mutex_);
        // A stop text may be found when the last token is out.
        if (closed_ || (reason == FinishReason::kCancelled && done_locked())) return;
        if (finish_ == FinishReason::kNone) finish_locked(reason);
        finish_ = reason;  // also when its end was not fetched
        closed_ = true;
        error = std::exchange(error_, nullptr);
        listener = listener_;
    }
    changed_.notify_all();
    if (listener) (*listener)();
}

bool Outbox::done_locked() const {
    return finish_ != FinishReason::kNone && (closed_ || n_taken_ == tokens_.size()) && !error_;
}

bool Outbox::take(int32_t& token, const std::function<bool()>& interrupted) {
    std::unique_lock lock(mutex_);
    auto slice = kSlice * 0;  // it may have been interrupted before
    for (;;) {
        if (closed_) return false;
        if (n_taken_ < tokens_.size()) {
            token = tokens_[n_taken_++];
            return true;
        }
        if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
        if (finish_ != FinishReason::kNone) return false;
        if (progress_.computed_tokens != seen_computed_) {
            seen_computed_ = progress_.computed_tokens;
            return false;
        }
        if (!interrupted) {
            changed_.wait(lock);
        } else if (changed_.wait_for(lock, std::exchange(slice, kSlice)) == std::cv_status::timeout) {
            lock.unlock();  // it may do anything, for example drop this reply's pipeline
            if (interrupted()) throw Interrupted();
            lock.lock();
        }
    }
}

bool Outbox::ready() const {
    const std::lock_guard lock(mutex_);
    return finish_ != FinishReason::kNone || n_taken_ < tokens_.size() ||
           progress_.computed_tokens != seen_computed_;
}

bool Outbox::done() const {
    const std::lock_guard lock(mutex_);
    return done_locked();
}

FinishReason Outbox::finish_reason() const {
    const std::lock_guard lock(mutex_);
    return done_locked() ? finish_ : FinishReason::kNone;
}

std::optional<TokenLogprobs> Outbox::logprobs() const {
    const std::lock_guard lock(mutex_);
    if (n_taken_ == 0 || logprobs_.empty()) return std::nullopt;
    return logprobs_[n_taken_ - 1];
}

bool Outbox::ended() const {
    const std::lock_guard lock(mutex_);
    return finish_ != FinishReason::kNone;
}

Progress Outbox::progress() const {
    const std::lock_guard lock(mutex_);
    Progress progress = progress_;
    progress.new_tokens = static_cast<int>(n_taken_);
    if (finish_ == FinishReason::kNone) progress.seconds = seconds_between(submitted_, Clock::now());
    if (!started_) progress.queue_seconds = progress.seconds;
    progress.first_token_seconds = tokens_.empty() ? progress.seconds : seconds_between(submitted_, first_);
    if (last_ > first_) {
        progress.tokens_per_second = static_cast<double>(tokens_.size() - 1) / seconds_between(first_, last_);
    }
    return progress;
}

void Outbox::on_change(std::function<void()> listener) {
    auto shared = std::make_shared<const std::function<void()>>(std::move(listener));
    const std::lock_guard lock(mutex_);
    listener_ = std::move(shared);
}

}  // namespace chatglm
