// The bookkeeping of beams, with distributions written out by hand.
#include "generate/beam_search.h"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>

using namespace chatglm;

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int32_t kEnd = 0;

GenerationConfig with_beams(int num_beams, float length_penalty = 1.0f,
                            EarlyStopping early_stopping = EarlyStopping::kNo) {
    GenerationConfig config;
    config.num_beams = num_beams;
    config.length_penalty = length_penalty;
    config.early_stopping = early_stopping;
    return config;
}

// One step in which every beam has the probabilities `of` gives for its ids.
template <class Of>
void advance(BeamSearch& search, const Of& of) {
    std::vector<std::vector<float>> rows;
    for (const auto& beam : search.running()) {
        rows.push_back(of(beam.ids));
        for (float& p : rows.back()) p = std::log(p);
    }
    std::vector<std::span<float>> spans(rows.begin(), rows.end());
    search.advance(spans);
}

using Ids = std::vector<int32_t>;

}  // namespace

TEST_CASE("beams: a reply that begins with a less likely token can win") {
    // Greedy takes 1 (0.6), after which nothing is likely; 2 (0.4) goes on with certainty.
    const auto of = [](const Ids& ids) -> std::vector<float> {
        if (ids.size() == 1) return {0.0f, 0.6f, 0.4f, 0.0f};
        if (ids.back() == 1) return {0.25f, 0.25f, 0.25f, 0.25f};
        if (ids.back() == 2) return {0.0f, 0.0f, 0.0f, 1.0f};
        return {1.0f, 0.0f, 0.0f, 0.0f};
    };
    BeamSearch search({9}, with_beams(2), {kEnd}, 10);
    while (!search.done()) advance(search, of);
    const auto best = search.best(1);
    REQUIRE(best.size() == 1);
    CHECK(best[0].ids == Ids{2, 3});
    CHECK(best[0].stopped);
    CHECK(best[0].score == doctest::Approx(std::log(0.4f) / 3));  // the token that ends it counts
}

TEST_CASE("beams: each says which one it continues") {
    BeamSearch search({9}, with_beams(2), {kEnd}, 10);
    advance(search, [](const Ids&) { return std::vector<float>{0.0f, 0.1f, 0.9f}; });
    REQUIRE(search.running().size() == 2);
    CHECK(search.running()[0].ids == Ids{9, 2});
    CHECK(search.running()[1].ids == Ids{9, 1});
    CHECK(search.running()[1].parent == 0);
    advance(search, [](const Ids& ids) {
        return ids.back() == 1 ? std::vector<float>{0.0f, 0.5f, 0.5f} : std::vector<float>{0.8f, 0.1f, 0.1f};
    });
    // 0.09 twice from the better beam, of which the smaller id is the better; 0.05 from the other one.
    CHECK(search.running()[0].ids == Ids{9, 2, 1});
    CHECK(search.running()[1].ids == Ids{9, 2, 2});
    CHECK(search.running()[0].parent == 0);
    CHECK(search.running()[1].parent == 0);
}

TEST_CASE("beams: the length ends all that run, and the best come first") {
    BeamSearch search({9}, with_beams(3), {kEnd}, 3);
    const auto of = [](const Ids&) { return std::vector<float>{0.1f, 0.2f, 0.3f, 0.4f}; };
    advance(search, of);
    CHECK_FALSE(search.done());
    advance(search, of);
    CHECK(search.done());
    const auto best = search.best(3);
    REQUIRE(best.size() == 3);
    CHECK(best[0].ids == Ids{3, 3});
    CHECK_FALSE(best[0].stopped);
    CHECK(best[0].score == doctest::Approx(std::log(0.4f)));
    CHECK(best[0].score >= best[1].score);
    CHECK(best[1].score >= best[2].score);
}

TEST_CASE("beams: when a search with enough complete replies ends is what early_stopping says") {
    // Two replies are complete after the second step; with a penalty of 2 longer ones would be better.
    const auto of = [](const Ids& ids) {
        return ids.size() == 1 ? std::vector<float>{0.0f, 0.5f, 0.5f}
                               : std::vector<float>{0.5f, 0.25f, 0.25f};
    };
    const auto steps = [&](EarlyStopping early_stopping, float length_penalty) {
        BeamSearch search({9}, with_beams(2, length_penalty, early_stopping), {kEnd}, 12);
        int n = 0;
        for (; !search.done(); ++n) advance(search, of);
        return n;
    };
    CHECK(steps(EarlyStopping::kYes, 2.0f) == 2);
    CHECK(steps(EarlyStopping::kNo, 0.0f) == 2);
    CHECK(steps(EarlyStopping::kNever, 2.0f) > steps(EarlyStopping::kNo, 2.0f));
}

TEST_CASE("beams: tokens that are ruled out are never taken, and what is missing is missing") {
    BeamSearch search({9}, with_beams(3), {kEnd}, 10);
    std::vector<float> row{-1.0f, -kInfinity, -kInfinity, -kInfinity};
    std::vector<std::span<float>> rows{row};
    search.advance(rows);
    CHECK(search.done());
    REQUIRE(search.best(3).size() == 1);
    CHECK(search.best(3)[0].ids.empty());
    CHECK(search.best(3)[0].stopped);
}

TEST_CASE("beams: before the end what runs counts, too") {
    BeamSearch search({9}, with_beams(2), {kEnd}, 10);
    CHECK(search.best(2).empty());
    advance(search, [](const Ids&) { return std::vector<float>{0.5f, 0.4f, 0.1f}; });
    const auto best = search.best(2);
    REQUIRE(best.size() == 2);
    CHECK(best[0].ids.empty());
    CHECK(best[1].ids == Ids{1});
}

TEST_CASE("log_softmax gives the logarithms of probabilities") {
    std::vector<float> logits{1.0f, 2.0f, 700.0f, 700.0f};
    log_softmax(logits);
    CHECK(logits[2] == doctest::Approx(std::log(0.5f)));
    CHECK(logits[3] == logits[2]);
    CHECK(logits[0] == doctest::Approx(-699.0f + std::log(0.5f)));
}
