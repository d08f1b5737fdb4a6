// The bookkeeping of a beam search: which continuations go on, which are complete, when it is over.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "chatglm/generation.h"

namespace chatglm {

// As in Hugging Face's transformers (GenerationMixin._beam_search, without sampling), for one prompt. Of
// continuations that are equally likely the one of the better beam comes first, then the one with the smaller
// id. Knows no model.
class BeamSearch {
  public:
    struct Beam {
        std::vector<int32_t> ids;  // the prompt, then what was chosen
        float score = 0;           // sum of the log-probabilities of what was chosen
        size_t parent = 0;         // the beam that it continues, by its place before the last advance()
    };
    struct Reply {
        std::vector<int32_t> ids;  // without the prompt and the token that ended it
        float score = 0;           // the beam's, divided by length^length_penalty; the end token counts
        bool stopped = false;      // by an end token, else by the length
    };

    // `end_ids` are the tokens that end a reply; no reply makes more than `max_length` ids of it and the
    // prompt.
    BeamSearch(std::vector<int32_t> prompt, const GenerationConfig& config, std::vector<int32_t> end_ids,
               int max_length);

    // The beams that go on, best first, at most `num_beams`; before the first step one, the prompt.
    const std::vector<Beam>& running() const { return running_; }

    // Goes on by one token. `log_probs` has a row (n_tokens,) for each running beam, which is changed; -inf
    // rules a token out.
    void advance(std::span<const std::span<float>> log_probs);

    // Nothing can go on, or nothing that goes on is expected to become one of the best.
    bool done() const { return done_; }

    // The best `n` replies, best first, or fewer when there are not so many. Before the end what goes on
    // counts as a reply, too.
    std::vector<Reply> best(size_t n) const;

  private:
    struct Continuation {
        float score;
        size_t beam;
        int32_t token;
    };

    std::vector<Continuation> best_continuations(std::span<const std::span<float>> log_probs) const;
    Reply reply(std::vector<int32_t> ids, float score, bool stopped) const;
    bool is_over() const;
    float length_factor(size_t n_new) const;

    size_t n_beams_, n_prompt_, max_length_;
    double length_penalty_;
    EarlyStopping early_stopping_;
    std::vector<int32_t> end_ids_;
    std::vector<Beam> running_;
    std::vector<Reply> complete_;  // at most n_beams_, best first
    bool done_ = false;
};

// Makes logits the logarithms of their softmax. They must be finite.
void log_softmax(std::span<float> logits);

}  // namespace chatglm
