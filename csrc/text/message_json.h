// Messages as JSON, in OpenAI's layout with what else there is beside it.
#pragma once

#include <string>
#include <vector>

#include "chatglm/message.h"
#include "text/json.h"

namespace chatglm {

// {"id", "type", "function": {"name", "arguments"}} or {"id", "type", "code": {"input"}}.
Json to_json(const ToolCallMessage& call);

// {"role", "content"} and, where they are not empty, "tool_calls", "reasoning_content" and "tool_call_error".
Json to_json(const ChatMessage& message);
Json to_json(const std::vector<ChatMessage>& messages);

// Back again. Throws InvalidArgument with the place of what is wrong, `where` for the whole.
std::vector<ChatMessage> messages_from_json(const Json& json, const std::string& where = "messages");

}  // namespace chatglm
