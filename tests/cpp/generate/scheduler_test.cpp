#include "generate/scheduler.h"

#include <doctest/doctest.h>

using namespace chatglm;

namespace {

Work prompt(int64_t number, int n_computed, int n_ids) {
    return {.number = number, .n_computed = n_computed, .n_ids = n_ids};
}

Work reply(int64_t number, int n_ids, int n_rows = 1) {
    return {.number = number, .n_computed = n_ids - n_rows, .n_ids = n_ids, .decoding = true};
}

// Rows that work[index] has in the plan.
int rows(const std::vector<Share>& plan, size_t index) {
    int n = 0;
    for (const Share& share : plan) n += share.index == index ? share.end - share.begin : 0;
    return n;
}

constexpr StepLimits kLimits{.alone = 512, .mixed = 64};

}  // namespace

TEST_CASE("without work there is nothing to plan") {
    CHECK(plan_step({}, kLimits).empty());
}

TEST_CASE("every reply has its rows in each step, and a prompt what the limit leaves") {
    const std::vector<Work> work{reply(1, 100), reply(2, 7, 4), prompt(3, 0, 10000)};
    const auto plan = plan_step(work, kLimits);
    CHECK(rows(plan, 0) == 1);
    CHECK(rows(plan, 1) == 4);
    CHECK(rows(plan, 2) == kLimits.mixed);
}

TEST_CASE("a prompt alone has the larger limit and is cut at its end") {
    CHECK(rows(plan_step(std::vector{prompt(1, 0, 10000)}, kLimits), 0) == 512);
    const auto plan = plan_step(std::vector{prompt(1, 9900, 10000)}, kLimits);
    REQUIRE(plan.size() == 1);
    CHECK(plan[0].begin == 9900);
    CHECK(plan[0].end == 10000);
}

TEST_CASE("a short question overtakes a long document, which goes on") {
    const std::vector<Work> work{prompt(1, 5120, 30000), prompt(2, 0, 100)};
    const auto plan = plan_step(work, kLimits);
    CHECK(rows(plan, 1) == 100);
    CHECK(rows(plan, 0) == 412);
    // However many short ones there are, the oldest prompt has half.
    std::vector<Work> many{prompt(1, 0, 30000)};
    for (int i = 2; i < 40; ++i) many.push_back(prompt(i, 0, 90));
    CHECK(rows(plan_step(many, kLimits), 0) == 256);
}

TEST_CASE("of prompts that need as much the older one comes first") {
    const std::vector<Work> work{prompt(3, 0, 1000), prompt(1, 0, 1000), prompt(2, 0, 1000)};
    const auto plan = plan_step(work, kLimits);
    CHECK(rows(plan, 1) == 256);
    CHECK(rows(plan, 2) == 256);
    CHECK(rows(plan, 0) == 0);
}

TEST_CASE("a context that must be computed in one step is, whatever the limit") {
    Work first = prompt(1, 0, 700);
    first.first_chunk = 690;
    CHECK(rows(plan_step(std::vector{first, reply(2, 9)}, kLimits), 0) == 690);
    first.n_computed = 690;
    CHECK(rows(plan_step(std::vector{first, reply(2, 9)}, kLimits), 0) == 10);
}

TEST_CASE("replies with other adapters take turns") {
    const int a = 0, b = 0;
    std::vector<Work> work{reply(1, 10), reply(2, 20), reply(3, 30)};
    work[0].group = work[2].group = &a;
    work[1].group = &b;
    std::vector<int> n_rows(3);
    for (int64_t step = 1; step <= 10; ++step) {
        for (const Share& share : plan_step(work, kLimits)) {
            work[share.index].last_step = step;
            n_rows[share.index] += share.end - share.begin;
        }
    }
    CHECK(n_rows == std::vector<int>{5, 5, 5});
}

TEST_CASE("the limits follow the speed of the machine") {
    Pace pace(512, 0.25);
    CHECK(pace.limits().mixed < 64);                            // nothing is known yet
    for (int i = 0; i < 20; ++i) pace.note(64, 65, 65 * 0.01);  // 10 ms a row
    CHECK(pace.limits().mixed == 25);
    CHECK(pace.limits().alone == 100);
    for (int i = 0; i < 40; ++i) pace.note(64, 65, 65 * 1e-5);
    CHECK(pace.limits().mixed == 512);
    for (int i = 0; i < 40; ++i) pace.note(64, 65, 65);  // a second a row: never less than a few rows
    CHECK(pace.limits().mixed == 8);
    Pace small(5, 0.25);
    CHECK(small.limits().alone == 5);
    CHECK(small.limits().mixed == 5);
}
