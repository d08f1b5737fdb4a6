// What one forward pass computes: rows of tokens from any number of sequences.
#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "chatglm/model.h"
#include "model/kv_cache.h"

namespace chatglm {

// Rows of one sequence are adjacent and in order; each is appended to its sequence in the cache.
struct Batch {
    std::vector<int32_t> tokens;
    std::vector<int32_t> positions;
    std::vector<int32_t> block_positions;  // the second number of PositionKind::glm_2d, else 0
    std::vector<int32_t>
        sees_at_least;  // tokens of its sequence that a row sees, even those after it; else 0
    std::vector<KvCache::SequenceId> sequences;
    std::vector<uint8_t> wants_logits;

    // Adds tokens [begin, end) of `ids`, which are all the tokens of their sequence, numbered as the model
    // wants. With glm_2d the context before <sop> must be computed in one batch: see first_chunk(). The first
    // `n_prompt` of `ids` are the prompt, by default all: what comes later changes no row before it.
    void add(const ModelConfig& config, std::span<const int32_t> ids, int begin, int end,
             KvCache::SequenceId sequence, int n_prompt = std::numeric_limits<int>::max());

    int size() const { return static_cast<int>(tokens.size()); }
};

// Fewest tokens at the start of a prompt that must be in one batch: 0 for causal models.
int first_chunk(const ModelConfig& config, std::span<const int32_t> prompt);

}  // namespace chatglm
