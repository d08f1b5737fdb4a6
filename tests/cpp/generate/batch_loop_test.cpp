// Replies computed step by step, without threads or clocks.
#include "generate/batch_loop.h"

#include <doctest/doctest.h>

#include <chrono>
#include <cstring>
#include <limits>

#include "chatglm/error.h"
#include "format/gguf_layout.h"
#include "generate/reply_samples.h"
#include "model/tiny_model.h"

using namespace chatglm;
using chatglm::test::greedy;
using chatglm::test::TemporaryFile;
using chatglm::test::TinyModel;

namespace {

// Pages in the byte budget of a tiny model.
constexpr int64_t kPageBytes = 3 * 2 * 2 * 64 * 32 * 2;

struct Fixture {
    explicit Fixture(PipelineOptions options = {}, const std::string& content = TinyModel{}.build())
        : file_(content),
          gguf(file_.path()),
          tokenizer(Tokenizer::from_gguf(gguf)),
          model(gguf, *backend),
          loop(model, *backend, *tokenizer, options, DType::f16) {}

    std::shared_ptr<Request> make(std::vector<int32_t> prompt, const GenerationConfig& config,
                                  std::shared_ptr<const LoraChoice> loras = nullptr) {
        const int max_length = std::min(config.max_length, 4096);
        return std::make_shared<Request>(std::move(prompt), config, max_length, model.config(),
                                         loras ? loras : no_loras);
    }
    std::shared_ptr<Request> add(std::vector<int32_t> prompt, const GenerationConfig& config,
                                 std::shared_ptr<const LoraChoice> loras = nullptr) {
        auto request = make(std::move(prompt), config, std::move(loras));
        loop.add(request);
        return request;
    }
    void step() {
        loop.step(stop);
        for (auto& request : loop.take_preempted()) waiting.push_back(std::move(request));
        while (!waiting.empty() && loop.has_room_for(*waiting.front())) {
            loop.add(waiting.front());
            waiting.erase(waiting.begin());
        }
        loop.publish();
    }
    void run() {
        while (loop.size() > 0) step();
    }
    // The reply to a prompt that has the loop for itself.
    std::vector<int32_t> alone(const std::vector<int32_t>& prompt, const GenerationConfig& config) {
        Fixture other;
        const auto request = other.add(prompt, config);
        other.run();
        return take(*request);
    }
    static std::vector<int32_t> take(Request& request) {
        std::vector<int32_t> ids;
        int32_t token = 0;
        while (request.outbox.ready() && !request.outbox.done()) {
            if (request.outbox.take(token, nullptr)) ids.push_back(token);
        }
        return ids;
    }

    std::unique_ptr<Backend> backend = make_cpu_backend(2);
    TemporaryFile file_;
    GgufFile gguf;
    std::unique_ptr<Tokenizer> tokenizer;
    GlmModel model;
    BatchLoop loop;
    std::atomic<bool> stop{false};
    std::shared_ptr<const LoraChoice> no_loras = std::make_shared<LoraChoice>();
    std::vector<std::shared_ptr<Request>> waiting;
};

std::vector<int32_t> some_ids(int n, int seed) {
    std::vector<int32_t> ids(static_cast<size_t>(n));
    uint32_t state = static_cast<uint32_t>(seed) * 2654435761u + 1;
    for (int32_t& id : ids) {
        state = state * 1664525u + 1013904223u;
        id = static_cast<int32_t>((state >> 16) % 160);
    }
    return ids;
}

int cached(const Request& request) {
    return request.outbox.progress().cached_tokens;
}

}  // namespace

TEST_CASE("a running reply has a token in every step while a long prompt is computed beside it") {
    Fixture f({.prefill_chunk = 16});
    const auto reply = f.add(some_ids(5, 1), greedy(200));
    f.step();
    const auto document = f.add(some_ids(300, 2), greedy(3));
    size_t n_given = Fixture::take(*reply).size();
    CHECK(n_given == 1);
    int n_steps = 0;
    while (!document->decoding && !reply->outbox.ended()) {
        f.step();
        CHECK(document->n_computed <= 16 * ++n_steps);
        CHECK(Fixture::take(*reply).size() == 1);
    }
    CHECK(n_steps >= 300 / 16);
}

TEST_CASE("replies in one batch are those computed alone, to the bit") {
    Fixture f({.prefill_chunk = 50});
    std::vector<std::shared_ptr<Request>> requests;
    for (int i = 0; i < 7; ++i) {
        requests.push_back(f.add(some_ids(1 + 37 * i, i), greedy(20)));
        f.step();
    }
    f.run();
    for (int i = 0; i < 7; ++i) {
        CAPTURE(i);
        CHECK(Fixture::take(*requests[static_cast<size_t>(i)]) ==
              f.alone(some_ids(1 + 37 * i, i), greedy(20)));
    }
}

TEST_CASE("a prompt that begins as an earlier one starts where they part") {
    Fixture f;
    auto prompt = some_ids(200, 1);
    const auto first = f.add(prompt, greedy(10));
    f.run();
    CHECK(cached(*first) == 0);
    const auto reply = Fixture::take(*first);

    const auto retried = f.add(prompt, greedy(10));
    f.run();
    CHECK(cached(*retried) == 199);
    CHECK(Fixture::take(*retried) == reply);

    auto next = prompt;
    next.insert(next.end(), reply.begin(), reply.end());
    const auto known = static_cast<int>(next.size()) - 1;  // nothing was computed with the last token
    next.insert(next.end(), {3, 4, 5});
    const auto turn = f.add(next, greedy(10));
    f.run();
    CHECK(cached(*turn) >= known);
    CHECK(Fixture::take(*turn) == f.alone(next, greedy(10)));

    auto other = prompt;
    other.resize(150);
    other.insert(other.end(), {9, 9, 9, 9});
    const auto stranger = f.add(other, greedy(10));
    f.run();
    CHECK(cached(*stranger) >= 150);
    CHECK(Fixture::take(*stranger) == f.alone(other, greedy(10)));
    CHECK(f.loop.pages_in_use() == 0);
    f.loop.clear_prefixes();
    CHECK(f.loop.cache().used_pages() == 0);
}

TEST_CASE("users who ask at once compute what their prompts have in common once") {
    Fixture f({.prefill_chunk = 64});
    const auto system = some_ids(300, 1);
    std::vector<std::shared_ptr<Request>> requests;
    for (int i = 0; i < 4; ++i) {
        auto prompt = system;
        prompt.insert(prompt.end(), {i, i, i});
        requests.push_back(f.add(prompt, greedy(5)));
    }
    f.run();
    CHECK(cached(*requests[0]) == 0);
    for (size_t i = 1; i < 4; ++i) CHECK(cached(*requests[i]) >= 300);
    for (auto& request : requests) {
        const std::vector<int32_t> prompt(request->ids.begin(), request->ids.begin() + 303);
        CHECK(Fixture::take(*request) == f.alone(prompt, greedy(5)));
    }
}

TEST_CASE("several replies to one prompt compute it once, however short, and fit where it fits once") {
    for (const int n : {2, 20, 300}) {
        CAPTURE(n);
        Fixture f({.prefill_chunk = 64, .cache_memory = 12 * kPageBytes});
        const auto prompt = some_ids(n, 1);
        for (int i = 0; i < 5; ++i) {
            const auto request = f.make(prompt, greedy(3 + i));
            CHECK(f.loop.has_room_for(*request));  // 300 tokens are 5 pages
            f.loop.add(request);
        }
        const auto requests = f.loop.running();
        f.run();
        for (size_t i = 0; i < 5; ++i) {
            CHECK(cached(*requests[i]) == (i == 0 ? 0 : n - 1));
            CHECK(Fixture::take(*requests[i]) == f.alone(prompt, greedy(3 + static_cast<int>(i))));
        }
    }
}

TEST_CASE("whoever waited for a prompt that is cancelled computes it") {
    Fixture f({.prefill_chunk = 16});
    const auto prompt = some_ids(200, 1);
    const auto leader = f.add(prompt, greedy(5)), follower = f.add(prompt, greedy(5));
    f.step();
    f.step();
    CHECK_FALSE(follower->sequence);
    leader->outbox.cancel();
    f.run();
    CHECK(Fixture::take(*follower) == f.alone(prompt, greedy(5)));
    CHECK(cached(*follower) > 0);
}

TEST_CASE("replies with other adapters share neither steps nor pages") {
    Fixture f;
    const auto other = std::make_shared<const LoraChoice>();
    const auto prompt = some_ids(80, 1);
    const auto a = f.add(prompt, greedy(12)), b = f.add(prompt, greedy(12), other);
    f.run();
    CHECK(cached(*a) == 0);
    CHECK(cached(*b) == 0);
    const auto again = f.add(prompt, greedy(12), other);
    f.run();
    CHECK(cached(*again) == 79);
    CHECK(Fixture::take(*a) == Fixture::take(*b));
}

TEST_CASE("a cancelled or late reply gives its pages back with the next step, mid-prompt too") {
    Fixture f({.prefill_chunk = 16});
    const auto late = [&] {
        GenerationConfig config = greedy(1000);
        config.max_time = 1e-9;
        return config;
    }();
    const auto prompt = f.add(some_ids(200, 1), greedy(1000)), reply = f.add(some_ids(3, 2), greedy(1000));
    f.step();
    f.step();
    CHECK(f.loop.pages_in_use() > 0);
    prompt->outbox.cancel();
    reply->outbox.cancel();
    const auto expired = f.add(some_ids(3, 3), late);
    f.step();
    CHECK(f.loop.size() == 0);
    CHECK(f.loop.pages_in_use() == 0);
    CHECK(prompt->outbox.finish_reason() == FinishReason::kCancelled);
    CHECK(expired->outbox.finish_reason() == FinishReason::kDeadline);
}

TEST_CASE("a step is undone when nobody wants it any more") {
    Fixture f;
    const auto reply = f.add(some_ids(100, 1), greedy(3));
    f.stop = true;
    f.step();
    CHECK(reply->n_computed == 0);
    f.stop = false;
    f.run();
    CHECK(Fixture::take(*reply) == f.alone(some_ids(100, 1), greedy(3)));
}

TEST_CASE("within a budget earlier replies go first, then the youngest waits; none comes out otherwise") {
    const int64_t budget = 8 * kPageBytes;
    Fixture f({.prefill_chunk = 64, .cache_memory = budget});
    REQUIRE(f.loop.most_pages() == 8);
    std::vector<std::shared_ptr<Request>> requests;
    for (int i = 0; i < 4; ++i) {
        auto request = f.make(some_ids(100 + i, i), greedy(150));
        if (f.loop.has_room_for(*request)) {
            f.loop.add(request);
        } else {
            f.waiting.push_back(request);
        }
        requests.push_back(request);
    }
    CHECK(f.waiting.size() == 0);  // two pages each: their replies will need more
    while (f.loop.size() > 0 || !f.waiting.empty()) {
        f.step();
        CHECK(f.loop.cache().used_pages() <= 8);
        CHECK(f.loop.cache().allocated_bytes() <= budget);
    }
    for (int i = 0; i < 4; ++i) {
        CAPTURE(i);
        CHECK(Fixture::take(*requests[static_cast<size_t>(i)]) == f.alone(some_ids(100 + i, i), greedy(150)));
    }
    CHECK(f.loop.pages_in_use() == 0);
}

namespace {

GenerationConfig with_beams(int num_beams, int max_new_tokens) {
    GenerationConfig config = greedy(max_new_tokens);
    config.num_beams = num_beams;
    config.early_stopping = EarlyStopping::kNever;
    return config;
}

}  // namespace

TEST_CASE("beams find the same in company as alone, and give everything back") {
    Fixture f({.prefill_chunk = 50});
    std::vector<std::shared_ptr<Request>> requests;
    for (int i = 0; i < 6; ++i) {
        const auto config = i % 2 ? greedy(20) : with_beams(2 + i, 20);
        requests.push_back(f.add(some_ids(1 + 37 * i, i), config));
        f.step();
    }
    f.run();
    CHECK(f.loop.pages_in_use() == 0);
    f.loop.clear_prefixes();
    CHECK(f.loop.cache().used_pages() == 0);
    for (int i = 0; i < 6; ++i) {
        CAPTURE(i);
        Request& r = *requests[static_cast<size_t>(i)];
        CHECK(Fixture::take(r) == f.alone(some_ids(1 + 37 * i, i), r.config));
    }
}

TEST_CASE("beams share the pages of their prompt") {
    Fixture f;
    const auto request = f.add(some_ids(10 * 64, 1), with_beams(8, 30));
    while (!request->beams) f.step();
    f.step();
    CHECK(f.loop.cache().used_pages() <= 10 + 8);
    f.run();
}

TEST_CASE("beams that had to give way find the same, within the budget") {
    const int64_t budget = 16 * kPageBytes;
    Fixture f({.prefill_chunk = 64, .cache_memory = budget});
    std::vector<std::shared_ptr<Request>> requests;
    for (int i = 0; i < 3; ++i) {
        auto request = f.make(some_ids(60 + i, i), i == 0 ? greedy(400) : with_beams(4, 120));
        REQUIRE(f.loop.pages_for_longest(*request) <= 16);
        f.waiting.push_back(request);
        requests.push_back(request);
    }
    bool restarted = false, searched = false;
    while (f.loop.size() > 0 || !f.waiting.empty()) {
        f.step();
        CHECK(f.loop.cache().used_pages() <= 16);
        restarted = restarted || (searched && !requests[2]->beams && !requests[2]->ended());
        searched = searched || requests[2]->beams;
    }
    CHECK(restarted);
    for (int i = 0; i < 3; ++i) {
        CAPTURE(i);
        Request& r = *requests[static_cast<size_t>(i)];
        CHECK(Fixture::take(r) == f.alone(some_ids(60 + i, i), r.config));
    }
    CHECK(f.loop.pages_in_use() == 0);
}

TEST_CASE("cancelled beams give their pages back; late ones give what they have") {
    Fixture f;
    const auto cancelled = f.add(some_ids(100, 1), with_beams(4, 1000));
    const auto late = f.add(some_ids(100, 2), with_beams(4, 1000));
    for (int i = 0; i < 8; ++i) f.step();
    cancelled->outbox.cancel();
    late->deadline = std::chrono::steady_clock::now();
    f.step();
    CHECK(f.loop.size() == 0);
    CHECK(f.loop.pages_in_use() == 0);
    CHECK(Fixture::take(*cancelled).empty());
    CHECK_FALSE(Fixture::take(*late).empty());
    CHECK(late->outbox.finish_reason() == FinishReason::kDeadline);
}

TEST_CASE("the best replies of beams have an outbox each, and one that is dropped does not stop the others") {
    Fixture f;
    const auto request = f.make(some_ids(20, 1), with_beams(3, 10));
    for (int i = 0; i < 2; ++i) request->other_outboxes.push_back(std::make_unique<Outbox>(20));
    f.loop.add(request);
    f.step();
    request->outbox.cancel();
    f.run();
    CHECK(request->outbox.finish_reason() == FinishReason::kCancelled);
    const auto second = request->outboxes()[1]->progress(), third = request->outboxes()[2]->progress();
    REQUIRE(second.beam_score);
    CHECK(*second.beam_score >= *third.beam_score);
}

TEST_CASE("numbers that are none end their own reply alone") {
    std::string damaged = TinyModel{}.build();
    const float nan = std::numeric_limits<float>::quiet_NaN();
    const size_t row = test::GgufLayout(damaged).data_begin + 7 * 64 * sizeof(float);  // of token 7
    std::memcpy(damaged.data() + row, &nan, sizeof nan);
    Fixture f({}, damaged);
    const auto bad = f.add({5, 7}, greedy(20)), good = f.add({5, 6}, greedy(20));
    f.run();
    int32_t token = 0;
    CHECK_FALSE(bad->outbox.done());
    CHECK_THROWS_WITH_AS(bad->outbox.take(token, nullptr), doctest::Contains("no number"), Error);
    CHECK(bad->outbox.done());
    CHECK(Fixture::take(*good) == f.alone({5, 6}, greedy(20)));
    CHECK(f.loop.pages_cached() == 1);  // of the good one
}
