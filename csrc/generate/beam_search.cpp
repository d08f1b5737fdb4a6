#include "generate/beam_search.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <tuple>
#include <utility>

#include "generate/candidates.h"
#include "generate/softmax.h"

namespace chatglm {

BeamSearch::BeamSearch(std::vector<int32_t> prompt, const GenerationConfig& config,
                       std::vector<int32_t> end_ids, int max_length)
    : n_beams_(static_cast<size_t>(config.num_beams)),
      n_prompt_(prompt.size()),
      max_length_(static_cast<size_t>(max_length)),
      length_penalty_(static_cast<double>(config.length_penalty)),
      early_stopping_(config.early_stopping),
      end_ids_(std::move(end_ids)) {
    running_.push_back({std::move(prompt), 0, 0});
}

// So many that, whatever ends a reply, there are enough to go on with.
std::vector<BeamSearch::Continuation> BeamSearch::best_continuations(
    std::span<const std::span<float>> log_probs) const {
    const size_t count = std::max(size_t{2}, 1 + end_ids_.size()) * n_beams_;
    std::vector<Continuation> found;
    std::vector<float> maxima;
    std::vector<Candidates::Entry> best;
    for (size_t i = 0; i < running_.size(); ++i) {
        const std::span<float> row = log_probs[i];
        for (float& x : row) x += running_[i].score;
        block_maxima(row, maxima);
        best_logits(row, maxima, count, best);
        for (const auto& entry : best) {
            if (entry.key > -std::numeric_limits<float>::infinity()) {
                found.push_back({entry.key, i, entry.index});
            }
        }
    }
    std::sort(found.begin(), found.end(), [](const Continuation& a, const Continuation& b) {
        return std::make_tuple(-a.score, a.beam, a.token) < std::make_tuple(-b.score, b.beam, b.token);
    });
    found.resize(std::min(count, found.size()));
    return found;
}

void BeamSearch::advance(std::span<const std::span<float>> log_probs) {
    const std::vector<Continuation> found = best_continuations(log_probs);
    std::vector<Beam> next;
    for (size_t i = 0; i < found.size(); ++i) {
        const Continuation& c = found[i];
        const std::vector<int32_t>& before = running_[c.beam].ids;
        const bool stopped = std::find(end_ids_.begin(), end_ids_.end(), c.token) != end_ids_.end();
        if (!stopped && before.size() + 1 < max_length_) {
            if (next.size() == n_beams_) continue;
            next.push_back({before, c.score, c.beam});
            next.back().ids.push_back(c.token);
        } else if (i < n_beams_) {  // what is worse is only there to go on with
            std::vector<int32_t> ids = before;
            ids.push_back(c.token);
            complete_.push_back(reply(std::move(ids), c.score, stopped));
        }
    }
    std::stable_sort(complete_.begin(), complete_.end(),
                     [](const Reply& a, const Reply& b) { return a.score > b.score; });
    complete_.resize(std::min(complete_.size(), n_beams_));
    running_ = std::move(next);
    done_ = is_over();
}

bool BeamSearch::is_over() const {
    if (running_.empty()) return true;
    if (complete_.size() < n_beams_) return false;
    if (early_stopping_ == EarlyStopping::kYes) return true;
    // What the best beam would have if its score stayed as it is: at its present length or, where more length
    // is better and nothing may be missed, at the greatest.
    const bool longest = early_stopping_ == EarlyStopping::kNever && length_penalty_ > 0;
    const size_t length = longest ? max_length_ : running_.front().ids.size();
    return !(running_.front().score / length_factor(length - n_prompt_) > complete_.back().score);
}

float BeamSearch::length_factor(size_t n_new) const {
    return static_cast<float>(std::pow(static_cast<double>(n_new), length_penalty_));
}

BeamSearch::Reply BeamSearch::reply(std::vector<int32_t> ids, float score, bool stopped) const {
    Reply reply;
    reply.score = score / length_factor(ids.size() - n_prompt_);
    reply.stopped = stopped;
    reply.ids.assign(ids.begin() + static_cast<std::ptrdiff_t>(n_prompt_), ids.end() - stopped);
    return reply;
}

std::vector<BeamSearch::Reply> BeamSearch::best(size_t n) const {
    std::vector<Reply> replies = complete_;
    for (const Beam& beam : running_) {
        if (!done_ && beam.ids.size() > n_prompt_) replies.push_back(reply(beam.ids, beam.score, false));
    }
    std::stable_sort(replies.begin(), replies.end(),
                     [](const Reply& a, const Reply& b) { return a.score > b.score; });
    replies.resize(std::min(n, replies.size()));
    return replies;
}

void log_softmax(std::span<float> logits) {
    const auto top = static_cast<double>(*std::max_element(logits.begin(), logits.end()));
    std::vector<float> weights;
    std::vector<double> sums;
    exponentials(logits, static_cast<float>(top), 1.0f, weights, sums);
    double all = 0;
    for (const double sum : sums) all += sum;
    const double log_all = std::log(all) + top;
    for (float& x : logits) x = static_cast<float>(static_cast<double>(x) - log_all);
}

}  // namespace chatglm
