// Which rows the next forward pass computes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace chatglm {

// What the plan of a step needs to know of one reply.
struct Work {
    int64_t number = 0;     // order of arrival
    int64_t last_step = 0;  // number of the step that it had rows in last
    int n_computed = 0;     // of its ids, in the cache
    int n_ids = 0;          // prompt and reply so far
    // Writing its reply: the ids that are left, usually one, are computed together. Else they are a prompt,
    // which may be cut anywhere.
    bool decoding = false;
    int first_chunk = 0;          // fewest ids that must be in one step from the first one on
    const void* group = nullptr;  // only replies of one group can be in a step: those with the same adapters
};

// Ids [begin, end) of the reply work[index].
struct Share {
    size_t index;
    int begin, end;
};

// Most rows of prompts in one step.
struct StepLimits {
    int alone = 512;  // while no reply is being written
    int mixed = 512;  // else
};

// The group that waited longest; of it every reply that is being written, and with the rows that the limit
// leaves its prompts: half of them, at least, for the oldest one, so that none waits for ever, the others for
// those that need fewest, so that a short question does not wait for a long document. Empty only without
// work.
std::vector<Share> plan_step(std::span<const Work> work, const StepLimits& limits);

// Chooses the limits from what steps have taken, so that a step with prompts in it holds up the replies that
// are being written by `max_pause` seconds and no more, on a machine of any speed.
class Pace {
  public:
    Pace(int prefill_chunk, double max_pause) : prefill_chunk_(prefill_chunk), max_pause_(max_pause) {}

    StepLimits limits() const;
    void note(int n_prompt_rows, int n_rows, double seconds);

  private:
    int prefill_chunk_;
    double max_pause_;
    double seconds_per_row_ = 0;  // 0: not known yet
};

}  // namespace chatglm
