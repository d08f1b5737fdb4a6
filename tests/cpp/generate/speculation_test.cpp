#include "generate/speculation.h"

#include <doctest/doctest.h>

#include <numeric>

using namespace chatglm;

namespace {

// Steps that take `base` and `row` for each row.
StepTimes linear(double base, double row) {
    StepTimes times;
    for (int n = 1; n <= kMostGuessedRows; ++n) times.note(n, base + row * n);
    return times;
}

int sum(const std::vector<int>& counts) {
    return std::accumulate(counts.begin(), counts.end(), 0);
}

}  // namespace

TEST_CASE("the time of a step that was not measured lies between its neighbours") {
    StepTimes times;
    CHECK(times.seconds(1) == 0);
    times.note(1, 1.0);
    CHECK(times.seconds(1) == 1.0);
    CHECK(times.seconds(5) > 1.0);
    CHECK(times.seconds(5) < 1.5);
    times.note(9, 3.0);
    CHECK(times.seconds(5) == doctest::Approx(2.0));
    CHECK(times.seconds(kMostGuessedRows) > 3.0);
}

TEST_CASE("a step that was held up by something else does not spoil what is known") {
    StepTimes times;
    for (int i = 0; i < 10; ++i) times.note(4, 1.0);
    times.note(4, 100.0);
    CHECK(times.seconds(4) < 1.5);
    for (int i = 0; i < 20; ++i) times.note(4, 1.0);
    CHECK(times.seconds(4) == doctest::Approx(1.0).epsilon(0.01));
    // Even the first one: five rows cannot take longer than five steps.
    times.note(1, 0.5);
    times.note(5, 1000.0);
    CHECK(times.seconds(5) <= 2.5);
}

TEST_CASE("what was measured long ago is tried again") {
    StepTimes times;
    times.note(1, 1.0);
    times.note(2, 2.0);
    for (int i = 0; i < 1000; ++i) times.note(1, 1.0);
    CHECK(times.seconds(2) < 1.5);
}

TEST_CASE("the acceptance follows what guesses were lately, and fades to what is usual") {
    Acceptance acceptance(0.5);
    CHECK(acceptance.probability() == doctest::Approx(0.5));
    for (int i = 0; i < 40; ++i) acceptance.note(true);
    CHECK(acceptance.probability() > 0.9);
    for (int i = 0; i < 40; ++i) acceptance.note(false);
    CHECK(acceptance.probability() < 0.1);
    for (int i = 0; i < 400; ++i) acceptance.fade();
    CHECK(acceptance.probability() == doctest::Approx(0.5).epsilon(0.01));
}

TEST_CASE("rows that cost as much as a step are not guessed, rows that cost nothing are") {
    const Offer sure{0.95, 16};
    const StepTimes no_free_row = linear(0, 1);
    CHECK(sum(choose_counts(std::vector{sure}, 1, 1, no_free_row)) == 0);
    const StepTimes all_free = linear(1, 0);
    CHECK(sum(choose_counts(std::vector{sure}, 1, 1, all_free)) == 16);
    CHECK(sum(choose_counts(std::vector{sure}, 1, 1, StepTimes{})) == 0);
    // A step of 10 and a row of 1: the fourth guess at 0.5 adds 1/16 of a token, which is not worth a row.
    const StepTimes cheap = linear(10, 1);
    const int n = sum(choose_counts(std::vector{Offer{0.5, 16}}, 1, 1, cheap));
    CHECK(n >= 2);
    CHECK(n <= 4);
    CHECK(sum(choose_counts(std::vector{Offer{0.02, 16}}, 1, 1, cheap)) == 0);
}

TEST_CASE("in company the likelier guesses get the rows that are cheap") {
    StepTimes times;  // eight rows cost what one costs, more cost as much as steps of their own
    for (int n = 1; n <= kMostGuessedRows; ++n) times.note(n, n <= 8 ? 1.0 : 1.0 + (n - 8));
    const std::vector<Offer> offers{{0.2, 16}, {0.95, 16}, {0.9, 2}};
    const auto counts = choose_counts(offers, 3, 3, times);
    CHECK(counts == std::vector<int>{0, 4, 1});
    CHECK(sum(choose_counts(offers, 8, 8, times)) == 0);
}

TEST_CASE("no step has more rows than their logits have memory for") {
    const std::vector<Offer> offers(16, Offer{0.99, 16});
    CHECK(sum(choose_counts(offers, 16, 16, linear(1, 0))) == kMostGuessedRows - 16);
    CHECK(choose_draft_steps(offers, 16, 16, linear(1, 0), 0) * 16 <= kMostGuessedRows - 16);
    CHECK(sum(choose_counts(offers, 3 * kMostGuessedRows, 16, linear(1, 0))) == 0);
}

TEST_CASE("a draft pays when its steps are short beside those that it saves") {
    const StepTimes times = linear(10, 0.1);
    const std::vector<Offer> offers{{0.8, 8}};
    const int n = choose_draft_steps(offers, 1, 1, times, 1);
    CHECK(n >= 2);
    CHECK(n < 8);
    CHECK(choose_draft_steps(offers, 1, 1, times, 10) == 0);
    CHECK(choose_draft_steps(std::vector{Offer{0.05, 8}}, 1, 1, times, 1) == 0);
    CHECK(choose_draft_steps({}, 1, 1, times, 1) == 0);
}
