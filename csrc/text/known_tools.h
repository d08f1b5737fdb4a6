// The tools that a reply may call, as far as reading the reply needs to know them.
#pragma once

#include <string>
#include <string_view>

#include "text/json.h"

namespace chatglm {

class KnownTools {
  public:
    KnownTools() = default;
    // `tools` as in PromptOptions; empty: none. Throws InvalidArgument.
    explicit KnownTools(const std::string& tools);

    bool has(std::string_view name) const { return find(name) != nullptr; }
    // Whether an argument is a text according to the function's description, so that 007 is no number.
    bool takes_text(std::string_view function, std::string_view argument) const;

  private:
    const Json* find(std::string_view name) const;
    Json tools_ = Json::Array{};
};

// The definition itself, without OpenAI's wrapping. Null for a tool that is no function.
const Json* function_of(const Json& tool);

}  // namespace chatglm
