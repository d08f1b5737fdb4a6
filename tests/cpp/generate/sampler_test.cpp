#include "generate/sampler.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <memory>
#include <numeric>

#include "chatglm/error.h"

using namespace chatglm;

namespace {

GenerationConfig sampling(float temperature, float top_p, int top_k, int64_t seed = 0) {
    GenerationConfig config;
    config.temperature = temperature;
    config.top_p = top_p;
    config.top_k = top_k;
    config.seed = seed;
    return config;
}

// How often each id is drawn in `n` draws from the same logits.
std::map<int32_t, int> draws(const GenerationConfig& config, const std::vector<float>& logits, int n) {
    Sampler sampler(config);
    std::map<int32_t, int> counts;
    for (int i = 0; i < n; ++i) {
        std::vector<float> copy = logits;
        ++counts[sampler.sample(copy, {})];
    }
    return counts;
}

}  // namespace

TEST_CASE("greedy takes the largest logit, the first of equals, never NaN") {
    GenerationConfig greedy;
    greedy.do_sample = false;
    Sampler sampler(greedy);
    std::vector<float> logits{1, 5, 5, std::nanf(""), 2};
    CHECK(sampler.sample(logits, {}) == 1);
    CHECK(argmax(std::vector<float>{std::nanf(""), -3, -2}) == 2);
    CHECK(argmax(std::vector<float>{-std::numeric_limits<float>::infinity(), -1}) == 1);
    std::vector<float> hot{1, 2, 3};
    CHECK(Sampler(sampling(0, 0.7f, 0)).sample(hot, {}) == 2);
}

TEST_CASE("draws follow the softmax at the temperature") {
    const std::vector<float> logits{0.0f, 1.0f, 2.0f, -1.0f};
    for (const float temperature : {0.5f, 1.0f, 2.0f}) {
        double sum = 0;
        for (const float x : logits) sum += std::exp(x / temperature);
        const int n = 40000;
        auto counts = draws(sampling(temperature, 1.0f, 0), logits, n);
        for (size_t i = 0; i < logits.size(); ++i) {
            const double p = std::exp(logits[i] / temperature) / sum;
            const double tolerance = 5 * std::sqrt(n * p * (1 - p));  // five standard deviations
            CHECK(std::abs(counts[static_cast<int32_t>(i)] - n * p) < tolerance);
        }
    }
}

TEST_CASE("top-p keeps the fewest best tokens that reach the mass, also in a large vocabulary") {
    // Probabilities 0.5, 0.25, 0.125, ... of a thousand tokens in scattered places.
    std::vector<float> logits(1000, -1e9f);
    for (int i = 0; i < 20; ++i)
        logits[static_cast<size_t>(i * 37 % 1000)] = static_cast<float>(-i * std::log(2.0));
    const auto counts = draws(sampling(1.0f, 0.8f, 0), logits, 2000);
    CHECK(counts.size() == 3);
    CHECK(counts.contains(0));
    CHECK(counts.contains(37));
    CHECK(counts.contains(74));
    // A flat distribution, for which the first 256 candidates are not enough.
    const std::vector<float> flat(5000, 0.0f);
    const auto wide = draws(sampling(1.0f, 0.5f, 0), flat, 20000);
    for (const auto& [id, count] : wide) CHECK(id < 2500);
    CHECK(wide.size() > 2000);
}

TEST_CASE("top-k keeps k tokens and top-p then works on what is left") {
    const std::vector<float> logits{3, 2, 1, 0, -1};
    CHECK(draws(sampling(1.0f, 1.0f, 2), logits, 2000).size() == 2);
    CHECK(draws(sampling(1.0f, 1.0f, 99), logits, 20000).size() == 5);
    CHECK(draws(sampling(1.0f, 0.5f, 2), logits, 2000).size() == 1);  // 0.73 of the two that are left
    CHECK(draws(sampling(1.0f, 0.0f, 0), logits, 100).size() == 1);
}

TEST_CASE("the repetition penalty lowers what was said, once per token, whatever its sign") {
    GenerationConfig config;
    config.do_sample = false;
    config.repetition_penalty = 2.0f;
    std::vector<float> positive{3.0f, 2.0f};
    CHECK(Sampler(config).sample(positive, std::vector<int32_t>{0, 0, 0}) == 1);
    CHECK(positive[0] == 1.5f);
    std::vector<float> negative{-1.0f, -1.5f};
    CHECK(Sampler(config).sample(negative, std::vector<int32_t>{0}) == 1);
    std::vector<float> outside{1.0f, 0.0f};
    CHECK(Sampler(config).sample(outside, std::vector<int32_t>{-5, 99}) == 0);
}

TEST_CASE("a large vocabulary is cut exactly where a sorted one is") {
    // Many equal logits, so that ties fall on the border.
    std::vector<float> logits(20000);
    for (size_t i = 0; i < logits.size(); ++i) {
        logits[i] = static_cast<float>(i * 7919 % 1000) / 250.0f;
    }
    std::vector<size_t> order(logits.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return logits[a] > logits[b]; });
    double all = 0;
    for (const float x : logits) all += std::exp(static_cast<double>(x));
    for (const float top_p : {0.01f, 0.3f, 0.7f, 0.999f}) {
        size_t n_kept = 0;
        for (double reached = 0; reached < static_cast<double>(top_p) * all; ++n_kept) {
            reached += std::exp(static_cast<double>(logits[order[n_kept]]));
        }
        auto copy = logits;
        const auto p = Sampler(sampling(1.0f, top_p, 0)).distribution(copy, {});
        size_t n_wrong = 0;
        for (size_t rank = 0; rank < order.size(); ++rank) n_wrong += (p[order[rank]] > 0) != (rank < n_kept);
        CHECK(n_wrong <= 1);  // the sums differ in their last place
        // What is drawn is what the distribution has.
        for (const auto& [id, count] : draws(sampling(1.0f, top_p, 0), logits, 200)) {
            CHECK(p[static_cast<size_t>(id)] > 0);
        }
    }
    for (const int top_k : {1, 5, 300, 19999}) {
        auto copy = logits;
        const auto p = Sampler(sampling(1.0f, 1.0f, top_k)).distribution(copy, {});
        size_t n_wrong = 0;
        for (size_t rank = 0; rank < order.size(); ++rank) {
            n_wrong += (p[order[rank]] > 0) != (rank < static_cast<size_t>(top_k));
        }
        CHECK(n_wrong == 0);
    }
}

TEST_CASE("logits that leave no choice, or hardly one, are drawn from all the same") {
    const float nan = std::nanf(""), infinity = std::numeric_limits<float>::infinity();
    const std::vector<float> gaps{nan, -infinity, 1.0f, nan, 1.0f, -infinity};
    for (const auto& [id, count] : draws(sampling(1.0f, 1.0f, 0), gaps, 100)) CHECK((id == 2 || id == 4));
    CHECK(draws(sampling(1.0f, 1.0f, 0), gaps, 100).size() == 2);
    CHECK(draws(sampling(1.0f, 0.0f, 0), gaps, 20).size() == 1);
    for (const float temperature : {1e-45f, 1e-30f, 1e-3f}) {
        const auto counts = draws(sampling(temperature, 1.0f, 0), {1.0f, 2.0f, 2.0f, -1e30f}, 100);
        CHECK(counts.size() == 2);
        CHECK(counts.contains(1));
    }
    CHECK(draws(sampling(1e30f, 1.0f, 0), {1.0f, 2.0f, 3.0f}, 200).size() == 3);
    CHECK(draws(sampling(1.0f, 1.0f, 0), {3e38f, -3e38f, 3e38f}, 100).size() == 2);
    CHECK(draws(sampling(1.0f, 0.7f, 0), {5.0f}, 5).size() == 1);
}

TEST_CASE("presence and frequency count what the reply has, the repetition penalty the prompt too") {
    GenerationConfig config;
    config.do_sample = false;
    config.presence_penalty = 1.0f;
    config.frequency_penalty = 0.5f;
    const std::vector<int32_t> history{0, 0, 1, 2, 2};
    std::vector<float> logits{5, 5, 5, 5};
    Sampler(config).sample(logits, history, 2);
    CHECK(logits == std::vector<float>{5, 3.5f, 3, 5});
    config.repetition_penalty = 2.0f;
    logits = {5, 5, 5, 5};
    Sampler(config).sample(logits, history, 2);
    CHECK(logits == std::vector<float>{2.5f, 1, 0.5f, 5});
    config.penalty_last_n = 1;
    logits = {5, 5, 5, 5};
    Sampler(config).sample(logits, history, 2);
    CHECK(logits == std::vector<float>{5, 5, 1, 5});
    config.penalty_last_n = 0;
    logits = {5, 5, 5, 5};
    Sampler(config).sample(logits, history, 2);
    CHECK(logits == std::vector<float>{5, 5, 5, 5});
}

TEST_CASE("a bias moves a token, however large it is, and -inf rules it out") {
    GenerationConfig config;
    config.do_sample = false;
    config.logit_bias = {{0, 3e38f}, {1, -std::numeric_limits<float>::infinity()}, {99, 5.0f}};
    std::vector<float> logits{3e38f, 5, 4};
    CHECK(Sampler(config).sample(logits, {}) == 0);
    CHECK(std::isfinite(logits[0]));
    config.logit_bias.erase(0);
    logits = {0, 5, 4};
    CHECK(Sampler(config).sample(logits, {}) == 2);
    config.logit_bias = {{0, -std::numeric_limits<float>::infinity()}};
    std::vector<float> only{1.0f};
    CHECK_THROWS_WITH_AS(Sampler(config).sample(only, {}), doctest::Contains("No token can come next"),
                         Error);
}

TEST_CASE("end tokens wait for min_new_tokens, and never come with ignore_eos") {
    GenerationConfig config;
    config.do_sample = false;
    config.min_new_tokens = 2;
    config.stop_token_ids = {2};
    const std::vector<float> likes_ends{0, 9, 8, 1};
    const auto choice = [&](std::vector<int32_t> history) {
        auto logits = likes_ends;
        return Sampler(config, {1}).sample(logits, history, 1);
    };
    CHECK(choice({5}) == 3);
    CHECK(choice({5, 3}) == 3);
    CHECK(choice({5, 3, 3}) == 1);
    config.ignore_eos = true;
    CHECK(choice({5, 3, 3}) == 2);
    const Sampler sampler(config, {1});
    CHECK(sampler.is_end(1));
    CHECK(sampler.is_end(2));
    CHECK(!sampler.is_end(3));
}

TEST_CASE("log-probabilities are the model's own, before all settings") {
    GenerationConfig config = sampling(0.1f, 0.5f, 1);
    config.logprobs = 2;
    config.logit_bias = {{3, 100.0f}};
    Sampler sampler(config);
    std::vector<float> logits{1, 3, 2, 0};
    CHECK(sampler.sample(logits, {}) == 3);
    const double all = std::log(std::exp(1.0) + std::exp(3.0) + std::exp(2.0) + 1);
    REQUIRE(sampler.logprobs() != nullptr);
    CHECK(sampler.logprobs()->logprob == doctest::Approx(-all));
    REQUIRE(sampler.logprobs()->top.size() == 2);
    CHECK(sampler.logprobs()->top[0].id == 1);
    CHECK(sampler.logprobs()->top[0].logprob == doctest::Approx(3 - all));
    CHECK(sampler.logprobs()->top[1].id == 2);
    CHECK(Sampler(sampling(1, 1, 0)).logprobs() == nullptr);
}

namespace {

// Allows 'length' tokens below `vocab`, then the end token 0.
class Counted : public Constraint {
  public:
    explicit Counted(int length) : left_(length) {}
    void fill_mask(std::span<uint32_t> mask) override { mask[0] = left_ > 0 ? 0b0110u : 0b0001u; }
    bool accept(int32_t id) override {
        if (id < 1 || id > 2) throw Error("not allowed");
        return --left_ == 0 && ends_;
    }
    bool ends_ = false;

  private:
    int left_;
};

}  // namespace

TEST_CASE("a constraint's mask bounds every draw, and its end is the reply's") {
    for (const bool ends : {false, true}) {
        GenerationConfig config = sampling(1.5f, 1.0f, 0);
        config.min_new_tokens = 50;  // a text that is complete ends all the same
        auto constraint = std::make_shared<Counted>(5);
        constraint->ends_ = ends;
        Sampler sampler(config, {0}, constraint);
        std::vector<int32_t> ids;
        for (int i = 0; i < 5; ++i) {
            CHECK(!sampler.complete());
            std::vector<float> logits{9, 1, 0, 9, 9, 9};
            ids.push_back(sampler.sample(logits, ids));
            CHECK((ids.back() == 1 || ids.back() == 2));
        }
        CHECK(sampler.complete() == ends);
        std::vector<float> logits{-9, 1, 0, 9, 9, 9};
        if (!ends) CHECK(sampler.is_end(sampler.sample(logits, ids)));
    }
}

TEST_CASE("an alternative has a seed of its own, and a fresh seed stays fresh") {
    GenerationConfig config;
    config.seed = 7;
    CHECK(config.alternative(0).seed == 7);
    CHECK(config.alternative(3).seed == 10);
    config.seed = std::numeric_limits<int64_t>::max();
    CHECK(config.alternative(1).seed == 0);
    config.seed = -1;
    CHECK(config.alternative(3).seed == -1);
}

TEST_CASE("a seed fixes the choices") {
    std::vector<float> logits(100);
    for (size_t i = 0; i < logits.size(); ++i) logits[i] = static_cast<float>(i % 7);
    const auto sequence = [&](int64_t seed) {
        Sampler sampler(sampling(1.0f, 0.9f, 0, seed));
        std::vector<int32_t> ids;
        for (int i = 0; i < 50; ++i) {
            auto copy = logits;
            ids.push_back(sampler.sample(copy, {}));
        }
        return ids;
    };
    CHECK(sequence(42) == sequence(42));
    CHECK(sequence(42) != sequence(43));
}

TEST_CASE("settings out of range are named with their value") {
    const auto refuses = [](auto change, const char* name) {
        GenerationConfig config;
        change(config);
        CHECK_THROWS_WITH_AS(config.validate(), doctest::Contains(name), InvalidArgument);
    };
    refuses([](auto& c) { c.top_p = 1.5f; }, "top_p is 1.5");
    refuses([](auto& c) { c.top_k = -1; }, "top_k is -1");
    refuses([](auto& c) { c.temperature = std::nanf(""); }, "temperature");
    refuses([](auto& c) { c.temperature = -1; }, "temperature");
    refuses([](auto& c) { c.repetition_penalty = 0; }, "repetition_penalty");
    refuses([](auto& c) { c.max_length = 0; }, "max_length is 0");
    refuses([](auto& c) { c.max_new_tokens = -2; }, "max_new_tokens is -2");
    refuses([](auto& c) { c.min_p = 1.5f; }, "min_p is 1.5");
    refuses([](auto& c) { c.typical_p = 0; }, "typical_p is 0");
    refuses([](auto& c) { c.presence_penalty = std::nanf(""); }, "presence_penalty");
    refuses([](auto& c) { c.frequency_penalty = INFINITY; }, "frequency_penalty");
    refuses([](auto& c) { c.penalty_last_n = -2; }, "penalty_last_n is -2");
    refuses([](auto& c) { c.logit_bias = {{7, std::nanf("")}}; }, "logit_bias of token 7");
    refuses([](auto& c) { c.stop = {"a", ""}; }, "empty");
    refuses([](auto& c) { c.stop = {"\xE4\xBD"}; }, "UTF-8");
    refuses([](auto& c) { c.min_new_tokens = -1; }, "min_new_tokens is -1");
    refuses([](auto& c) { c.max_new_tokens = 3, c.min_new_tokens = 4; }, "at most max_new_tokens");
    refuses([](auto& c) { c.logprobs = 1001; }, "logprobs is 1001");
    GenerationConfig ids;
    ids.stop_token_ids = {3};
    ids.validate_ids(4);
    CHECK_THROWS_WITH_AS(ids.validate_ids(3), doctest::Contains("stop_token_ids names token 3"),
                         InvalidArgument);
    ids.logit_bias = {{-1, 0.0f}};
    CHECK_THROWS_WITH_AS(ids.validate_ids(4), doctest::Contains("logit_bias names token -1"),
                         InvalidArgument);
    GenerationConfig().validate();
}
