// The tokens that may come next and their weights, and the settings that leave fewer of them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "generate/softmax.h"

namespace chatglm {

// Everything is exact and the same on every platform, and no vocabulary is sorted. The better of two tokens
// is the one with the larger logit; of equal ones, the one with the smaller id.
class Candidates {
  public:
    struct Entry {
        float key;  // the larger, the better
        float weight;
        int32_t index;
    };

    // All tokens of `logits`, or the best `top_k` of them when that is not 0. `logits` must stay as they are
    // while this is used. False when the largest one is no finite number: then there are no weights.
    bool start(std::span<const float> logits, float temperature, int top_k);
    // The fewest best tokens that have the share `p` of the weight.
    void keep_top_p(float p);
    // The tokens that have at least the share `p` of the best one's weight.
    void keep_min_p(float p);
    // The fewest tokens that have the share `p` of the weight, those first whose information is nearest to
    // the entropy.
    void keep_typical(float p);

    // Leaves out all tokens that have at least the share `threshold` of the weight, but for the worst of
    // them.
    void drop_top_choices(float threshold);
    // A draw by the weights that are left.
    template <class Random>
    int32_t draw(const Random& random) {
        return id_of(at(random() * total()));
    }

    // keep_top_p(p), keep_min_p(min_p) and a draw by the weights that are left, which is faster at once and
    // leaves any weights behind. `random()` gives numbers in [0, 1).
    template <class Random>
    int32_t draw_top_p(float p, float min_p, const Random& random) {
        const double target = p < 1.0f ? static_cast<double>(p) * total() : kAll;
        keep_min_p(min_p);  // whatever is better than a token that stays, stays
        return draw_best(logits_, target, random);
    }
    // The same for keep_typical(p).
    template <class Random>
    int32_t draw_typical(float p, const Random& random) {
        find_typical();
        return draw_best(keys_, static_cast<double>(p) * total(), random);
    }

    // Calls f(id, probability) for every token that is left.
    template <class F>
    void for_each(const F& f) const {
        const double all = total();
        for (size_t i = 0; i < weights_.size(); ++i) {
            if (weights_[i] > 0) f(id_of(i), static_cast<double>(weights_[i]) / all);
        }
    }

  private:
    int32_t id_of(size_t i) const { return ids_.empty() ? static_cast<int32_t>(i) : ids_[i]; }
    double total() const;
    size_t at(double point) const;  // the index at `point` of the total, in the order of ids
    void find_typical();            // sets keys_
    template <class Random>
    int32_t draw_best(std::span<const float> keys, double target, const Random& random);

    static constexpr double kAll = std::numeric_limits<double>::infinity();

    std::span<const float> logits_;   // of all tokens, or `best_logits_`
    std::vector<float> best_logits_;  // of the best top_k, in the order of their ids
    std::vector<int32_t> ids_;        // theirs; empty: the index is the id
    float scale_ = 1;                 // 1 / temperature
    float top_ = 0;                   // the largest logit
    std::vector<float> weights_;      // 1 for the largest logit; 0: left out
    std::vector<double> sums_;        // of the blocks
    std::vector<float> keys_;         // how near a token's information is to the entropy
    std::vector<double> mass_;        // work space of keep_top_p
    std::vector<Entry> entries_;      // work space
    std::vector<float> maxima_;       // work space
};

// A draw from the fewest best tokens, by `keys`, that have the weight `target`. A token that is drawn from
// all is one of these when the better ones have less than that; if it is not, neither is any worse one, and
// the next draw is from the better ones. This has the same distribution as a draw from the best tokens, and
// they never have to be found.
template <class Random>
int32_t Candidates::draw_best(std::span<const float> keys, double target, const Random& random) {
    for (;;) {
        const size_t i = at(random() * total());
        if (target == kAll) return id_of(i);
        const double above = mass_above(keys, weights_, i);
        if (above < target || above == 0) return id_of(i);  // the best token of all always is one
        keep_above(keys, i, weights_, sums_);
    }
}

// The `count` best logits, best first, NaN left out. `maxima` are those of the blocks.
void best_logits(std::span<const float> logits, std::span<const float> maxima, size_t count,
                 std::vector<Candidates::Entry>& best);

}  // namespace chatglm
