#include "generate/sampler.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "chatglm/error.h"

namespace chatglm {

void GenerationConfig::validate() const {
    const auto require = [](bool ok, const char* field, const auto& value, const char* range) {
        if (!ok) {
            throw InvalidArgument(std::string(field) + " is " + std::to_string(value) + "; it must be " +
                                  range + ".");
        }
    };
    require(max_length > 0, "max_length", max_length, "at least 1");
    require(max_new_tokens >= -1, "max_new_tokens", max_new_tokens, "-1 (no limit of its own) or more");
    require(max_context_length == -1 || max_context_length > 0, "max_context_length", max_context_length,
            "-1 (never cut the prompt) or at least 1");
    require(max_time == -1 || (max_time > 0 && max_time <= 1e8), "max_time", max_time,
            "-1 (no limit) or a number of seconds up to 1e8");
    require(top_k >= 0, "top_k", top_k, "0 (off) or more");
    require(top_p >= 0.0f && top_p <= 1.0f, "top_p", top_p, "between 0 and 1 (1: off)");
    require(temperature >= 0.0f && std::isfinite(temperature), "temperature", temperature,
            "0 (greedy) or a positive number");
    require(repetition_penalty > 0.0f && std::isfinite(repetition_penalty), "repetition_penalty",
            repetition_penalty, "a positive number (1: off)");
}

int32_t argmax(std::span<const float> logits) {
    int32_t best = -1;
    for (size_t i = 0; i < logits.size(); ++i) {
        if (std::isnan(logits[i])) continue;
        if (best < 0 || logits[i] > logits[static_cast<size_t>(best)]) best = static_cast<int32_t>(i);
    }
    return std::max(best, 0);
}

Sampler::Sampler(const GenerationConfig& config)
    : config_(config),
      random_(config.seed >= 0
                  ? static_cast<uint64_t>(config.seed)
                  : (static_cast<uint64_t>(std::random_device{}()) << 32 | std::random_device{}())) {}

void Sampler::penalize(std::span<float> logits, std::span<const int32_t> history) const {
    if (config_.repetition_penalty == 1.0f) return;
    std::vector<int32_t> seen(history.begin(), history.end());
    std::sort(seen.begin(), seen.end());
    seen.erase(std::unique(seen.begin(), seen.end()), seen.end());
    for (const int32_t id : seen) {
        if (id < 0 || static_cast<size_t>(id) >= logits.size()) continue;
        float& logit = logits[static_cast<size_t>(id)];
        logit = logit > 0 ? logit / config_.repetition_penalty : logit * config_.repetition_penalty;
    }
}

// The `count` largest logits, best first; equal ones by id, so that the order is the same everywhere.
void Sampler::keep_best(std::span<const float> logits, size_t count) {
    candidates_.clear();
    for (size_t i = 0; i < logits.size(); ++i) {
        if (!std::isnan(logits[i])) candidates_.push_back({logits[i], static_cast<int32_t>(i)});
    }
    const auto better = [](const Candidate& a, const Candidate& b) {
        return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
    };
    count = std::min(count, candidates_.size());
    const auto end = candidates_.begin() + static_cast<std::ptrdiff_t>(count);
    if (count < candidates_.size()) std::nth_element(candidates_.begin(), end, candidates_.end(), better);
    candidates_.erase(end, candidates_.end());
    std::sort(candidates_.begin(), candidates_.end(), better);
}

// One of the candidates, by the weights beside them.
int32_t Sampler::draw() {
    double sum = 0;
    for (const double weight : weights_) sum += weight;
    // 53 random bits make a double in [0, 1).
    double point = static_cast<double>(random_() >> 11) * 0x1p-53 * sum;
    for (size_t i = 0; i < weights_.size(); ++i) {
        point -= weights_[i];
        if (point < 0) return candidates_[i].id;
    }
    return candidates_[weights_.size() - 1].id;
}

int32_t Sampler::sample(std::span<float> logits, std::span<const int32_t> history) {
    penalize(logits, history);
    if (!config_.do_sample || config_.temperature == 0.0f) return argmax(logits);

    const float top = logits[static_cast<size_t>(argmax(logits))];
    if (!std::isfinite(top)) return argmax(logits);
    const auto weight = [&](float logit) {
        return std::exp((static_cast<double>(logit) - top) / static_cast<double>(config_.temperature));
    };

    // Mass of everything that top-k leaves.
    const size_t limit = config_.top_k > 0
                             ? std::min<size_t>(static_cast<size_t>(config_.top_k), logits.size())
                             : logits.size();
    double mass = 0;
    if (limit == logits.size()) {
        for (const float logit : logits) {
            if (!std::isnan(logit)) mass += weight(logit);
        }
    } else {
        keep_best(logits, limit);
        for (const Candidate& c : candidates_) mass += weight(c.logit);
    }

    // The fewest best tokens whose mass reaches top_p of it. Sorting a whole vocabulary costs far more than
    // the few hundred tokens that matter, so look at the best 256 first and widen when they do not suffice.
    for (size_t count = std::min<size_t>(256, limit);; count = std::min(count * 8, limit)) {
        keep_best(logits, count);
        weights_.clear();
        double reached = 0;
        for (const Candidate& c : candidates_) {
            weights_.push_back(weight(c.logit));
            reached += weights_.back();
            if (config_.top_p < 1.0f && reached >= static_cast<double>(config_.top_p) * mass) return draw();
        }
        if (count >= limit || candidates_.size() < count) return draw();
    }
}

}  // namespace chatglm
