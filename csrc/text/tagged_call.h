// Calls of tools between tags, as GLM-4.5 writes them anywhere in an answer:
// <tool_call>name<arg_key>key</arg_key><arg_value>value</arg_value>...</tool_call>, with white space between
// the tags or without; or, as other models do, {"name": ..., "arguments": {...}} between the outer tags.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "chatglm/message.h"
#include "text/known_tools.h"

namespace chatglm {

constexpr std::string_view kCallBegin = "<tool_call>", kCallEnd = "</tool_call>";
constexpr std::string_view kKeyBegin = "<arg_key>", kKeyEnd = "</arg_key>";
constexpr std::string_view kValueBegin = "<arg_value>", kValueEnd = "</arg_value>";
inline constexpr std::array kCallTags{kCallBegin, kCallEnd, kKeyBegin, kKeyEnd, kValueBegin, kValueEnd};

// The call whose text stands between the outer tags. A value is JSON, or else text; what `tools` say is a
// text stays one.
std::optional<ToolCallMessage> parse_tagged_call(std::string_view body, const KnownTools& tools);

// Parts an answer that comes in pieces into its text and its calls.
class TaggedCallFilter {
  public:
    struct Part {
        enum Kind { text, call, cut_call };  // of a call, what stands between the tags; a cut one has no end
        Kind kind;
        std::string content;
    };
    std::vector<Part> put(std::string_view text);
    std::vector<Part> finish();

  private:
    bool find_end(size_t& end);

    std::string held_;  // the call that has begun, or what may be the beginning of its tag
    bool in_call_ = false, in_value_ = false;
    size_t searched_ = 0;  // bytes of the call in which no tag that matters begins
};

}  // namespace chatglm
