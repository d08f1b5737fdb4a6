// How many tokens to guess: as many as make the replies come faster, which may be none.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

namespace chatglm {

// Most rows of a step that has guesses in it: their logits take memory.
inline constexpr int kMostGuessedRows = 64;

// Seconds that a step takes by the number of its rows, from those that were measured lately.
class StepTimes {
  public:
    void note(int n_rows, double seconds);

    // Of a number of rows that was not measured: on the line between its neighbours, or, beyond all of them,
    // as if further rows were cheap; what is tried because of that is measured then. 0 when nothing is known.
    double seconds(int n_rows) const;

  private:
    struct Entry {
        double seconds = 0;  // 0: never measured
        int64_t noted_at = 0;
    };
    bool known(int n_rows) const;

    std::array<Entry, kMostGuessedRows + 1> entries_;  // by the number of rows
    int64_t n_noted_ = 0;
};

// How often guesses of one kind were right lately: tokens that a reply copies come in runs.
class Acceptance {
  public:
    explicit Acceptance(double prior) : prior_(prior), right_(prior * kPriorWeight), all_(kPriorWeight) {}

    void note(bool right);
    // Forgets a little of it, for a token that was not guessed: so guessing is tried again some time.
    void fade();
    // That a guess is right when those before it were.
    double probability() const { return right_ / all_; }

  private:
    static constexpr double kPriorWeight = 2;  // guesses
    double prior_, right_, all_;
};

// Guesses at one reply that could be computed.
struct Offer {
    double probability;  // as Acceptance's
    int most;            // tokens
};

// How many tokens of each offer make most tokens a second of a step that without any has `n_rows` and gives
// `n_tokens`, one for each reply in it.
std::vector<int> choose_counts(std::span<const Offer> offers, int n_rows, double n_tokens,
                               const StepTimes& times);

// The same for a model that drafts a token of every offer in each step of its own, which takes
// `draft_seconds`: how many such steps.
int choose_draft_steps(std::span<const Offer> offers, int n_rows, double n_tokens, const StepTimes& times,
                       double draft_seconds);

}  // namespace chatglm
