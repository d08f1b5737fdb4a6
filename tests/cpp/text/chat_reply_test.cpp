#include "text/chat_reply.h"

#include <doctest/doctest.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "fake_tokenizer.h"
#include "streamed_reply.h"
#include "text/json.h"

using namespace chatglm;
using namespace chatglm::test;

namespace {

ChatMessage reply(const FakeTokenizer& tokenizer, std::string_view text) {
    return streamed_reply(tokenizer, tokenizer.encode_special(text));
}

std::string content(const char* format, std::string_view text) {
    return reply(FakeTokenizer(format), text).content;
}

const std::string kChatGlm3Call = "track\n```python\ntool_call(symbol='10111')\n```";

}  // namespace

TEST_CASE("reply: the goldens of process_response") {
    const auto path = std::filesystem::path(__FILE__).parent_path() /
                      "../../../../shared/fixtures/tokenizers/process_response.json";
    if (!std::filesystem::exists(path)) {
        MESSAGE("skipped: the golden data are not at " << path.string());
        return;
    }
    std::ifstream file(path, std::ios::binary);
    std::stringstream text;
    text << file.rdbuf();
    const Json goldens = Json::parse(text.str());
    int compared = 0;
    for (const char* format : {"chatglm", "chatglm2", "chatglm3"}) {
        for (const Json& golden : *goldens.find(format)->array()) {
            const Json* output = golden.find("o");
            const std::string& input = *golden.find("i")->string();
            CAPTURE(input);
            if (output->string()) {
                CHECK(content(format, input) == *output->string());
            } else if (const Json* parameters = output->find("parameters")) {
                const ChatMessage message = reply(FakeTokenizer(format), input);
                REQUIRE(message.tool_calls.size() == 1);
                CHECK(message.tool_calls[0] ==
                      function_call(*output->find("name")->string(), parameters->dump()));
            }
            ++compared;
        }
    }
    CHECK(compared > 60);
}

TEST_CASE("reply: nothing after the end, and no special token in the text") {
    CHECK(content("chatglm3", "\n 好[gMASK]的<|observation|>ignored<|assistant|>ignored") == "好的");
    CHECK(content("template", "Paris.<|endoftext|>\n<|user|>") == "Paris.");
    CHECK(content("glm4", "<|user|>") == "");
}

TEST_CASE("reply: ChatGLM3 calls functions") {
    const FakeTokenizer tokenizer("chatglm3");
    ChatMessage message = reply(tokenizer, " " + kChatGlm3Call + "<|observation|>");
    CHECK(message.content == "");
    CHECK(message.tool_calls == std::vector{function_call("track", R"({"symbol": "10111"})")});

    message = reply(tokenizer, "\n 我来查。<|assistant|>" + kChatGlm3Call + "<|observation|>");
    CHECK(message.content == "我来查。");
    CHECK(message.tool_calls.size() == 1);

    message = reply(tokenizer, kChatGlm3Call + "<|assistant|>\n 好的\n<|assistant|>\n再见 ");
    CHECK(message.content == "好的\n再见");
    CHECK(message.tool_calls.size() == 1);

    message = reply(tokenizer, "interpreter\n```python\nprint('❤')\n\nx = 1\n```");
    CHECK(message.tool_calls == std::vector{code_call("print('❤')\n\nx = 1")});
}

TEST_CASE("reply: arguments are read as literals only") {
    const auto arguments = [](const std::string& call) {
        const auto parsed = parse_tool_call("f\n```python\n" + call + "\n```", ToolStyle::chatglm3);
        return parsed ? parsed->function.arguments : "none";
    };
    CHECK(arguments("tool_call()") == "{}");
    CHECK(arguments("tool_call(a=1, b=-2.5, c=True, d=None, e=[1, 'x', (2,)], f={'k': \"v\"}, )") ==
          R"({"a": 1, "b": -2.5, "c": true, "d": null, "e": [1, "x", [2]], "f": {"k": "v"}})");
    CHECK(arguments(R"(tool_call(a='it\'s', b="x\ny\u4f60\x41", c='a' "b", d='''p
q'''))") == R"({"a": "it's", "b": "x\ny你A", "c": "ab", "d": "p\nq"})");
    CHECK(arguments("tool_call(a=.5, b=5., c=1_000, d=1e3)") ==
          R"({"a": 0.5, "b": 5.0, "c": 1000, "d": 1000.0})");
    for (const char* call : {"tool_call(a=__import__('os').system('ls'))", "tool_call(a=1", "tool_call(1)",
                             "tool_call(a=1)(b=2)", "tool_call(a=b)", "tool_call(a=1, a=2)",
                             "tool_call(a=1+1)", "tool_call(**{'a': 1})", "tool_call(a=(1) b=2)",
                             "tool_call(,)", "tool_call(a='x)", "tool_call(a=f'{x}')",
                             "tool_call(a=1); import os", "import os\ntool_call(a=1)", "tool_call(a=[1 2])",
                             "tool_call(a={1: 2})", "other(a=1)", "tool_call(a=1__0)", "tool_call(a=0x10)"}) {
        CAPTURE(call);
        CHECK(arguments(call) == "none");
    }
    CHECK(arguments("tool_call(a=" + std::string(100'000, '[') + ")") == "none");
}

TEST_CASE("reply: what is no call of a tool stays text") {
    for (const std::string_view text :
         {"track\n```python\ntool_call(symbol=x)\n```", "Hello\nworld", "Hello", "track\n",
          "a b\n```python\ntool_call()\n```", "interpreter\nno block", "track\n```python\ntool_call()"}) {
        CAPTURE(text);
        const ChatMessage message = reply(FakeTokenizer("chatglm3"), text);
        CHECK(message.tool_calls.empty());
        CHECK(message.content == StripFilter().put(text));
    }
    CHECK(reply(FakeTokenizer("chatglm2"), kChatGlm3Call).tool_calls.empty());
}

TEST_CASE("reply: GLM-4 calls functions with JSON, and python with code") {
    const FakeTokenizer tokenizer("glm4");
    CHECK(reply(tokenizer, "get_weather\n{\"city\": \"北京\"}<|observation|>").tool_calls ==
          std::vector{function_call("get_weather", "{\"city\": \"北京\"}")});
    CHECK(reply(tokenizer, "python\nprint(2**64)\n").tool_calls == std::vector{code_call("print(2**64)")});
    CHECK(reply(tokenizer, "get_weather\n{\"city\": }").content == "get_weather\n{\"city\": }");
    CHECK(reply(tokenizer, "get_weather\n[1]").content == "get_weather\n[1]");
    CHECK(reply(tokenizer, "\n{\"a\": 1}\n").content == "{\"a\": 1}");
    CHECK(reply(FakeTokenizer("template", "{{ message.metadata }}"), "f\n{}").tool_calls.size() == 1);
    CHECK(reply(FakeTokenizer("template", "{{ message.content }}"), "f\n{}").content == "f\n{}");
}

TEST_CASE("reply: a plain answer streams without waiting for its end") {
    for (const char* format : {"chatglm", "chatglm2", "chatglm3", "glm4", "template"}) {
        const FakeTokenizer tokenizer(format, "{{ message.metadata }}");
        TextStreamer streamer(tokenizer);
        std::string text;
        for (const int32_t id : tokenizer.encode_plain("\n[[训练时间]] 你好, w")) text += streamer.put(id);
        const bool replaced = std::string(format) != "template";
        CHECK(text == std::string(replaced ? "2023年" : "[[训练时间]]") +
                          (std::string(format) == "chatglm" ? " 你好， w" : " 你好, w"));
    }
}

TEST_CASE("reply: half a placeholder and broken bytes at the end come out") {
    CHECK(content("chatglm2", "[[训练[[训练时间]][[训") == "[[训练2023年[[训");
    CHECK(content("chatglm2", "好\xE4\xBD") == "好\xEF\xBF\xBD");
    CHECK(content("chatglm", "好?!") == "好？!");
}
