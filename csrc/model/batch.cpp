#include "model/batch.h"

#include <algorithm>

namespace chatglm {
namespace {

int index_of(std::span<const int32_t> ids, int32_t id) {
    return static_cast<int>(std::find(ids.begin(), ids.end(), id) - ids.begin());
}

}  // namespace

int first_chunk(const ModelConfig& config, std::span<const int32_t> prompt) {
    return config.positions == PositionKind::glm_2d ? index_of(prompt, config.sop_token_id) : 0;
}

void Batch::add(const ModelConfig& config, std::span<const int32_t> ids, int begin, int end,
                KvCache::SequenceId sequence, int n_prompt) {
    const auto prompt = ids.first(std::min(ids.size(), static_cast<size_t>(n_prompt)));
    const int context = first_chunk(config, prompt);
    const int mask = config.positions == PositionKind::glm_2d ? index_of(prompt, config.gmask_token_id) : 0;
    for (int i = begin; i < end; ++i) {
        const bool in_reply = config.positions == PositionKind::glm_2d && i >= context;
        tokens.push_back(ids[static_cast<size_t>(i)]);
        // Without [gMASK] in the prompt the reply stands where the context ends.
        positions.push_back(in_reply ? (mask < static_cast<int>(prompt.size()) ? mask : context) : i);
        block_positions.push_back(in_reply ? i - context + 1 : 0);
        sees_at_least.push_back(i < context ? context : 0);
        sequences.push_back(sequence);
        wants_logits.push_back(0);
    }
}

}  // namespace chatglm
