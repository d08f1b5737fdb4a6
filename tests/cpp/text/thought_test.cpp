#include <doctest/doctest.h>

#include "fake_tokenizer.h"
#include "streamed_reply.h"
#include "text/thought_filter.h"

using namespace chatglm;
using namespace chatglm::test;

namespace {

// In the manner of GLM-Z1-0414: the prompt begins the thought, and thoughts of earlier turns are dropped.
const char* const kPromptThinks =
    "[gMASK]<sop>{%- for message in messages %}\n"
    "    {%- set visible = message['content'].split('</think>')[-1].strip() %}\n"
    "    {%- set meta = message.get(\"metadata\", \"\") %}\n"
    "<|{{ message['role'] }}|>{{ meta }}\n"
    "{{ visible }}\n"
    "{%- endfor %}\n"
    "{% if add_generation_prompt %}<|assistant|>\n"
    "<think>{% endif %}";
// In the manner of GLM-4.5: the model begins it, and those after the last question stay in the prompt.
const char* const kModelThinks =
    "[gMASK]<sop>{%- set ns = namespace(last_user_index=-1) %}\n"
    "{%- for m in messages %}{%- if m.role == 'user' %}{% set ns.last_user_index = loop.index0 -%}{%- endif "
    "%}{%- endfor %}\n"
    "{%- for m in messages -%}\n"
    "<|{{ 'observation' if m.role == 'tool' else m.role }}|>\n"
    "{%- set thought = m.reasoning_content if m.reasoning_content is string else '' -%}\n"
    "{%- if m.role == 'assistant' -%}\n"
    "{{ '\\n<think>' + (thought.strip() if loop.index0 > ns.last_user_index else '') + '</think>' }}\n"
    "{%- endif -%}\n"
    "{{ '\\n' + m.content }}\n"
    "{%- for call in m.tool_calls or [] -%}\n"
    "{{ '\\n<tool_call>' + call.function.name }}\n"
    "{%- endfor -%}\n"
    "{%- endfor -%}\n"
    "{%- if add_generation_prompt -%}\n"
    "    <|assistant|>{{- '\\n<think></think>' if (enable_thinking is defined and not enable_thinking) else "
    "'' -}}"
    "\n{%- endif -%}";

// The marks of a thought are special tokens, which have no text.
class MarkTokenizer : public FakeTokenizer {
  public:
    explicit MarkTokenizer(std::string chat_template = "{{ messages[0].content }}")
        : FakeTokenizer("template", std::move(chat_template)) {
        thinking_ = ChatFormat::thinking(*this);
    }
    int32_t begin() const { return FakeTokenizer::vocab_size(); }
    int32_t end() const { return begin() + 1; }
    int32_t vocab_size() const override { return begin() + 2; }
    int32_t token_id(std::string_view spelling) const override {
        return spelling == kThoughtBegin ? begin()
               : spelling == kThoughtEnd ? end()
                                         : FakeTokenizer::token_id(spelling);
    }
    std::string token_bytes(int32_t token, bool skip_special) const override {
        if (token != begin() && token != end()) return FakeTokenizer::token_bytes(token, skip_special);
        return std::string(skip_special ? "" : token == begin() ? kThoughtBegin : kThoughtEnd);
    }
};

ChatMessage reply(const FakeTokenizer& tokenizer, std::string_view text) {
    return streamed_reply(tokenizer, tokenizer.encode_special(text));
}

// A message of the assistant with a thought.
ChatMessage thinking(std::string thought, std::string content) {
    ChatMessage message = assistant(std::move(content));
    message.reasoning_content = std::move(thought);
    return message;
}

std::string prompt(const FakeTokenizer& tokenizer, const std::vector<ChatMessage>& messages) {
    return tokenizer.spell(tokenizer.apply_chat_template(messages));
}

}  // namespace

TEST_CASE("thought: how it begins is told from the template and the vocabulary, once") {
    const auto of = [](const char* format, const char* source) {
        return FakeTokenizer(format, source).thinking();
    };
    CHECK(of("template", kPromptThinks) == Thinking::by_prompt);
    CHECK(of("template", "{% if add_generation_prompt %}<|assistant|>\n<think>\n{% endif %}") ==
          Thinking::by_prompt);
    CHECK(of("template", kModelThinks) == Thinking::by_model);
    CHECK(of("template", "{{ messages[0].content }}") == Thinking::none);
    CHECK(of("template", "") == Thinking::none);
    CHECK(of("chatglm3", "") == Thinking::none);
    // A format of ours makes a prompt of its own.
    CHECK(of("glm4", kPromptThinks) == Thinking::by_model);
    CHECK(MarkTokenizer().thinking() == Thinking::by_model);
    // Templates that do not parse, refuse the messages or run without end.
    CHECK(of("template", "{% if %}<think></think>") == Thinking::by_model);
    CHECK(of("template", "{{ raise_exception('no') }}<think>") == Thinking::none);
    CHECK(of("template",
             "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}<think>") ==
          Thinking::none);
}

TEST_CASE("thought: a prompt that begins it is answered from inside it") {
    const FakeTokenizer tokenizer("template", kPromptThinks);
    CHECK(prompt(tokenizer, {user("q")}) == "[gMASK]<sop><|user|>\nq<|assistant|>\n<think>");
    CHECK(reply(tokenizer, "\n想一想 1 < 2\n</think>\n\n答案 <b>\n<|user|>") ==
          thinking("想一想 1 < 2", "答案 <b>"));
    CHECK(reply(tokenizer, "</think>a") == thinking("", "a"));
    CHECK(reply(tokenizer, "\n<think>\nx</think>a") == thinking("x", "a"));
    CHECK(reply(tokenizer, "x <think> y</think>a") == thinking("x <think> y", "a"));
}

TEST_CASE("thought: a model that begins it itself may also leave it out") {
    const FakeTokenizer tokenizer("template", kModelThinks);
    CHECK(reply(tokenizer, "\n<think> x\n\ny </think>\na") == thinking("x\n\ny", "a"));
    CHECK(reply(tokenizer, "<think></think>a") == thinking("", "a"));
    CHECK(reply(tokenizer, "</think>a") == thinking("", "a"));
    CHECK(reply(tokenizer, " a<think>b</think>") == thinking("", "a<think>b</think>"));
    for (const char* text : {"<thin", "<", "</thin", "<think", "<thinking> x"}) {
        CHECK(reply(tokenizer, text) == thinking("", text));
    }
    CHECK(reply(tokenizer, " \n") == thinking("", ""));
    CHECK(reply(tokenizer, "") == thinking("", ""));
}

TEST_CASE("thought: only the first one counts") {
    for (const char* source : {kPromptThinks, kModelThinks}) {
        const FakeTokenizer tokenizer("template", source);
        CHECK(reply(tokenizer, "<think>x</think>a <think>b</think> c") ==
              thinking("x", "a <think>b</think> c"));
        CHECK(reply(tokenizer, "<think>x</think><think>b</think>") == thinking("x", "<think>b</think>"));
        CHECK(reply(tokenizer, "<think>x</think>a<|assistant|>\n<think>b</think>") ==
              thinking("x", "a\n<think>b</think>"));
    }
}

TEST_CASE("thought: one that is cut is no answer") {
    for (const char* source : {kPromptThinks, kModelThinks}) {
        const FakeTokenizer tokenizer("template", source);
        CHECK(reply(tokenizer, "<think>\nx y \n") == thinking("x y", ""));
        CHECK(reply(tokenizer, "<think>x</thin") == thinking("x</thin", ""));
        CHECK(reply(tokenizer, "<think>x<|user|></think>a") == thinking("x", ""));
        CHECK(reply(tokenizer, "<think>\xE4\xBD") == thinking("\xEF\xBF\xBD", ""));
        // The model turns to its next message: the thought is over.
        CHECK(reply(tokenizer, "<think>x<|assistant|>\na") == thinking("x", "a"));
    }
    CHECK(reply(FakeTokenizer("template", kPromptThinks), "<thi") == thinking("<thi", ""));
}

TEST_CASE("thought: no piece of a mark is ever shown") {
    const FakeTokenizer tokenizer("template", kPromptThinks);
    TextStreamer streamer(tokenizer);
    std::string shown;
    const auto put = [&](std::string_view text) {
        for (const int32_t id : tokenizer.encode_plain(text)) {
            shown += streamer.put(id);
            shown += streamer.reasoning();
        }
        return shown;
    };
    CHECK(put("<thin") == "");
    CHECK(put("g") == "<thing");  // it was none
    CHECK(put(" </</thin") == "<thing </");
    CHECK(put("k") == "<thing </");
    CHECK(put("> \n") == "<thing </");
    CHECK(put("a</thin") == "<thing </a</thin");
}

TEST_CASE("thought: models that do not think answer as ever") {
    for (const char* format : {"chatglm", "chatglm2", "chatglm3", "glm4", "template"}) {
        const FakeTokenizer tokenizer(format, "{{ messages[0].content }}");
        CHECK(reply(tokenizer, "<think>x</think>a") == thinking("", "<think>x</think>a"));
    }
}

TEST_CASE("thought: marks that are special tokens") {
    const MarkTokenizer tokenizer;
    const auto ids = [&](std::string_view thought, std::string_view answer) {
        std::vector<int32_t> all{'\n', tokenizer.begin()};
        for (const char c : thought) all.push_back(static_cast<unsigned char>(c));
        all.push_back(tokenizer.end());
        for (const char c : answer) all.push_back(static_cast<unsigned char>(c));
        return all;
    };
    CHECK(streamed_reply(tokenizer, ids("\nx\n", "\na")) == thinking("x", "a"));
    CHECK(streamed_reply(tokenizer, ids("x\xE4", "a")) == thinking("x\xEF\xBF\xBD", "a"));
    // Further ones have no text, as every special token.
    CHECK(streamed_reply(tokenizer, {tokenizer.end(), tokenizer.end(), 'a', tokenizer.begin(), 'b'}) ==
          thinking("", "ab"));
    // A template cuts the thought off a reply that is given back whole.
    const MarkTokenizer thinks(kPromptThinks);
    const auto prompt_ids = thinks.apply_chat_template({user("q"), assistant("t\n</think>\na"), user("r")});
    CHECK(std::count(prompt_ids.begin(), prompt_ids.end(), 't') == 0);
    CHECK(std::count(prompt_ids.begin(), prompt_ids.end(), thinks.end()) == 0);
    // What users write does not end a thought.
    CHECK(tokenizer.apply_chat_template({user("</think>")}).size() == kThoughtEnd.size());
}

TEST_CASE("thought: the answer behind it still calls tools") {
    const FakeTokenizer tokenizer("template", kPromptThinks);
    for (const char* gap : {"\n", "", "\n\n", "\n<|assistant|>"}) {
        const ChatMessage message =
            reply(tokenizer, std::string("f\n{}\n</think>") + gap + "get\n{\"a\": 1}<|observation|>");
        CHECK(message.reasoning_content == "f\n{}");
        CHECK(message.content == "");
        CHECK(message.tool_calls == std::vector{function_call("get", "{\"a\": 1}")});
    }
}

TEST_CASE("thought: templates get it back where they ask for it") {
    const std::vector<ChatMessage> messages{user("q"), thinking("t", "a"), user("r")};
    const FakeTokenizer drops("template", kPromptThinks), keeps("template", kModelThinks);
    CHECK(prompt(drops, messages) ==
          "[gMASK]<sop><|user|>\nq<|assistant|>\na<|user|>\nr<|assistant|>\n<think>");
    CHECK(prompt(keeps, messages) ==
          "[gMASK]<sop><|user|>\nq<|assistant|>\n<think></think>\na<|user|>\nr<|assistant|>");
    CHECK(prompt(FakeTokenizer("glm4"), messages) ==
          "[gMASK]<sop><|user|>\nq<|assistant|>\na<|user|>\nr<|assistant|>");
    ChatMessage call = thinking("<sop>t", "");
    call.tool_calls.push_back(function_call("f", "{}"));
    const std::vector<ChatMessage> calling{user("q"), call, observation("o")};
    CHECK(prompt(keeps, calling) ==
          "[gMASK]<sop><|user|>\nq<|assistant|>\n<think><sop>t</think>\n\n"
          "<tool_call>f<|observation|>\no<|assistant|>");
    CHECK(prompt(drops, calling) ==
          "[gMASK]<sop><|user|>\nq<|assistant|>f\n{}<|observation|>\no<|assistant|>"
          "\n<think>");
    const auto ids = keeps.apply_chat_template(calling);
    CHECK(std::count(ids.begin(), ids.end(), FakeTokenizer::id("<sop>")) == 1);
    // A template may want both, the name of a tool and the thought before it.
    const FakeTokenizer both(
        "template", "{% for m in messages %}{{ m.metadata }}:{{ m.reasoning_content }};{% endfor %}");
    CHECK(prompt(both, calling) == ":;f:<sop>t;:;");

    ChatMessage wrong = user("q");
    wrong.reasoning_content = "t";
    CHECK_THROWS_WITH_AS(prompt(keeps, {wrong}),
                         "messages[0] has reasoning_content, but only the assistant thinks.",
                         InvalidArgument);
}
