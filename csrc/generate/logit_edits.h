// Changes to single logits that come before temperature and top-k: biases, penalties, exclusions.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "chatglm/generation.h"

namespace chatglm {

void add_biases(std::span<float> logits, const std::map<int32_t, float>& biases);

// Repetition, presence and frequency penalty over the last `penalty_last_n` tokens.
class Penalties {
  public:
    explicit Penalties(const GenerationConfig& config);

    // `history` holds the ids so far, of which the first `n_prompt` are the prompt. The repetition penalty
    // sees them all; the other two count what was said, the ids behind the prompt.
    void apply(std::span<float> logits, std::span<const int32_t> history, size_t n_prompt);

  private:
    float repetition_, presence_, frequency_;
    int last_n_;
    std::vector<int32_t> counts_;  // of the tokens of the vocabulary; all 0 between calls
};

// -inf for every token whose bit in `allowed` is 0.
void apply_mask(std::span<float> logits, std::span<const uint32_t> allowed);

}  // namespace chatglm
