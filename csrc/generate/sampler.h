// Chooses the next token of one reply from the logits.
#pragma once

#include <cstdint>
#include <memory>
#include <random>
#include <span>
#include <vector>

#include "chatglm/constraint.h"
#include "chatglm/generation.h"
#include "generate/candidates.h"
#include "generate/logit_edits.h"
#include "generate/softmax.h"

namespace chatglm {

// In the order of Hugging Face's transformers: logit bias, repetition penalty, presence and frequency
// penalty, tokens ruled out (min_new_tokens, ignore_eos, the constraint), temperature, top-k, top-p, min-p,
// typical-p, one draw. The same seed gives the same choices on every platform, whatever else runs:
// mt19937_64 is fixed by the C++ standard, and the draw from it is our own.
class Sampler {
  public:
    // A negative seed takes a fresh one from the system. `eos_ids` are the tokens that end a reply; without
    // `constraint` the text is free.
    explicit Sampler(const GenerationConfig& config, std::vector<int32_t> eos_ids = {},
                     std::shared_ptr<Constraint> constraint = nullptr);

    // `logits` (vocab_size,) is changed. `history` holds the ids so far, of which the first `n_prompt` are
    // the prompt. NaN is never chosen as long as there is a number. Throws Error when the settings leave no
    // token.
    int32_t sample(std::span<float> logits, std::span<const int32_t> history, size_t n_prompt = 0);

    // Whether `token` ends the reply and is no part of it.
    bool is_end(int32_t token) const;
    const std::vector<int32_t>& end_ids() const { return end_ids_; }
    // Whether the constraint's text is complete with the last token, so that nothing can follow.
    bool complete() const { return complete_; }
    // Of the last token; null when the settings do not ask for it.
    const TokenLogprobs* logprobs() const { return config_.logprobs < 0 ? nullptr : &logprobs_; }

    // The probabilities (vocab_size,) that the next sample() would draw by. Draws nothing.
    std::vector<double> distribution(std::span<float> logits, std::span<const int32_t> history,
                                     size_t n_prompt = 0);

    // The part of sample() that changes single logits: what comes before the temperature.
    void edit(std::span<float> logits, std::span<const int32_t> history, size_t n_prompt);

  private:
    void rule_out(std::span<float> logits, size_t n_new);
    bool is_greedy() const;
    int32_t draw(std::span<const float> logits);
    void truncate();
    void note_logprobs(int32_t chosen);

    GenerationConfig config_;
    std::vector<int32_t> eos_ids_, end_ids_;  // the model's; these and the caller's
    std::shared_ptr<Constraint> constraint_;
    std::vector<uint32_t> mask_;
    bool complete_ = false;
    std::mt19937_64 random_;
    Penalties penalties_;
    Candidates candidates_;
    std::vector<float> raw_logits_;  // before they were changed, for the log-probabilities
    TokenLogprobs logprobs_;
};

}  // namespace chatglm
