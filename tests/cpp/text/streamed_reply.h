// The message in the ids of a reply, after checking that a stream of it has the same texts.
#pragma once

#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "chatglm/tokenizer.h"
#include "text/utf8_stream.h"

namespace chatglm::test {

inline ChatMessage streamed_reply(const Tokenizer& tokenizer, const std::vector<int32_t>& ids,
                                  const std::string& tools = {}) {
    ChatMessage message = tokenizer.decode_message(ids, tools);
    TextStreamer streamer(tokenizer, TextStreamer::kReply, {}, tools);
    std::string content, reasoning, error;
    size_t n_calls = 0;
    const auto add = [&](const std::string& delta) {
        CHECK(streamer.first_new_call() == n_calls);
        n_calls = streamer.tool_calls().size();
        if (error.empty()) error = streamer.tool_call_error();
        CHECK(to_valid_utf8(delta) == delta);
        CHECK(to_valid_utf8(streamer.reasoning()) == streamer.reasoning());
        CHECK((streamer.reasoning().empty() || content.empty()));
        content += delta;
        reasoning += streamer.reasoning();
    };
    for (const int32_t id : ids) add(streamer.put(id));
    add(streamer.finish());
    CHECK(content == message.content);
    CHECK(reasoning == message.reasoning_content);
    CHECK(error == message.tool_call_error);
    CHECK(streamer.tool_calls() == message.tool_calls);
    CHECK(message.role == "assistant");
    return message;
}

}  // namespace chatglm::test
