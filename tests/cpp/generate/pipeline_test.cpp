#include "chatglm/pipeline.h"

#include <doctest/doctest.h>

#include <thread>

#include "chatglm/error.h"
#include "generate/reply_samples.h"
#include "model/tiny_model.h"

using namespace chatglm;
using chatglm::test::Sevens;
using chatglm::test::TemporaryFile;
using chatglm::test::TinyModel;

namespace {

GenerationConfig greedy(int max_new_tokens) {
    GenerationConfig config;
    config.do_sample = false;
    config.max_new_tokens = max_new_tokens;
    return config;
}

// A reply that goes on for long.
GenerationConfig unbounded() {
    GenerationConfig config = greedy(-1);
    config.max_length = 4096;
    return config;
}

std::vector<int32_t> finish(Generation& generation) {
    std::vector<int32_t> ids;
    int32_t token = 0;
    while (!generation.done()) {
        if (generation.step(token)) ids.push_back(token);
    }
    return ids;
}

}  // namespace

TEST_CASE("a longer prompt continues from the cache and gives what an empty cache gives") {
    const TemporaryFile file(TinyModel{}.build());
    Pipeline pipeline(file.path());
    std::vector<int32_t> prompt{5, 6, 7, 8, 9};
    const auto first = finish(*pipeline.start(prompt, greedy(6)));
    prompt.insert(prompt.end(), first.begin(), first.end());
    prompt.push_back(11);
    const auto second = pipeline.start(prompt, greedy(6));
    Pipeline fresh(file.path());
    CHECK(finish(*second) == finish(*fresh.start(prompt, greedy(6))));
    CHECK(second->progress().cached_tokens >= 5);
}

TEST_CASE("two replies that are computed in turns do not mix") {
    const TemporaryFile file(TinyModel{}.build());
    Pipeline pipeline(file.path());
    const auto a_alone = finish(*pipeline.start({5, 6, 7}, greedy(10)));
    const auto b_alone = finish(*pipeline.start({9, 8}, greedy(10)));
    const auto a = pipeline.start({5, 6, 7}, greedy(10)), b = pipeline.start({9, 8}, greedy(10));
    std::vector<int32_t> a_ids, b_ids;
    int32_t token = 0;
    while (!a->done() || !b->done()) {
        if (a->step(token)) a_ids.push_back(token);
        if (b->step(token)) b_ids.push_back(token);
    }
    CHECK(a_ids == a_alone);
    CHECK(b_ids == b_alone);
}

TEST_CASE("a step that is interrupted can be taken again") {
    const TemporaryFile file(TinyModel{}.build());
    PipelineOptions options;
    options.max_sequences = 1;
    Pipeline pipeline(file.path(), options);
    const auto expected = finish(*pipeline.start({5, 6, 7}, greedy(8)));
    auto other = pipeline.start({9, 8}, unbounded());
    const auto reply = pipeline.start({5, 6, 7}, greedy(8));  // waits for the other one
    int32_t token = 0;
    CHECK_THROWS_AS(reply->step(token, [] { return true; }), Interrupted);
    other.reset();
    CHECK(finish(*reply) == expected);
}

TEST_CASE("a chat ends before a stop text, for callbacks and in what is returned") {
    TinyModel model;
    model.chat_template = "{{ messages[0].content }}";
    const TemporaryFile file(model.build());
    Pipeline pipeline(file.path());
    const std::vector<ChatMessage> messages{{"user", "abc"}};
    GenerationConfig config = greedy(8);
    const std::string whole = pipeline.chat(messages, config).content;
    REQUIRE(whole.size() > 4);
    config.stop = {whole.substr(2, 2)};
    const std::string expected = whole.substr(0, whole.find(config.stop[0]));
    std::string shown;
    const auto show = [&](std::string_view piece) {
        shown += piece;
        return true;
    };
    CHECK(pipeline.chat(messages, config, show).content == expected);
    CHECK(shown == expected);
}

TEST_CASE("a constraint and the log-probabilities go with each token of a reply") {
    const TemporaryFile file(TinyModel{}.build());
    Pipeline pipeline(file.path());
    GenerationConfig config = greedy(8);
    config.logprobs = 1;
    const auto reply = pipeline.start({5, 6}, config, std::make_shared<Sevens>());
    int n = 0;
    int32_t token = 0;
    while (!reply->done()) {
        if (!reply->step(token)) continue;
        ++n;
        CHECK(token == 7);
        REQUIRE(reply->logprobs().has_value());
        CHECK(reply->logprobs()->logprob <= reply->logprobs()->top.at(0).logprob);
    }
    CHECK(n == 3);
    CHECK(reply->finish_reason() == FinishReason::kStop);
    config.stop = {"x"};
    CHECK_THROWS_WITH_AS(pipeline.start({5}, config, std::make_shared<Sevens>()), doctest::Contains("stop"),
                         InvalidArgument);
    config.stop.clear();
    config.stop_token_ids = {1 << 20};
    CHECK_THROWS_WITH_AS(pipeline.start({5}, config), doctest::Contains("stop_token_ids"), InvalidArgument);
}

TEST_CASE("a prompt that does not fit is refused with both numbers, or cut when asked") {
    const TemporaryFile file(TinyModel{}.build());
    Pipeline pipeline(file.path());
    GenerationConfig config = greedy(2);
    config.max_length = 8;
    const std::vector<int32_t> prompt(9, 5);
    CHECK_THROWS_WITH_AS(pipeline.start(prompt, config), doctest::Contains("9 tokens, and 8 are allowed"),
                         ContextLengthError);
    config.max_context_length = 4;
    CHECK(pipeline.start(prompt, config)->progress().prompt_tokens == 4);
    CHECK_THROWS_AS(pipeline.start({}, config), InvalidArgument);
    CHECK_THROWS_AS(pipeline.start({160}, config), InvalidArgument);
    CHECK_THROWS_AS(pipeline.start({-1}, config), InvalidArgument);
}

TEST_CASE("a reply may outlive its pipeline") {
    const TemporaryFile file(TinyModel{}.build());
    std::unique_ptr<Generation> reply;
    {
        Pipeline pipeline(file.path());
        reply = pipeline.start({5, 6, 7}, greedy(3));
    }
    CHECK(finish(*reply).size() <= 3);
}

TEST_CASE("a chat hands the thought and the answer to callbacks of their own") {
    for (const bool thinks : {false, true}) {
        TinyModel model;
        model.chat_template = thinks ? "{{ messages[0].content }}<think>" : "{{ messages[0].content }}";
        const TemporaryFile file(model.build());
        Pipeline pipeline(file.path());
        std::string text, thought;
        const auto append = [](std::string& to) {
            return [&to](std::string_view piece) {
                to += piece;
                return true;
            };
        };
        const std::vector<ChatMessage> messages{{"user", "abc"}};
        const ChatMessage reply = pipeline.chat(messages, greedy(8), append(text), append(thought));
        CHECK(text == reply.content);
        CHECK(thought == reply.reasoning_content);
        CHECK(text.empty() == thinks);
        CHECK(thought.empty() == !thinks);
        CHECK(pipeline.chat(messages, greedy(8)) == reply);

        int calls = 0;
        const auto stop = [&](std::string_view) { return ++calls > 1; };
        const ChatMessage stopped = pipeline.chat(messages, greedy(8), stop, stop);
        CHECK(calls == 1);
        CHECK((stopped.content + stopped.reasoning_content).size() < (text + thought).size());
    }
}
