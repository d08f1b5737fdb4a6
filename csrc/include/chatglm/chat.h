// Conversations with tools and formats, and replies that come piece by piece.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "chatglm/constraint.h"
#include "chatglm/generation.h"
#include "chatglm/message.h"

namespace chatglm {

class Generation;

// What gives way when a conversation is too long. A turn is a message of the user and everything up to the
// next one, so that a call of a tool stays with its result; turns go whole. The messages of the system before
// the first turn, the tools and the last turn always stay.
enum class WhenFull {
    error,        // nothing
    drop_oldest,  // the first turns
    keep_head,    // the turns after the first
};

// By its name, "error", "drop_oldest" or "keep_head". Throws InvalidArgument for another.
WhenFull parse_when_full(std::string_view name);

struct ChatOptions {
    // What the model may ask to be called: the text of a JSON array of {"type": "function", "function":
    // {"name", "description", "parameters"}}, of bare {"name", ...}, or of {"type": "python"} for the code
    // interpreter of ChatGLM3 and GLM-4. Nothing is ever called. Empty: none.
    std::string tools = {};
    WhenFull when_full = WhenFull::error;
    // What the answer must look like; a reasoning model then answers without a thought. Not with tools.
    std::shared_ptr<Constraint> constraint = nullptr;
};

// A call of a tool in a streamed reply. It comes whole: only its end tells that it is one.
struct ToolCallDelta {
    size_t index;  // counts the calls of the reply
    ToolCallMessage call;
};

// A piece of a reply as it comes: the text of one or more tokens that is complete with the last of them.
struct DeltaMessage {
    std::string content = {};
    std::string reasoning_content = {};  // stands before the content of the same piece
    std::vector<ToolCallDelta> tool_calls = {};
    std::string tool_call_error = {};          // why something in the content looks like a call and is none
    std::vector<int32_t> token_ids = {};       // whose text this is
    std::vector<TokenLogprobs> logprobs = {};  // of these, when GenerationConfig::logprobs asks for them
};

// A reply to a conversation on its way, or a continuation of a text as its content. Destroying it early
// cancels it. Not for several threads at once.
class ChatStream {
  public:
    ~ChatStream();
    ChatStream(const ChatStream&) = delete;
    ChatStream& operator=(const ChatStream&) = delete;

    // Waits for the next piece; false at the end of the reply. `interrupted` as in Generation::step, and
    // after it has thrown, finish() gives what is left.
    bool next(DeltaMessage& delta, const std::function<bool()>& interrupted = nullptr);
    // Ends the reply where it is: what was held back, as the beginning of what could have been a call,
    // becomes a last piece. May be empty.
    DeltaMessage finish();

    // All pieces so far.
    const ChatMessage& message() const;
    // For progress(), finish_reason() and cancel().
    Generation& generation() const;

  private:
    friend class Pipeline;
    struct State;
    explicit ChatStream(std::unique_ptr<State> state);
    std::unique_ptr<State> state_;
};

// Tokens to which when_full brings the prompt of a conversation, of a model with `model_length` positions.
// The rest is for the reply: max_new_tokens but at most half of all, or a quarter when the reply has no limit
// of its own.
int prompt_room(const GenerationConfig& config, int model_length);

}  // namespace chatglm
