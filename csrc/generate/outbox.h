// What the engine's thread has for the handle of one reply.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "chatglm/generation.h"

namespace chatglm {

// Tokens wait here until they are fetched; their number is bounded by the length of the reply. All methods
// may be called from any thread.
class Outbox {
  public:
    explicit Outbox(int n_prompt) : progress_{.prompt_tokens = n_prompt} {}

    // For the engine. What comes after the end is dropped.
    void start(int n_cached);
    void note_computed(int n_computed);
    void put(int32_t token, FinishReason finish, const std::optional<TokenLogprobs>& logprobs = {});
    // A whole reply of a beam search.
    void put_all(std::span<const int32_t> tokens, float beam_score, FinishReason finish);
    void note_guesses(int n_drafted, int n_accepted);
    void end(FinishReason finish);
    void fail(std::exception_ptr error);

    // For the handle. As Generation::step, cancel, stop, ready, done, finish_reason, logprobs, progress,
    // on_change.
    bool take(int32_t& token, const std::function<bool()>& interrupted);
    void cancel() { close(FinishReason::kCancelled); }
    void stop() { close(FinishReason::kStop); }
    bool ready() const;
    bool done() const;
    FinishReason finish_reason() const;
    std::optional<TokenLogprobs> logprobs() const;
    Progress progress() const;
    void on_change(std::function<void()> listener);

    // For both: nothing more is wanted, or comes.
    bool ended() const;

  private:
    using Clock = std::chrono::steady_clock;
    bool done_locked() const;
    void finish_locked(FinishReason finish);
    void close(FinishReason reason);
    template <class Change>
    void change(const Change& apply);

    mutable std::mutex mutex_;
    std::condition_variable changed_;
    std::shared_ptr<const std::function<void()>> listener_;
    std::vector<int32_t> tokens_;
    std::vector<TokenLogprobs> logprobs_;  // of the tokens, when they are asked for
    size_t n_taken_ = 0;
    Progress progress_;      // new_tokens aside, which are those taken
    int seen_computed_ = 0;  // of the prompt, when take() last said so
    FinishReason finish_ = FinishReason::kNone;
    bool started_ = false;
    bool closed_ = false;       // by the handle, which wants no more tokens
    std::exception_ptr error_;  // until take() has thrown it
    const Clock::time_point submitted_ = Clock::now();
    Clock::time_point first_, last_;
};

}  // namespace chatglm
