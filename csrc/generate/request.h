// One reply on its way.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "generate/guesses.h"
#include "generate/lora_choice.h"
#include "generate/outbox.h"
#include "generate/sampler.h"
#include "model/batch.h"

namespace chatglm {

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

    std::vector<int32_t> ids;  // the prompt, then the reply
    Sampler sampler;
    Guesses guesses;
    int64_t number = 0;                           // order of arrival
    int64_t last_step = 0;                        // that it had rows in
    std::optional<KvCache::SequenceId> sequence;  // once its computation has begun
    int n_computed = 0;                           // ids in the cache
    bool decoding = false;                        // its prompt is in the cache
    bool started = false;                         // the outbox knows

    bool expired() const { return deadline && std::chrono::steady_clock::now() >= *deadline; }

    // Why the reply ends with its last id, if it does.
    FinishReason finish_by_length() const {
        const int n_new = static_cast<int>(ids.size()) - n_prompt;
        const bool full = static_cast<int>(ids.size()) >= max_length ||
                          (config.max_new_tokens >= 0 && n_new >= config.max_new_tokens);
        return full ? FinishReason::kLength : FinishReason::kNone;
    }
};

}  // namespace chatglm
