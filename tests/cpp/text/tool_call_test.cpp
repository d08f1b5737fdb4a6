#include "text/tool_call.h"

#include <doctest/doctest.h>

#include <array>
#include <set>

#include "fake_tokenizer.h"
#include "streamed_reply.h"
#include "text/chat_reply.h"
#include "text/json.h"
#include "text/tagged_call.h"

using namespace chatglm;
using namespace chatglm::test;

namespace {

const std::string kTools = R"([{"name": "f", "parameters": {"type": "object", "properties": {
    "code": {"type": "string"}, "n": {"type": "integer"}, "note": {"type": ["string", "null"]}}}}, {"name": "g"}])";
// In the manner of GLM-4.5.
const char* const kTagged =
    "[gMASK]<sop>{% if tools %}<|system|>{{ tools|tojson }}{% endif %}{% for m in messages %}<|{{ "
    "'observation' "
    "if m.role == 'tool' else m.role }}|>{{ '\\n' + m.content }}{% for c in m.tool_calls or [] %}"
    "{{ '\\n<tool_call>' + c.function.name }}{% for k, v in c.function.arguments.items() %}"
    "{{ '\\n<arg_key>' + k + '</arg_key>\\n<arg_value>' + (v if v is string else v|tojson) + '</arg_value>' "
    "}}"
    "{% endfor %}{{ '\\n</tool_call>' }}{% endfor %}{% endfor %}<|assistant|>";

FakeTokenizer model(const char* style) {
    return std::string(style) == "tagged" ? FakeTokenizer("template", kTagged) : FakeTokenizer(style);
}

ChatMessage reply(const char* style, std::string_view text, const std::string& tools = kTools) {
    const FakeTokenizer tokenizer = model(style);
    return streamed_reply(tokenizer, tokenizer.encode_special(text), tools);
}

std::string tagged(const std::vector<std::pair<std::string, std::string>>& arguments) {
    std::string text = "<tool_call>f\n";
    for (const auto& [key, value] : arguments)
        text += "<arg_key>" + key + "</arg_key>\n<arg_value>" + value + "</arg_value>\n";
    return text + "</tool_call>";
}

}  // namespace

TEST_CASE("tool call: odd texts come through as JSON, whatever the model's format") {
    struct Case {
        std::string python, json;
    };
    for (const auto& [python, json] :
         std::vector<Case>{{R"('it\'s "so"')", R"("it's \"so\"")"},
                           {R"("a\\b\tc\n")", R"("a\\b\tc\n")"},
                           {R"('北京\u2028😀é')", "\"北京\u2028😀é\""},
                           {R"('\ud83d\ude00')", "\"😀\""},
                           {R"('\ud83d')", "\"\uFFFD\""},
                           {R"('\q')", R"("\\q")"},
                           {R"('\x00')", R"("\u0000")"},
                           {"'<|x|>```'", "\"<|x|>```\""},
                           {"'}]),\\\n'", R"("}]),")"},
                           {"'''a'b\n\"c\"'''", R"("a'b\n\"c\"")"},
                           {"123456789012345678901234567890", "123456789012345678901234567890"},
                           {"-1e-7", "-1e-07"},
                           {"[True, false, None, null]", "[true, false, null, null]"},
                           {"{'a': {'b': (1, [2.5])}}", R"({"a": {"b": [1, [2.5]]}})"}}) {
        CAPTURE(python);
        const ChatMessage message = reply("chatglm3", "f\n```python\ntool_call(x=" + python + ")\n```");
        REQUIRE(message.tool_calls.size() == 1);
        CHECK(message.tool_calls[0].function.arguments == "{\"x\": " + json + "}");
        CHECK(Json::parse(message.tool_calls[0].function.arguments).object());
        CHECK(message.tool_call_error == "");

        const std::string arguments = "{\"x\": " + json + "}";
        CHECK(reply("glm4", "f\n" + arguments + "\n").tool_calls ==
              std::vector{function_call("f", arguments)});
    }
}

TEST_CASE("tool call: what looks like a call and cannot be read is text with a reason") {
    struct Case {
        const char *style, *text, *reason;
    };
    for (const auto& [style, text, reason] : std::vector<Case>{
             {"chatglm3", "f\n```python\ntool_call(a=x)\n```", "not written as tool_call"},
             {"chatglm3", "other\n```python\ntool_call(a=__import__('os').getcwd())\n```",
              "not written as tool_call"},
             {"chatglm3", "f\n```python\ntool_call(a=1e999)\n```", "not written as tool_call"},
             {"chatglm3", "f\n```python\ntool_call(a='half", "no end"},
             {"chatglm3", "f\n``", "no end"},
             {"chatglm3", "f\n", "before the arguments"},
             {"chatglm3", "interpreter\n```python\nprint(1", "no end"},
             {"glm4", "f\n{\"a\": 'x'}", "Invalid JSON at line 1, column 7"},
             {"glm4", "f\n{\"a\": [1, 2", "Invalid JSON"},
             {"glm4", "f\n{\"a\": NaN}", "Invalid JSON"},
             {"glm4", "f\n{} and more", "Invalid JSON"},
             {"glm4", "other\n{\"a\": ", "Invalid JSON"},
             {"glm4", "python\n```python\nprint(1", "no end"},
             {"tagged", "好\n<tool_call>f\n<arg_key>code</arg_key>\n<arg_value>1", "no end"},
             {"tagged", "<tool_call>f\n<arg_key>n</arg_key>\n<arg_value>1</arg_value>\n", "no end"},
             {"tagged", "<tool_call>f\n<arg_key>code</arg_key></tool_call>", "do not hold"},
             {"tagged", "<tool_call>a b</tool_call>", "do not hold"},
             {"tagged", "<tool_call>{\"name\": 1}</tool_call>", "do not hold"},
             {"tagged", "<tool_call></tool_call>", "do not hold"}}) {
        CAPTURE(text);
        const ChatMessage message = reply(style, text);
        CHECK(message.tool_calls.empty());
        CHECK(message.content == StripFilter().put(text));
        CHECK(message.tool_call_error.find(reason) != std::string::npos);
    }
    CHECK(reply("glm4", "other\n{" + std::string(100'000, '[')).tool_calls.empty());
    CHECK(reply("glm4", "f\n{\"a\": " + std::string(100'000, '[')).tool_call_error != "");
    CHECK(reply("chatglm3", "f\n```python\ntool_call(a=" + std::string(100'000, '(') + ")\n```")
              .tool_call_error != "");
}

TEST_CASE("tool call: plain text is no failed call") {
    for (const char* style : {"chatglm2", "chatglm3", "glm4", "tagged"}) {
        for (const char* text :
             {"f", "Sure\n```python\nprint(1)\n```", "Sets\n{x | x > 0}", "Answer\n[1]", "",
              "two words\n{\"a\": 1", "a < b", "<tool_cal", "</tool_call>", "<arg_key>k</arg_key>"}) {
            CAPTURE(text);
            const ChatMessage message = reply(style, text);
            CHECK(message.content == text);
            CHECK(message.tool_call_error == "");
            CHECK(message.tool_calls.empty());
        }
    }
}

TEST_CASE("tool call: between tags, anywhere in an answer") {
    const ChatMessage message = reply(
        "tagged",
        "\n我来查。\n" + tagged({{"code", "007"}, {"n", "7"}, {"note", "null"}}) +
            "\n<tool_call>g</tool_call>" +
            "\n<tool_call>\n{\"name\": \"g\", \"arguments\": {\"a\": [1]}}\n</tool_call>\n<|observation|>");
    CHECK(message.content == "我来查。");
    CHECK(message.tool_calls == std::vector{function_call("f", R"({"code": "007", "n": 7, "note": "null"})"),
                                            function_call("g", "{}"), function_call("g", R"({"a": [1]})")});
    // What no description speaks of is JSON where it can be.
    CHECK(reply("tagged", tagged({{"x", "[1, {}]"}, {"y", "[1,"}, {"z", ""}}), "").tool_calls ==
          std::vector{function_call("f", R"({"x": [1, {}], "y": "[1,", "z": ""})")});
    // Without line breaks, and with the tag of the end in a value.
    CHECK(reply("tagged",
                "<tool_call>f<arg_key>code</arg_key><arg_value>a</tool_call>\n\"b\"</arg_value></tool_call>!")
              .tool_calls == std::vector{function_call("f", R"({"code": "a</tool_call>\n\"b\""})")});
    CHECK(reply("tagged", tagged({{"n", "1"}, {"n", "2"}})).tool_call_error != "");
    CHECK(reply("tagged", tagged({{"n", std::string(50'000, '9')}})).tool_calls.size() == 1);
}

TEST_CASE("tool call: a call in the middle of a thought is part of the thought") {
    const std::string call = tagged({{"n", "1"}});
    const FakeTokenizer tokenizer("template", std::string(kTagged) + "<think>");
    const auto read = [&](const std::string& text) {
        return streamed_reply(tokenizer, tokenizer.encode_special(text), kTools);
    };
    ChatMessage message = read("先想" + call + "再想</think>好" + call);
    CHECK(message.reasoning_content == "先想" + call + "再想");
    CHECK(message.content == "好");
    CHECK(message.tool_calls.size() == 1);
    message = read("想" + call);
    CHECK(message.reasoning_content == "想" + call);
    CHECK(message.tool_calls.empty());
    CHECK(message.tool_call_error == "");
}

TEST_CASE("tool call: ids differ within a reply and stay the same when it is read again") {
    const std::string text = tagged({{"n", "1"}}) + tagged({{"n", "1"}}) + tagged({{"n", "2"}});
    const auto calls = reply("tagged", text).tool_calls;
    REQUIRE(calls.size() == 3);
    std::set<std::string> ids;
    for (size_t i = 0; i < 3; ++i) {
        ids.insert(calls[i].id);
        CHECK(calls[i].id == reply("tagged", text).tool_calls[i].id);
        CHECK(calls[i].id.starts_with("call_" + std::to_string(i)));
    }
    CHECK(ids.size() == 3);
    CHECK(calls[0] == calls[1]);
    CHECK_FALSE(calls[0] == calls[2]);
}

TEST_CASE("tool call: every cut of a reply gives the same text and calls") {
    // Of single bytes; the streamed reply itself is compared with the unstreamed one in every test here.
    for (const auto& [style, whole] : std::vector<std::pair<const char*, std::string>>{
             {"chatglm3",
              " f\n```python\ntool_call(code='a\\'b', "
              "n=(1,))\n```<|assistant|>\n好\n<|assistant|>g\n```\ntool_call()\n```"},
             {"glm4", "f\n{\"code\": \"北京\", \"n\": 1}<|assistant|>\n好的"},
             {"tagged",
              " 好 " + tagged({{"code", "</tool_call>"}, {"n", "2"}}) + " x <tool_call>g</tool_call> y"}}) {
        const FakeTokenizer tokenizer = model(style);
        const auto ids = tokenizer.encode_special(whole);
        CHECK(streamed_reply(tokenizer, ids, kTools).tool_calls.size() >= 1);
        for (size_t n = 0; n <= ids.size(); ++n) {
            const std::vector<int32_t> cut(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(n));
            const ChatMessage message = streamed_reply(tokenizer, cut, kTools);
            // No call is invented by a cut, and none is half in the text without a word about it.
            for (const ToolCallMessage& call : message.tool_calls)
                CHECK(Json::parse(call.function.arguments).object());
            CAPTURE(message.content);
            for (const char* begun : {"tool_call(", "<tool_call>"}) {
                if (message.content.find(begun) != std::string::npos) CHECK(message.tool_call_error != "");
            }
        }
    }
}

TEST_CASE("tool call: calls between tags go back into the prompt as they were") {
    const FakeTokenizer tokenizer = model("tagged");
    const std::string call = tagged({{"code", "007"}, {"n", "[1, 2]"}});
    ChatMessage message = reply("tagged", "好\n" + call);
    const std::string prompt =
        tokenizer.spell(tokenizer.apply_chat_template({user("q"), message, observation("o")}));
    CHECK(prompt == "[gMASK]<sop><|user|>\nq<|assistant|>\n好\n" + call + "<|observation|>\no<|assistant|>");
}

TEST_CASE("tool call: tags that are special tokens are read too") {
    class TagTokenizer : public FakeTokenizer {
      public:
        TagTokenizer() : FakeTokenizer("template", kTagged) {}
        int32_t vocab_size() const override {
            return FakeTokenizer::vocab_size() + static_cast<int32_t>(kCallTags.size());
        }
        int32_t token_id(std::string_view spelling) const override {
            for (size_t i = 0; i < kCallTags.size(); ++i) {
                if (spelling == kCallTags[i]) return FakeTokenizer::vocab_size() + static_cast<int32_t>(i);
            }
            return FakeTokenizer::token_id(spelling);
        }
        std::string token_bytes(int32_t token, bool skip_special) const override {
            const int32_t i = token - FakeTokenizer::vocab_size();
            if (i < 0) return FakeTokenizer::token_bytes(token, skip_special);
            return std::string(skip_special ? "" : kCallTags[static_cast<size_t>(i)]);
        }
    } const tokenizer;
    std::vector<int32_t> ids;
    for (std::string_view rest = "<tool_call>f<arg_key>n</arg_key><arg_value>1</arg_value></tool_call>";
         !rest.empty();) {
        const size_t length = rest[0] == '<' ? rest.find('>') + 1 : 1;
        ids.push_back(tokenizer.token_id(rest.substr(0, length)));
        rest.remove_prefix(length);
    }
    CHECK(streamed_reply(tokenizer, ids, kTools).tool_calls ==
          std::vector{function_call("f", R"({"n": 1})")});
}
