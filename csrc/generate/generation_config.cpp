#include <cmath>
#include <limits>
#include <string>

#include "chatglm/error.h"
#include "chatglm/generation.h"
#include "text/utf8.h"

namespace chatglm {
namespace {

constexpr int kMaxLogprobs = 1000;

template <class T>
void require(bool ok, const char* field, const T& value, const char* range) {
    if (ok) return;
    throw InvalidArgument(std::string(field) + " is " + std::to_string(value) + "; it must be " + range +
                          ".");
}

bool is_utf8(std::string_view text) {
    while (!text.empty()) {
        const Utf8Char c = decode_utf8(text);
        if (!c.valid) return false;
        text.remove_prefix(static_cast<size_t>(c.length));
    }
    return true;
}

}  // namespace

void GenerationConfig::validate() const {
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
    require(min_p >= 0.0f && min_p <= 1.0f, "min_p", min_p, "between 0 (off) and 1");
    require(typical_p > 0.0f && typical_p <= 1.0f, "typical_p", typical_p, "above 0 and at most 1 (off)");
    require(xtc_probability >= 0.0f && xtc_probability <= 1.0f, "xtc_probability", xtc_probability,
            "between 0 (off) and 1");
    require(xtc_threshold > 0.0f && xtc_threshold <= 1.0f, "xtc_threshold", xtc_threshold,
            "above 0 and at most 1");
    require(std::isfinite(presence_penalty), "presence_penalty", presence_penalty,
            "a finite number (0: off)");
    require(std::isfinite(frequency_penalty), "frequency_penalty", frequency_penalty,
            "a finite number (0: off)");
    require(penalty_last_n >= -1, "penalty_last_n", penalty_last_n, "-1 (all tokens), 0 (none) or more");
    require(min_new_tokens >= 0, "min_new_tokens", min_new_tokens, "0 (off) or more");
    require(max_new_tokens < 0 || min_new_tokens <= max_new_tokens, "min_new_tokens", min_new_tokens,
            "at most max_new_tokens");
    require(logprobs >= -1 && logprobs <= kMaxLogprobs, "logprobs", logprobs,
            "-1 (off) or the number of alternatives, at most 1000");
    require(num_beams >= 1, "num_beams", num_beams, "at least 1 (off)");
    require(length_penalty >= -5.0f && length_penalty <= 5.0f, "length_penalty", length_penalty,
            "between -5 and 5");
    if (num_beams > 1 && logprobs >= 0) {
        throw InvalidArgument("logprobs are not noted for beams. Leave out logprobs or num_beams.");
    }
    for (const auto& [id, bias] : logit_bias) {
        const bool ok = std::isfinite(bias) || bias == -std::numeric_limits<float>::infinity();
        require(ok, ("logit_bias of token " + std::to_string(id)).c_str(), bias,
                "a finite number, or -inf to rule the token out");
    }
    for (const std::string& text : stop) {
        if (text.empty()) throw InvalidArgument("stop holds an empty text; it would end every reply.");
        if (!is_utf8(text)) throw InvalidArgument("stop holds a text that is not UTF-8.");
    }
}

void GenerationConfig::validate_ids(int32_t vocab_size) const {
    const auto check = [&](const char* field, int32_t id) {
        if (id >= 0 && id < vocab_size) return;
        throw InvalidArgument(std::string(field) + " names token " + std::to_string(id) +
                              "; the vocabulary has the ids 0 to " + std::to_string(vocab_size - 1) + ".");
    };
    for (const auto& [id, bias] : logit_bias) check("logit_bias", id);
    for (const int32_t id : stop_token_ids) check("stop_token_ids", id);
}

GenerationConfig GenerationConfig::alternative(int i) const {
    GenerationConfig config = *this;
    // A fresh seed stays one; behind the largest seed comes 0.
    if (seed >= 0) {
        config.seed = static_cast<int64_t>((static_cast<uint64_t>(seed) + static_cast<uint64_t>(i)) &
                                           std::numeric_limits<int64_t>::max());
    }
    return config;
}

}  // namespace chatglm
