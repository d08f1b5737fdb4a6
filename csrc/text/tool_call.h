// How the models write calls of tools. Nothing that a model wrote is ever evaluated: it is read by these
// parsers or stays text.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "chatglm/message.h"
#include "text/known_tools.h"

namespace chatglm {

// A reply, or a part of one, begins with a line of metadata: nothing for plain text, or a tool's name.
enum class ToolStyle {
    none,      // the model has no tools
    chatglm3,  // name, then ```python\ntool_call(key='value')\n```; "interpreter" and a block of code
    glm4,      // name, then arguments as a JSON object; "python" (or "interpreter") and code
    tagged,    // anywhere in the answer, see tagged_call.h
};

// Letters, digits and _ - . of ASCII, at most 64 of them: what a call can be told by.
bool is_tool_name(std::string_view text);

// Whether calls by this name hold code in place of arguments.
bool is_interpreter(std::string_view name, ToolStyle style);

// Of the styles whose calls are a whole part of a reply (all but `tagged`):

// Whether `head`, the beginning of a reply, can still turn out to be a call of a tool.
bool may_be_tool_call(std::string_view head, ToolStyle style);

// The call that is the whole of `text`; nothing when it is none, or not written as it should be. The
// arguments of a function are the text of a JSON object.
std::optional<ToolCallMessage> parse_tool_call(std::string_view text, ToolStyle style);

// Why a text that parse_tool_call refused, though it looks like a call, is none: a sentence. Empty for a text
// that is just text.
std::string tool_call_error(std::string_view text, ToolStyle style, const KnownTools& tools);

// What the model writes for a call: the name on the first line, and what stands on the lines after it.
struct WrittenToolCall {
    std::string name, content;
};
// Throws InvalidArgument when the call has no type, no name, or arguments that are no JSON object.
WrittenToolCall write_tool_call(const ToolCallMessage& call, ToolStyle style);

}  // namespace chatglm
