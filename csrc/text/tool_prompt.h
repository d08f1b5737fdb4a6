// How a prompt tells a model which tools there are.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "chatglm/message.h"
#include "text/json.h"
#include "text/special_guard.h"
#include "text/tool_call.h"

namespace chatglm {

// The array of tool definitions in `tools`: functions as OpenAI's {"type": "function", "function": {...}} or
// bare, and what a model has built in, such as {"type": "python"}. Throws InvalidArgument with the place of
// what is wrong.
Json parse_tools(const std::string& tools);

// Functions in OpenAI's form, which templates know. Throws InvalidArgument for a built-in tool that the
// template does not know.
Json wrap_tools(const Json& tools, const std::function<bool(const std::string& type)>& knows);

// `messages` with the definitions in the system message (ChatGLM3), or in one of its own before all others
// (GLM-4). Throws InvalidArgument for a built-in tool that the model does not have.
std::vector<ChatMessage> with_tools(std::vector<ChatMessage> messages, const Json& tools, ToolStyle style);

// A copy with every string inside protected.
Json protect_strings(const Json& json, const SpecialGuard& guard);

}  // namespace chatglm
