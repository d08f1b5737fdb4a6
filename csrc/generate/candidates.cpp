#include "generate/candidates.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <limits>

#include "generate/softmax.h"

namespace chatglm {
namespace {

using Entry = Candidates::Entry;

bool better(const Entry& a, const Entry& b) {
    return a.key != b.key ? a.key > b.key : a.index < b.index;
}

std::ptrdiff_t offset(size_t i) {
    return static_cast<std::ptrdiff_t>(i);
}

// Puts the fewest best entries whose weights reach `target` in front, best first, and returns their number.
// What is needed is mostly a small part, so a small part is sorted first, and then wider ones.
size_t sort_until(std::vector<Entry>& entries, double target) {
    double reached = 0;
    size_t sorted = 0;
    for (size_t count = 256; sorted < entries.size(); count *= 8) {
        const size_t end = std::min(sorted + count, entries.size());
        std::nth_element(entries.begin() + offset(sorted), entries.begin() + offset(end - 1), entries.end(),
                         better);
        std::sort(entries.begin() + offset(sorted), entries.begin() + offset(end), better);
        for (; sorted < end; ++sorted) {
            reached += static_cast<double>(entries[sorted].weight);
            if (reached >= target) return sorted + 1;
        }
    }
    return sorted;
}

// A weight is at most 1. Its upper bits put it into a bucket: one for 1, then 128 for each power of two.
constexpr int kBucketShift = 16;
constexpr uint32_t kBestBucket = std::bit_cast<uint32_t>(1.0f) >> kBucketShift;
uint32_t bucket_of(float weight) {
    return std::bit_cast<uint32_t>(weight) >> kBucketShift;
}

}  // namespace

void best_logits(std::span<const float> logits, std::span<const float> maxima, size_t count,
                 std::vector<Entry>& best) {
    best.clear();
    count = std::min(count, logits.size());
    if (count == 0) return;
    // As many blocks have a maximum of at least `least`: so many logits are not below it.
    float least = -std::numeric_limits<float>::infinity();
    if (count < maxima.size()) {
        std::vector<float> order(maxima.begin(), maxima.end());
        std::nth_element(order.begin(), order.begin() + offset(count - 1), order.end(), std::greater<>());
        least = order[count - 1];
    }
    for (size_t block = 0; block < maxima.size(); ++block) {
        if (maxima[block] < least) continue;
        const size_t begin = block * kLogitBlock;
        for (size_t i = begin; i < std::min(begin + kLogitBlock, logits.size()); ++i) {
            if (logits[i] >= least) best.push_back({logits[i], 0, static_cast<int32_t>(i)});
        }
    }
    count = std::min(count, best.size());
    std::partial_sort(best.begin(), best.begin() + offset(count), best.end(), better);
    best.resize(count);
}

bool Candidates::start(std::span<const float> logits, float temperature, int top_k) {
    scale_ = std::min(1.0f / temperature, std::numeric_limits<float>::max());
    block_maxima(logits, maxima_);
    top_ = maxima_.empty() ? 0.0f : *std::max_element(maxima_.begin(), maxima_.end());
    if (maxima_.empty() || !std::isfinite(top_)) return false;
    ids_.clear();
    logits_ = logits;
    if (top_k > 0 && static_cast<size_t>(top_k) < logits.size()) {
        best_logits(logits, maxima_, static_cast<size_t>(top_k), entries_);
        std::sort(entries_.begin(), entries_.end(),
                  [](const Entry& a, const Entry& b) { return a.index < b.index; });
        best_logits_.clear();
        for (const Entry& entry : entries_) {
            best_logits_.push_back(entry.key);
            ids_.push_back(entry.index);
        }
        logits_ = best_logits_;
    }
    exponentials(logits_, top_, scale_, weights_, sums_);
    return true;
}

void Candidates::keep_top_p(float p) {
    if (p >= 1.0f) return;
    const double target = static_cast<double>(p) * total();
    mass_.resize(kBestBucket + 1);
    for (const float weight : weights_) {
        // Many tokens may have no weight at all; adding them up in one place would take long.
        if (weight > 0) mass_[bucket_of(weight)] += static_cast<double>(weight);
    }
    double above = 0;
    uint32_t bucket = kBestBucket;
    while (bucket > 0 && above + mass_[bucket] < target) above += mass_[bucket--];
    std::fill(mass_.begin(), mass_.end(), 0.0);

    entries_.clear();
    for (size_t i = 0; i < logits_.size(); ++i) {
        if (bucket_of(weights_[i]) == bucket && weights_[i] > 0) {
            entries_.push_back({logits_[i], weights_[i], static_cast<int32_t>(i)});
        }
    }
    const size_t count = sort_until(entries_, target - above);
    for (size_t j = count; j < entries_.size(); ++j) weights_[static_cast<size_t>(entries_[j].index)] = 0;
    drop_below(std::bit_cast<float>(bucket << kBucketShift), weights_, sums_);
}

void Candidates::keep_min_p(float p) {
    // The best token is never left out, and its weight is 1.
    if (p > 0) drop_below(p, weights_, sums_);
}

void Candidates::drop_top_choices(float threshold) {
    const double least = static_cast<double>(threshold) * total();
    size_t worst = 0, n = 0;
    for (size_t i = 0; i < weights_.size(); ++i) {
        if (weights_[i] == 0 || static_cast<double>(weights_[i]) < least) continue;
        if (n++ == 0 || logits_[i] <= logits_[worst]) worst = i;
    }
    if (n < 2) return;
    for (size_t i = 0; i < weights_.size(); ++i) {
        if (i != worst && static_cast<double>(weights_[i]) >= least) weights_[i] = 0;
    }
    drop_below(0, weights_, sums_);  // for the sums
}

void Candidates::find_typical() {
    // Information and entropy, its expected value, both without log(total()), which their difference loses.
    const auto information = [this](size_t i) { return (top_ - logits_[i]) * scale_; };
    double sum = 0;
    for (size_t i = 0; i < weights_.size(); ++i) {
        if (weights_[i] > 0) sum += static_cast<double>(weights_[i] * information(i));
    }
    const float entropy = static_cast<float>(sum / total());
    keys_.resize(weights_.size());
    for (size_t i = 0; i < weights_.size(); ++i) keys_[i] = -std::abs(information(i) - entropy);
}

void Candidates::keep_typical(float p) {
    if (p >= 1.0f) return;
    find_typical();
    entries_.clear();
    for (size_t i = 0; i < weights_.size(); ++i) {
        if (weights_[i] > 0) entries_.push_back({keys_[i], weights_[i], static_cast<int32_t>(i)});
    }
    const size_t count = sort_until(entries_, static_cast<double>(p) * total());
    for (size_t j = count; j < entries_.size(); ++j) weights_[static_cast<size_t>(entries_[j].index)] = 0;
    drop_below(0.0f, weights_, sums_);
}

double Candidates::total() const {
    double sum = 0;
    for (const double block : sums_) sum += block;
    return sum;
}

size_t Candidates::at(double point) const {
    // Rounding may leave something of `point` behind the last block, or the last token, that has weight.
    size_t block = 0;
    for (size_t next = 0; next < sums_.size(); ++next) {
        if (sums_[next] <= 0) continue;
        block = next;
        if (point < sums_[next]) break;
        point -= sums_[next];
    }
    const size_t begin = block * kLogitBlock;
    size_t chosen = begin;
    for (size_t i = begin; i < std::min(begin + kLogitBlock, weights_.size()); ++i) {
        if (weights_[i] <= 0) continue;
        chosen = i;
        point -= static_cast<double>(weights_[i]);
        if (point < 0) break;
    }
    return chosen;
}

}  // namespace chatglm
