#include "generate/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "chatglm/error.h"

namespace chatglm {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

uint64_t seed_of(const GenerationConfig& config) {
    if (config.seed >= 0) return static_cast<uint64_t>(config.seed);
    std::random_device device;
    return static_cast<uint64_t>(device()) << 32 | device();
}

bool contains(const std::vector<int32_t>& ids, int32_t id) {
    return std::find(ids.begin(), ids.end(), id) != ids.end();
}

}  // namespace

Sampler::Sampler(const GenerationConfig& config, std::vector<int32_t> eos_ids,
                 std::shared_ptr<Constraint> constraint)
    : config_(config),
      eos_ids_(std::move(eos_ids)),
      end_ids_(eos_ids_),
      constraint_(std::move(constraint)),
      random_(seed_of(config)),
      penalties_(config) {
    end_ids_.insert(end_ids_.end(), config.stop_token_ids.begin(), config.stop_token_ids.end());
}

bool Sampler::is_end(int32_t token) const {
    return contains(end_ids_, token);
}

int32_t Sampler::sample(std::span<float> logits, std::span<const int32_t> history, size_t n_prompt) {
    if (config_.logprobs >= 0) raw_logits_.assign(logits.begin(), logits.end());
    edit(logits, history, n_prompt);
    const int32_t token = draw(logits);
    if (config_.logprobs >= 0) note_logprobs(token);
    complete_ = constraint_ && !is_end(token) && constraint_->accept(token);
    return token;
}

bool Sampler::is_greedy() const {
    return !config_.do_sample || config_.temperature == 0.0f;
}

int32_t Sampler::draw(std::span<const float> logits) {
    if (is_greedy() || !candidates_.start(logits, config_.temperature, config_.top_k)) return argmax(logits);
    // 53 random bits make a double in [0, 1).
    const auto random = [this] { return static_cast<double>(random_() >> 11) * 0x1p-53; };
    // Whether the top choices shall go is drawn first, so that other settings do not change it.
    if (config_.xtc_probability > 0 && random() < static_cast<double>(config_.xtc_probability)) {
        truncate();
        candidates_.drop_top_choices(config_.xtc_threshold);
        return candidates_.draw(random);
    }
    if (config_.typical_p >= 1.0f) return candidates_.draw_top_p(config_.top_p, config_.min_p, random);
    candidates_.keep_top_p(config_.top_p);
    candidates_.keep_min_p(config_.min_p);
    return candidates_.draw_typical(config_.typical_p, random);
}

std::vector<double> Sampler::distribution(std::span<float> logits, std::span<const int32_t> history,
                                          size_t n_prompt) {
    edit(logits, history, n_prompt);
    std::vector<double> probabilities(logits.size());
    if (is_greedy() || !candidates_.start(logits, config_.temperature, config_.top_k)) {
        probabilities[static_cast<size_t>(argmax(logits))] = 1;
        return probabilities;
    }
    truncate();
    const double xtc = config_.xtc_probability;
    candidates_.for_each(
        [&](int32_t id, double p) { probabilities[static_cast<size_t>(id)] = (1 - xtc) * p; });
    if (xtc > 0) {
        candidates_.drop_top_choices(config_.xtc_threshold);
        candidates_.for_each(
            [&](int32_t id, double p) { probabilities[static_cast<size_t>(id)] += xtc * p; });
    }
    return probabilities;
}

void Sampler::truncate() {
    candidates_.keep_top_p(config_.top_p);
    candidates_.keep_min_p(config_.min_p);
    candidates_.keep_typical(config_.typical_p);
}

void Sampler::edit(std::span<float> logits, std::span<const int32_t> history, size_t n_prompt) {
    add_biases(logits, config_.logit_bias);
    penalties_.apply(logits, history, n_prompt);
    rule_out(logits, history.size() - std::min(n_prompt, history.size()));
}

void Sampler::rule_out(std::span<float> logits, size_t n_new) {
    const std::vector<int32_t>* ends = nullptr;
    if (config_.ignore_eos) ends = &eos_ids_;
    if (n_new < static_cast<size_t>(config_.min_new_tokens)) ends = &end_ids_;
    if (constraint_) {
        mask_.assign((logits.size() + 31) / 32, 0);
        constraint_->fill_mask(mask_);
        apply_mask(logits, mask_);
        // A text that is complete ends, however short it is.
        if (ends) {
            std::vector<uint32_t> rest = mask_;
            for (const int32_t id : *ends) {
                if (id >= 0 && static_cast<size_t>(id) < logits.size()) {
                    rest[static_cast<size_t>(id) / 32] &= ~(1u << (id % 32));
                }
            }
            if (std::all_of(rest.begin(), rest.end(), [](uint32_t word) { return word == 0; }))
                ends = nullptr;
        }
    }
    if (ends) {
        for (const int32_t id : *ends) {
            if (id >= 0 && static_cast<size_t>(id) < logits.size()) {
                logits[static_cast<size_t>(id)] = -kInfinity;
            }
        }
    }
    const bool restricted = constraint_ || ends || !config_.logit_bias.empty();
    if (restricted && !(logits[static_cast<size_t>(argmax(logits))] > -kInfinity)) {
        throw Error(
            "No token can come next: logit_bias, ignore_eos, min_new_tokens and the format of the reply "
            "together rule out all of them.");
    }
}

void Sampler::note_logprobs(int32_t chosen) {
    std::vector<float> maxima, weights;
    std::vector<double> sums;
    block_maxima(raw_logits_, maxima);
    const float top = *std::max_element(maxima.begin(), maxima.end());
    exponentials(raw_logits_, top, 1.0f, weights, sums);
    double all = 0;
    for (const double sum : sums) all += sum;
    const double log_all = std::log(all) + static_cast<double>(top);
    const auto logprob = [&](float logit) {
        return static_cast<float>(static_cast<double>(logit) - log_all);
    };
    std::vector<Candidates::Entry> best;
    best_logits(raw_logits_, maxima, static_cast<size_t>(config_.logprobs), best);
    logprobs_.logprob = logprob(raw_logits_[static_cast<size_t>(chosen)]);
    logprobs_.top.clear();
    for (const auto& entry : best) logprobs_.top.push_back({entry.index, logprob(entry.key)});
}

}  // namespace chatglm
