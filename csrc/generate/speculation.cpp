#include "generate/speculation.h"

#include <algorithm>
#include <cmath>

namespace chatglm {
namespace {

// How far one step moves an estimate. Steps differ: contexts grow, other programs run.
constexpr double kWeight = 0.3;
// A step that took longer than this many times the usual says nothing of its rows.
constexpr double kOutlier = 2;
// What was not measured for so many steps may have changed.
constexpr int64_t kStale = 512;
// The share of a step's time that a further row is taken to cost until it is measured.
constexpr double kCheapRow = 0.05;
// What was noted so many guesses ago counts a third of what is noted now.
constexpr double kMemory = 12;
// A token without guesses lets go of so much of what was noted.
constexpr double kFading = 0.03;
// Estimates are not exact: guesses that promise less than this are left out.
constexpr double kLeastGain = 1.03;

}  // namespace

bool StepTimes::known(int n_rows) const {
    const Entry& entry = entries_[static_cast<size_t>(n_rows)];
    return entry.seconds > 0 && n_noted_ - entry.noted_at <= kStale;
}

void StepTimes::note(int n_rows, double seconds) {
    if (n_rows < 1 || n_rows > kMostGuessedRows || !(seconds > 0)) return;
    Entry& entry = entries_[static_cast<size_t>(n_rows)];
    if (known(n_rows)) {
        seconds = entry.seconds + kWeight * (std::min(seconds, kOutlier * entry.seconds) - entry.seconds);
    }
    entry = {seconds, ++n_noted_};
}

double StepTimes::seconds(int n_rows) const {
    int below = 0, above = 0;
    for (int n = std::min(n_rows, kMostGuessedRows); n > 0 && below == 0; --n) below = known(n) ? n : 0;
    for (int n = std::max(n_rows, 1); n <= kMostGuessedRows && above == 0; ++n) above = known(n) ? n : 0;
    const auto at = [&](int n) { return entries_[static_cast<size_t>(n)].seconds; };
    if (below == 0 && above == 0) return 0;
    double seconds = 0;
    if (below == n_rows) {
        seconds = at(below);
    } else if (below == 0) {
        seconds = at(above) / (1 + kCheapRow * (above - n_rows));
    } else if (above == 0) {
        seconds = at(below) * (1 + kCheapRow * (n_rows - below));
    } else {
        seconds = at(below) + (at(above) - at(below)) * (n_rows - below) / (above - below);
    }
    // Rows together never cost more than rows apart: more than that was measured while something else ran.
    for (int n = 1; n < std::min(n_rows, kMostGuessedRows); ++n) {
        if (known(n)) seconds = std::min(seconds, at(n) * n_rows / n);
    }
    return seconds;
}

void Acceptance::note(bool right) {
    const double keep = 1 - 1 / kMemory;
    right_ = keep * right_ + (right ? 1 : 0);
    all_ = keep * all_ + 1;
}

void Acceptance::fade() {
    right_ += kFading * (prior_ * kPriorWeight - right_);
    all_ += kFading * (kPriorWeight - all_);
}

std::vector<int> choose_counts(std::span<const Offer> offers, int n_rows, double n_tokens,
                               const StepTimes& times) {
    std::vector<int> counts(offers.size(), 0);
    const double alone = times.seconds(n_rows);
    if (alone <= 0) return counts;

    struct Row {
        size_t offer;
        double gain;  // tokens that it is expected to add
    };
    std::vector<Row> rows;
    for (size_t i = 0; i < offers.size(); ++i) {
        double gain = 1;
        for (int k = 0; k < offers[i].most; ++k) rows.push_back({i, gain *= offers[i].probability});
    }
    // The best rows first; those of one offer stay in order.
    std::stable_sort(rows.begin(), rows.end(), [](const Row& a, const Row& b) { return a.gain > b.gain; });
    rows.resize(std::min(rows.size(), static_cast<size_t>(std::max(0, kMostGuessedRows - n_rows))));

    double best = kLeastGain * n_tokens / alone, tokens = n_tokens;
    size_t n_best = 0;
    for (size_t n = 1; n <= rows.size(); ++n) {
        tokens += rows[n - 1].gain;
        const double rate = tokens / times.seconds(n_rows + static_cast<int>(n));
        if (rate > best) {
            best = rate;
            n_best = n;
        }
    }
    for (size_t n = 0; n < n_best; ++n) ++counts[rows[n].offer];
    return counts;
}

int choose_draft_steps(std::span<const Offer> offers, int n_rows, double n_tokens, const StepTimes& times,
                       double draft_seconds) {
    const double alone = times.seconds(n_rows);
    if (alone <= 0) return 0;
    double best = kLeastGain * n_tokens / alone, tokens = n_tokens;
    int n_best = 0, most = 0;
    for (const Offer& offer : offers) most = std::max(most, offer.most);
    for (int k = 1; k <= most; ++k) {
        for (const Offer& offer : offers) {
            if (k > offer.most) continue;
            tokens += std::pow(offer.probability, k);
            ++n_rows;
        }
        if (n_rows > kMostGuessedRows) break;
        const double rate = tokens / (times.seconds(n_rows) + k * draft_seconds);
        if (rate > best) {
            best = rate;
            n_best = k;
        }
    }
    return n_best;
}

}  // namespace chatglm
