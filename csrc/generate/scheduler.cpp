#include "generate/scheduler.h"

#include <algorithm>
#include <tuple>

namespace chatglm {
namespace {

// Below this the weights that a step reads cost more than its rows, so fewer rows would not end sooner.
constexpr int kFewestRows = 8;
// Rows of a first step, whose speed nobody knows.
constexpr int kFirstRows = 32;
// A prompt that holds nobody up is computed in steps of this many pauses: a request that arrives meanwhile
// waits for the end of the step, and longer steps are hardly faster.
constexpr double kAlonePauses = 4;
// How far one step moves the estimate. Steps differ: contexts grow, other programs run.
constexpr double kWeight = 0.3;

}  // namespace

std::vector<Share> plan_step(std::span<const Work> work, const StepLimits& limits) {
    std::vector<Share> plan;
    if (work.empty()) return plan;
    const auto waited_longer = [](const Work& a, const Work& b) {
        return std::tie(a.last_step, a.number) < std::tie(b.last_step, b.number);
    };
    const void* group = std::min_element(work.begin(), work.end(), waited_longer)->group;

    std::vector<size_t> prompts;
    for (size_t i = 0; i < work.size(); ++i) {
        if (work[i].group != group) continue;
        if (work[i].decoding) {
            plan.push_back({i, work[i].n_computed, work[i].n_ids});
        } else {
            prompts.push_back(i);
        }
    }
    if (prompts.empty()) return plan;

    const auto left = [&](size_t i) { return work[i].n_ids - work[i].n_computed; };
    const auto oldest = std::min_element(prompts.begin(), prompts.end(),
                                         [&](size_t a, size_t b) { return work[a].number < work[b].number; });
    std::iter_swap(prompts.begin(), oldest);
    std::sort(prompts.begin() + 1, prompts.end(), [&](size_t a, size_t b) {
        return std::make_tuple(left(a), work[a].number) < std::make_tuple(left(b), work[b].number);
    });
    int64_t wanted_by_others = 0;
    for (size_t i = 1; i < prompts.size(); ++i) wanted_by_others += left(prompts[i]);

    int rows = plan.empty() ? limits.alone : limits.mixed;
    for (size_t i = 0; i < prompts.size() && rows > 0; ++i) {
        const Work& w = work[prompts[i]];
        int take = std::min(left(prompts[i]), rows);
        if (i == 0) {
            const auto unwanted = static_cast<int>(std::max<int64_t>(rows - wanted_by_others, 0));
            take = std::min(take, std::max((rows + 1) / 2, unwanted));
        }
        const int end = std::max(w.n_computed + take, std::min(w.first_chunk, w.n_ids));
        plan.push_back({prompts[i], w.n_computed, end});
        rows -= end - w.n_computed;
    }
    return plan;
}

StepLimits Pace::limits() const {
    const auto rows = [this](double seconds, int fewest) {
        const double n = seconds_per_row_ > 0 ? seconds / seconds_per_row_ : kFirstRows;
        return std::min(prefill_chunk_,
                        std::max(fewest, static_cast<int>(std::min<double>(n, prefill_chunk_))));
    };
    return {rows(kAlonePauses * max_pause_, 8 * kFewestRows), rows(max_pause_, kFewestRows)};
}

void Pace::note(int n_prompt_rows, int n_rows, double seconds) {
    if (n_prompt_rows < kFewestRows || seconds <= 0) return;
    const double measured = seconds / n_rows;
    seconds_per_row_ =
        seconds_per_row_ > 0 ? (1 - kWeight) * seconds_per_row_ + kWeight * measured : measured;
}

}  // namespace chatglm
