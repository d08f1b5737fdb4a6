#include "text/fit_conversation.h"

#include <doctest/doctest.h>

#include "chatglm/error.h"
#include "fake_tokenizer.h"

using namespace chatglm;
using namespace chatglm::test;

namespace {

// Counts how much is encoded.
class CountingTokenizer : public FakeTokenizer {
  public:
    using FakeTokenizer::FakeTokenizer;
    std::vector<int32_t> encode_plain(std::string_view text) const override {
        bytes += text.size();
        return FakeTokenizer::encode_plain(text);
    }
    mutable size_t bytes = 0;
};

std::vector<ChatMessage> rounds(int n) {
    std::vector<ChatMessage> messages{system_message("S")};
    for (int i = 0; i < n; ++i) {
        messages.push_back(user("q" + std::to_string(i)));
        if (i + 1 < n) messages.push_back(assistant("a" + std::to_string(i)));
    }
    return messages;
}

struct Fitted {
    std::string prompt;
    int dropped;
};
Fitted fit(const FakeTokenizer& tokenizer, const std::vector<ChatMessage>& messages, const char* policy,
           size_t room, const PromptOptions& options = {}) {
    const FittedPrompt prompt =
        fit_conversation(tokenizer, messages, options, parse_when_full(policy), static_cast<int>(room));
    return {tokenizer.spell(prompt.ids), prompt.dropped_messages};
}

}  // namespace

TEST_CASE("fit: a conversation that fits stays whole under every policy") {
    const FakeTokenizer tokenizer("glm4");
    const auto messages = rounds(5);
    const auto ids = tokenizer.apply_chat_template(messages);
    for (const char* policy : {"error", "drop_oldest", "keep_head"}) {
        const Fitted fitted = fit(tokenizer, messages, policy, ids.size());
        CHECK(fitted.prompt == tokenizer.spell(ids));
        CHECK(fitted.dropped == 0);
    }
    CHECK(fit(tokenizer, messages, "error", 1).dropped == 0);
    CHECK_THROWS_WITH_AS(parse_when_full("sometimes"),
                         "when_full is \"sometimes\"; it can be error, drop_oldest or keep_head.",
                         InvalidArgument);
}

TEST_CASE("fit: as few of the oldest turns go as make room, and the message of the system stays") {
    for (const char* format : {"chatglm", "chatglm2", "chatglm3", "glm4"}) {
        const FakeTokenizer tokenizer(format);
        const auto messages = rounds(12);
        const size_t whole = tokenizer.apply_chat_template(messages).size();
        for (size_t room = 0; room <= whole; ++room) {
            int expected = 22;
            for (int dropped = 0; dropped <= 22; dropped += 2) {
                auto kept = messages;
                kept.erase(kept.begin() + 1, kept.begin() + 1 + dropped);
                if (tokenizer.apply_chat_template(kept).size() > room) continue;
                expected = dropped;
                break;
            }
            auto kept = messages;
            kept.erase(kept.begin() + 1, kept.begin() + 1 + expected);
            const Fitted fitted = fit(tokenizer, messages, "drop_oldest", room);
            CHECK(fitted.dropped == expected);
            CHECK(fitted.prompt == tokenizer.spell(tokenizer.apply_chat_template(kept)));
        }
    }
}

TEST_CASE("fit: with keep_head the first turn stays and the newest that fit follow it") {
    const FakeTokenizer tokenizer("glm4");
    const std::string prompt =
        "[gMASK]<sop><|system|>\nS<|user|>\nq0<|assistant|>\na0<|user|>\nq4<|assistant|>\na4<|user|>\nq5<|"
        "assistant|>";
    const size_t room = tokenizer.encode_special(prompt).size();
    const Fitted fitted = fit(tokenizer, rounds(6), "keep_head", room);
    CHECK(fitted.prompt == prompt);
    CHECK(fitted.dropped == 6);
    CHECK(fit(tokenizer, rounds(6), "keep_head", 0).dropped == 8);
    CHECK(fit(tokenizer, rounds(2), "keep_head", 0).dropped == 0);
    CHECK(fit(tokenizer, rounds(1), "drop_oldest", 0).dropped == 0);
}

TEST_CASE("fit: a call of a tool goes with its question and its result, and the tools stay") {
    const FakeTokenizer tokenizer("glm4");
    ChatMessage calling = assistant("");
    calling.tool_calls = {function_call("f", "{}"), function_call("f", "{\"a\": 1}")};
    const std::vector<ChatMessage> messages{assistant("hello"), user("q0"),       calling,
                                            observation("o"),   observation("p"), assistant("a0"),
                                            user("q1"),         calling,          observation("r")};
    PromptOptions options;
    options.tools = R"([{"name": "f"}])";
    const Fitted fitted = fit(tokenizer, messages, "drop_oldest", 10, options);
    CHECK(fitted.dropped == 6);
    CHECK(fitted.prompt.find("## f") != std::string::npos);
    CHECK(fitted.prompt.ends_with(
        "<|user|>\nq1<|assistant|>f\n{}<|assistant|>f\n{\"a\": 1}<|observation|>\nr<|assistant|>"));
    CHECK(fitted.prompt.find("q0") == std::string::npos);
    CHECK(fitted.prompt.find("hello") == std::string::npos);
}

TEST_CASE("fit: hundreds of turns are encoded a few times and not once for each") {
    const CountingTokenizer tokenizer("chatglm3");
    const auto messages = rounds(1000);
    const size_t whole = tokenizer.apply_chat_template(messages).size();
    tokenizer.bytes = 0;
    for (const char* policy : {"drop_oldest", "keep_head"}) {
        tokenizer.bytes = 0;
        CHECK(fit(tokenizer, messages, policy, whole / 2).dropped > 900);
        CHECK(tokenizer.bytes < 12 * whole);
    }
}

TEST_CASE("fit: a conversation that is wrong is refused with the place in all of it") {
    auto messages = rounds(12);
    messages[20].role = "nobody";
    CHECK_THROWS_WITH_AS(
        fit(FakeTokenizer("glm4"), messages, "drop_oldest", 10),
        "The role of messages[20] is \"nobody\"; the roles are system, user, assistant and observation.",
        InvalidArgument);
}
