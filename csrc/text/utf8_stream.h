// Text of a reply while it is being generated.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "chatglm/tokenizer.h"
#include "text/utf8.h"

namespace chatglm {

// Bytes in, whole characters out: a character that is split between two puts comes out with the second one.
class Utf8Stream {
  public:
    explicit Utf8Stream(Replace unit = Replace::sequence) : unit_(unit) {}

    // What can be told for certain; bytes that are not UTF-8 become U+FFFD.
    std::string put(std::string_view bytes);
    // The end: what was held back becomes U+FFFD.
    std::string finish();

  private:
    Replace unit_;
    std::string pending_;  // the beginning of a character, at most three bytes
};

// Ids of a reply in, pieces of its text out.
class TextStreamer {
  public:
    enum Mode {
        kReply,  // the joined pieces are Tokenizer::decode_message(ids).content, and .reasoning_content
        kPlain,  // the joined pieces are Tokenizer::decode(ids)
        kExact,  // the joined pieces are the bytes of the tokens, as a Constraint sees them
    };
    // The tokenizer must outlive the streamer. The text, of a reply its answer, ends before the first of the
    // texts `stop`; they are not looked for in calls of tools. `tools` are those that the prompt told of, as
    // for Tokenizer::decode_message.
    explicit TextStreamer(const Tokenizer& tokenizer, Mode mode = kReply, std::vector<std::string> stop = {},
                          const std::string& tools = {});
    ~TextStreamer();
    TextStreamer(TextStreamer&&) noexcept;
    TextStreamer& operator=(TextStreamer&&) noexcept;

    // May be empty: characters, placeholders, calls of tools and what may be a stop are held back until they
    // are complete.
    // Throws InvalidArgument for an id outside the vocabulary.
    std::string put(int32_t id);
    // To be called once, after the last id.
    std::string finish();
    // Whether a text of `stop` has come: no more text comes, and no more calls.
    bool stopped() const;
    // The piece of the thought that became known with the last put or finish; it stands before the piece of
    // the answer that they returned.
    const std::string& reasoning() const;
    // The calls of tools in a reply, complete after finish(). Those from first_new_call() on became known
    // with the last put or finish.
    const std::vector<ToolCallMessage>& tool_calls() const;
    size_t first_new_call() const;
    // Why a text that the last put or finish gave looks like a call of a tool and is none; usually empty.
    const std::string& tool_call_error() const;

  private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace chatglm
