#include "chatglm/chat.h"

#include <doctest/doctest.h>

#include "chatglm/error.h"
#include "chatglm/pipeline.h"
#include "generate/reply_samples.h"
#include "model/tiny_model.h"

using namespace chatglm;
using chatglm::test::greedy;
using chatglm::test::Sevens;
using chatglm::test::TemporaryFile;
using chatglm::test::TinyModel;

namespace {

constexpr int32_t kCall = 40;  // a token that spells a whole call of a tool

TinyModel chat_model() {
    TinyModel model;
    model.chat_template = "{% for m in messages %}{{ m.metadata }}{{ m.content }}{% endfor %}{{ tools }}";
    model.pieces = {{kCall, "find\n{\"x\": 1}"}};
    return model;
}

const std::string kTools = R"([{"type": "function", "function": {"name": "find", "parameters": {}}}])";

}  // namespace

TEST_CASE("a call of a tool comes as a piece of its own and in the message") {
    const TemporaryFile file(chat_model().build());
    Pipeline pipeline(file.path());
    GenerationConfig config = greedy(1);
    config.logit_bias = {{kCall, 1000.0f}};
    const std::vector<ChatMessage> messages{{"user", "abc"}};
    const auto stream = pipeline.stream_chat(messages, config, {kTools});
    std::vector<DeltaMessage> deltas;
    for (DeltaMessage delta; stream->next(delta);) deltas.push_back(delta);
    REQUIRE(deltas.size() == 1);
    CHECK(deltas[0].content.empty());
    CHECK(deltas[0].token_ids == std::vector<int32_t>{kCall});
    REQUIRE(deltas[0].tool_calls.size() == 1);
    CHECK(deltas[0].tool_calls[0].index == 0);
    CHECK(deltas[0].tool_calls[0].call.function == FunctionMessage{"find", "{\"x\": 1}"});
    CHECK(stream->message().tool_calls.size() == 1);
    CHECK(stream->generation().finish_reason() == FinishReason::kLength);
    CHECK(pipeline.chat(messages, config, ChatOptions{kTools}) == stream->message());
}

TEST_CASE("the pieces of a reply are the reply, each token with one of them") {
    const TemporaryFile file(chat_model().build());
    Pipeline pipeline(file.path());
    GenerationConfig config = greedy(20);
    config.logprobs = 2;
    const std::vector<ChatMessage> messages{{"user", "abc"}};
    std::string text;
    size_t n_tokens = 0;
    const auto add = [&](const DeltaMessage& delta) {
        text += delta.content;
        n_tokens += delta.token_ids.size();
        CHECK(delta.logprobs.size() == delta.token_ids.size());
        return true;
    };
    const ChatMessage reply = pipeline.chat(messages, config, ChatOptions{}, add);
    CHECK(reply.content == text);
    CHECK(n_tokens == 20);
    CHECK(pipeline.chat(messages, config) == reply);

    // Ended by who receives them, or by the end of the stream, the place is free again.
    int n = 0;
    const ChatMessage part =
        pipeline.chat(messages, config, ChatOptions{}, [&](const DeltaMessage&) { return ++n < 3; });
    CHECK(n == 3);
    CHECK(reply.content.starts_with(part.content));
    CHECK(part.content.size() < reply.content.size());
    GenerationConfig endless = greedy(-1);
    endless.ignore_eos = true;
    auto stream = pipeline.stream_chat(messages, endless);
    DeltaMessage delta;
    CHECK(stream->next(delta));
    stream->finish();
    CHECK(stream->generation().finish_reason() == FinishReason::kCancelled);
    CHECK(!stream->next(delta));
}

TEST_CASE("a format rules the answer, and goes with no tools") {
    const TemporaryFile file(chat_model().build());
    Pipeline pipeline(file.path());
    ChatOptions options;
    options.constraint = std::make_shared<Sevens>();
    const ChatMessage reply = pipeline.chat({{"user", "abc"}}, greedy(8), options);
    CHECK(reply.content == "hhh");
    options.tools = kTools;
    CHECK_THROWS_WITH_AS(pipeline.chat({{"user", "abc"}}, greedy(8), options),
                         doctest::Contains("tools and a format"), InvalidArgument);
}

TEST_CASE("a conversation that is too long loses what the caller says") {
    const TemporaryFile file(chat_model().build());
    Pipeline pipeline(file.path());
    std::vector<ChatMessage> messages;
    for (int i = 0; i < 9; ++i)
        messages.push_back({i % 2 ? "assistant" : "user", std::string(50, static_cast<char>('a' + i))});
    GenerationConfig config = greedy(10);
    config.max_length = 200;
    CHECK_THROWS_AS(pipeline.chat(messages, config), ContextLengthError);
    for (const WhenFull when_full : {WhenFull::drop_oldest, WhenFull::keep_head}) {
        ChatOptions options;
        options.when_full = when_full;
        CHECK(pipeline.chat(messages, config, options).dropped_messages > 0);
    }
}

TEST_CASE("the room for a prompt leaves a reply its place") {
    GenerationConfig config;
    config.max_length = 1000;
    CHECK(prompt_room(config, 4096) == 750);
    CHECK(prompt_room(config, 400) == 300);
    config.max_new_tokens = 100;
    CHECK(prompt_room(config, 4096) == 900);
    config.max_new_tokens = 900;
    CHECK(prompt_room(config, 4096) == 500);
    config.max_context_length = 20;
    CHECK(prompt_room(config, 4096) == 20);
}
