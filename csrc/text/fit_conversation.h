// The prompt of a conversation that has grown longer than the context.
#pragma once

#include <cstdint>
#include <vector>

#include "chatglm/chat.h"
#include "chatglm/message.h"
#include "chatglm/tokenizer.h"
#include "text/chat_format.h"

namespace chatglm {

struct FittedPrompt {
    std::vector<int32_t> ids;
    int dropped_messages = 0;
};

// The prompt with as few turns dropped as bring it to `max_tokens`; a longer one when even dropping all that
// may go does not. Encodes the conversation about log2(turns) times. Throws as ChatFormat::encode.
FittedPrompt fit_conversation(const Tokenizer& tokenizer, const std::vector<ChatMessage>& messages,
                              const PromptOptions& options, WhenFull when_full, int max_tokens);

}  // namespace chatglm
