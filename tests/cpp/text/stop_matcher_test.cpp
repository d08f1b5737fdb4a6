#include "text/stop_matcher.h"

#include <doctest/doctest.h>

#include "text/fake_tokenizer.h"
#include "text/utf8_stream.h"

using namespace chatglm;

namespace {

// What is shown of `text` when it comes in pieces of `size` bytes.
std::string shown(const std::vector<std::string>& stops, const std::string& text, size_t size) {
    StopMatcher matcher(stops);
    std::string out;
    for (size_t i = 0; i < text.size(); i += size) out += matcher.put(text.substr(i, size));
    return out + matcher.finish();
}

}  // namespace

TEST_CASE("a text ends before a stop, wherever the pieces part") {
    for (size_t size = 1; size < 12; ++size) {
        CHECK(shown({"stop"}, "do not stop here", size) == "do not ");
        CHECK(shown({"stop"}, "sto sto st", size) == "sto sto st");
        CHECK(shown({"aab"}, "aaab", size) == "a");
        CHECK(shown({"\n\n", "###"}, "one\ntwo\n\nthree", size) == "one\ntwo");
        CHECK(shown({}, "free", size) == "free");
        // The stop that ends first counts, and of two that end together the longer one.
        CHECK(shown({"abcd", "bc"}, "xabcd", size) == "xa");
        CHECK(shown({"bc", "abc"}, "xabc", size) == "x");
    }
}

TEST_CASE("only what may become a stop is held back") {
    StopMatcher matcher({"</s>"});
    CHECK(matcher.put("a < b <") == "a < b ");
    CHECK(matcher.put("/") == "");
    CHECK(matcher.put("b>") == "</b>");
    CHECK(!matcher.stopped());
    CHECK(matcher.put("c</s>d") == "c");
    CHECK(matcher.stopped());
    CHECK(matcher.put("e") == "");
    CHECK(matcher.finish() == "");
}

TEST_CASE("a stop may lie across tokens and split characters, in a reply and in a plain text") {
    const test::FakeTokenizer tokenizer("glm4");
    for (const auto mode : {TextStreamer::kReply, TextStreamer::kPlain, TextStreamer::kExact}) {
        TextStreamer streamer(tokenizer, mode, {"好。再"});
        std::string text;
        // Every byte is a token of its own.
        for (const int32_t id : tokenizer.encode_plain("你好，好。再见")) text += streamer.put(id);
        CHECK(streamer.stopped());
        text += streamer.finish();
        CHECK(text == "你好，");
    }
}

TEST_CASE("a stop is not looked for in a call, and no call comes behind it") {
    const test::FakeTokenizer tokenizer("glm4");
    const std::string call = "f\n{\"text\": \"END\"}", part = "<|assistant|>";
    struct Case {
        std::string reply, content;
        size_t n_calls;
        bool stopped, has_error;
    };
    for (const auto& c :
         {Case{call, "", 1, false, false}, Case{call + part + "\na END b" + part + call, "a", 1, true, false},
          Case{"\na END" + part + call.substr(0, 8), "a", 0, true, false},
          // What looked like a call is text after all.
          Case{call.substr(0, call.size() - 2), "f\n{\"text\": \"", 0, true, true}}) {
        TextStreamer streamer(tokenizer, TextStreamer::kReply, {"END", " EN"}, R"([{"name": "f"}])");
        std::string content, error;
        const auto add = [&](const std::string& text) {
            content += text;
            error += streamer.tool_call_error();
        };
        for (const int32_t id : tokenizer.encode_special(c.reply)) add(streamer.put(id));
        add(streamer.finish());
        CHECK(content == c.content);
        CHECK(streamer.tool_calls().size() == c.n_calls);
        CHECK(streamer.stopped() == c.stopped);
        CHECK(error.empty() != c.has_error);
    }
}
