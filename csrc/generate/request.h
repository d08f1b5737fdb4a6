// One reply on its way.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "generate/beam_search.h"
#include "generate/guesses.h"
#include "generate/lora_choice.h"
#include "generate/outbox.h"
#include "generate/sampler.h"
#include "model/batch.h"

namespace chatglm {

// The beams of a request whose prompt is computed.
struct Beams {
    explicit Beams(BeamSearch search_in) : search(std::move(search_in)) {}

    BeamSearch search;
    // Of each running beam, all but its last id; none yet where it is to be a fork of that in `sources`.
    std::vector<std::optional<KvCache::SequenceId>> sequences;
    std::vector<KvCache::SequenceId> sources;
};

// Made by whoever asks, then only used by the engine's thread, but for the outbox.
struct Request {
    Request(std::vector<int32_t> prompt, const GenerationConfig& config_in, int max_length_in,
            const ModelConfig& model, std::shared_ptr<const LoraChoice> loras_in,
            std::vector<int32_t> eos_ids = {}, std::shared_ptr<Constraint> constraint = nullptr)
        : config(config_in),
          loras(std::move(loras_in)),
          n_prompt(static_cast<int>(prompt.size())),
          max_length(max_length_in),
          n_first(first_chunk(model, prompt)),
          outbox(n_prompt),
          ids(std::move(prompt)),
          sampler(config_in, std::move(eos_ids), std::move(constraint)) {
        if (config.max_time > 0) {
            deadline = std::chrono::steady_clock::now() +
                       std::chrono::duration_cast<std::chrono::steady_clock::duration>(
                           std::chrono::duration<double>(config.max_time));
        }
    }

    const GenerationConfig config;
    const std::shared_ptr<const LoraChoice> loras;
    const int n_prompt;
    const int max_length;  // prompt and reply together
    const int n_first;     // ids that must be in the first step
    std::optional<std::chrono::steady_clock::time_point> deadline;

    Outbox outbox;
    std::vector<std::unique_ptr<Outbox>> other_outboxes;  // of the next best replies of a beam search

    std::vector<int32_t> ids;  // the prompt, then the reply
    Sampler sampler;
    Guesses guesses;
    int64_t number = 0;                           // order of arrival
    int64_t last_step = 0;                        // that it had rows in
    std::optional<KvCache::SequenceId> sequence;  // once its computation has begun
    int n_computed = 0;                           // ids in the cache
    bool decoding = false;                        // its prompt is in the cache
    bool started = false;                         // the outbox knows
    std::unique_ptr<Beams> beams;                 // with num_beams: `ids` and `sequence` stay the prompt's

    bool expired() const { return deadline && std::chrono::steady_clock::now() >= *deadline; }

    // Nobody wants anything more.
    bool ended() const {
        return outbox.ended() && std::all_of(other_outboxes.begin(), other_outboxes.end(),
                                             [](const auto& other) { return other->ended(); });
    }
    std::vector<Outbox*> outboxes() {
        std::vector<Outbox*> all{&outbox};
        for (const auto& other : other_outboxes) all.push_back(other.get());
        return all;
    }

    // Most ids that prompt and reply can have.
    int longest() const {
        return config.max_new_tokens < 0 ? max_length
                                         : std::min(max_length, n_prompt + config.max_new_tokens);
    }
    // Rows of logits that its next step gives.
    size_t n_rows() const { return beams ? beams->sequences.size() : 1; }

    // Why the reply ends with its last id, if it does.
    FinishReason finish_by_length() const {
        return static_cast<int>(ids.size()) >= longest() ? FinishReason::kLength : FinishReason::kNone;
    }
};

}  // namespace chatglm
