// How a reply is generated.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace chatglm {

// When a beam search with all its replies complete goes on looking for better ones.
enum class EarlyStopping {
    kNo,     // as long as the best beam has the better score at its present length
    kYes,    // not at all
    kNever,  // as long as any continuation could become better
};

// What each setting does, in which order, and where its formula comes from: docs/sampling.md.
struct GenerationConfig {
    int max_length = 2048;                     // prompt and reply together, in tokens
    int max_new_tokens = -1;                   // -1: bounded by max_length only
    int max_context_length = -1;               // -1: a longer prompt is an error; else keep its last tokens
    bool do_sample = true;                     // false: greedy
    int top_k = 0;                             // 0: off
    float top_p = 0.7f;                        // 1: off
    float temperature = 0.95f;                 // 0: greedy
    float repetition_penalty = 1.0f;           // 1: off
    int64_t seed = -1;                         // -1: a fresh seed every time
    double max_time = -1;                      // seconds until the reply ends, waiting included; -1: no limit
    float min_p = 0.0f;                        // 0: off
    float typical_p = 1.0f;                    // 1: off
    float xtc_probability = 0.0f;              // how often the top choices are left out; 0: off
    float xtc_threshold = 0.1f;                // probability from which a token is a top choice
    float presence_penalty = 0.0f;             // 0: off
    float frequency_penalty = 0.0f;            // 0: off
    int penalty_last_n = -1;                   // tokens that the three penalties look back on; -1: all
    std::map<int32_t, float> logit_bias = {};  // added to the logits of tokens; -inf rules one out
    std::vector<std::string> stop = {};        // texts that end the answer and are not part of it
    std::vector<int32_t> stop_token_ids = {};  // tokens that end the reply, beside the model's own
    bool ignore_eos = false;                   // the model's own end tokens are never chosen
    int min_new_tokens = 0;                    // before so many, no end token is chosen
    int logprobs = -1;                         // -1: off; n: with the n likeliest tokens
    int num_beams = 1;                         // above 1: beam search, which draws nothing
    float length_penalty = 1.0f;               // of beams: scores are divided by length^length_penalty
    EarlyStopping early_stopping = EarlyStopping::kNo;  // of beams

    // Throws InvalidArgument that names the field, its value and its range.
    void validate() const;
    // The same for token ids outside a vocabulary of `vocab_size`.
    void validate_ids(int32_t vocab_size) const;

    // The settings for alternative `i` of several replies to one prompt: the seed is `i` more. So alternative
    // i is the reply that a request of its own with that seed gets.
    GenerationConfig alternative(int i) const;
};

// Natural logarithms of probabilities in the model's own distribution, the softmax of the logits before any
// setting changes them.
struct TokenLogprob {
    int32_t id;
    float logprob;
};
struct TokenLogprobs {
    float logprob = 0;                   // of the token that was chosen
    std::vector<TokenLogprob> top = {};  // GenerationConfig::logprobs likeliest tokens, best first
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
    double tokens_per_second = 0;    // of the tokens after the first one; 0 before the second one, and for
                                     // beams, whose tokens come all at once
    std::optional<float> beam_score = {};  // log-probability / length^length_penalty, at the end of a beam
                                           // search
    int drafted_tokens = 0;                // guessed ahead and checked, see PipelineOptions::prompt_lookup
    int accepted_tokens = 0;  // of these, right: tokens of the reply that took no step of their own
};

}  // namespace chatglm
