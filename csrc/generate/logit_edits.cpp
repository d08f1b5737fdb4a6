#include "generate/logit_edits.h"

#include <algorithm>
#include <limits>

namespace chatglm {
namespace {

constexpr float kLargest = std::numeric_limits<float>::max();

// The id as an index, or the number of logits for a token that has none (special rows may be missing).
size_t index_of(int32_t id, std::span<const float> logits) {
    return id < 0 ? logits.size() : std::min(static_cast<size_t>(id), logits.size());
}

// Keeps a logit below infinity, where softmax has no value; -inf stays.
float bounded(float logit) {
    return std::min(logit, kLargest);
}

}  // namespace

void add_biases(std::span<float> logits, const std::map<int32_t, float>& biases) {
    for (const auto& [id, bias] : biases) {
        const size_t i = index_of(id, logits);
        if (i < logits.size()) logits[i] = bounded(logits[i] + bias);
    }
}

Penalties::Penalties(const GenerationConfig& config)
    : repetition_(config.repetition_penalty),
      presence_(config.presence_penalty),
      frequency_(config.frequency_penalty),
      last_n_(config.penalty_last_n) {}

void Penalties::apply(std::span<float> logits, std::span<const int32_t> history, size_t n_prompt) {
    if (repetition_ == 1.0f && presence_ == 0.0f && frequency_ == 0.0f) return;
    const size_t begin =
        last_n_ < 0 ? 0 : history.size() - std::min(history.size(), static_cast<size_t>(last_n_));
    counts_.resize(std::max(counts_.size(), logits.size()));
    if (repetition_ != 1.0f) {
        const auto window = history.subspan(begin);
        for (const int32_t id : window) {
            const size_t i = index_of(id, logits);
            if (i == logits.size() || counts_[i]++ > 0) continue;
            logits[i] = bounded(logits[i] > 0 ? logits[i] / repetition_ : logits[i] * repetition_);
        }
        for (const int32_t id : window) {
            if (const size_t i = index_of(id, logits); i < logits.size()) counts_[i] = 0;
        }
    }
    if (presence_ == 0.0f && frequency_ == 0.0f) return;
    const auto said = history.subspan(std::min(history.size(), std::max(begin, n_prompt)));
    for (const int32_t id : said) {
        if (const size_t i = index_of(id, logits); i < logits.size()) ++counts_[i];
    }
    for (const int32_t id : said) {
        const size_t i = index_of(id, logits);
        if (i == logits.size() || counts_[i] == 0) continue;
        logits[i] = bounded(logits[i] - static_cast<float>(counts_[i]) * frequency_ - presence_);
        counts_[i] = 0;
    }
}

void apply_mask(std::span<float> logits, std::span<const uint32_t> allowed) {
    for (size_t i = 0; i < logits.size(); ++i) {
        if ((allowed[i / 32] >> (i % 32) & 1) == 0) logits[i] = -std::numeric_limits<float>::infinity();
    }
}

}  // namespace chatglm
