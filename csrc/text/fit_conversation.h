// The prompt of a conversation that has grown longer than the context.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "chatglm/message.h"
#include "chatglm/tokenizer.h"
#include "text/chat_format.h"

namespace chatglm {

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

struct FittedPrompt {
    std::vector<int32_t> ids;
    int dropped_messages = 0;
};

// The prompt with as few turns dropped as bring it to `max_tokens`; a longer one when even dropping all that
// may go does not. Encodes the conversation about log2(turns) times. Throws as ChatFormat::encode.
FittedPrompt fit_conversation(const Tokenizer& tokenizer, const std::vector<ChatMessage>& messages,
                              const ChatOptions& options, WhenFull when_full, int max_tokens);

}  // namespace chatglm
