// How a reply is generated.
#pragma once

#include <cstdint>
#include <string>

namespace chatglm {

struct GenerationConfig {
    int max_length = 2048;            // prompt and reply together, in tokens
    int max_new_tokens = -1;          // -1: bounded by max_length only
    int max_context_length = -1;      // -1: a longer prompt is an error; else keep its last tokens
    double max_time = -1;             // seconds from the request to the end, waiting included; -1: no limit
    bool do_sample = true;            // false: greedy
    int top_k = 0;                    // 0: off
    float top_p = 0.7f;               // 1: off
    float temperature = 0.95f;        // 0: greedy
    float repetition_penalty = 1.0f;  // 1: off
    int64_t seed = -1;                // -1: a fresh seed every time

    // Throws InvalidArgument that names the field, its value and its range.
    void validate() const;
};

enum class FinishReason { kNone, kStop, kLength, kCancelled, kDeadline };

// How far a reply is, and what it has cost.
struct Progress {
    int prompt_tokens = 0;           // ids in the prompt
    int cached_tokens = 0;           // of these, found in the cache
    int computed_tokens = 0;         // of these, in the cache by now
    int new_tokens = 0;              // given so far
    double queue_seconds = 0;        // from the request until its computation began, or until now
    double first_token_seconds = 0;  // from the request until the first token, or until now
    double seconds = 0;              // from the request until the end, or until now
    double tokens_per_second = 0;    // of the tokens after the first one; 0 before the second one
};

}  // namespace chatglm
