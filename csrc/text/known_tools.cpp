#include "text/known_tools.h"

#include <algorithm>

#include "text/tool_prompt.h"

namespace chatglm {
namespace {

bool is_string(const Json& json, std::string_view text) {
    return json.string() && *json.string() == text;
}

}  // namespace

const Json* function_of(const Json& tool) {
    if (const Json* function = tool.find("function")) return function;
    return tool.find("name") ? &tool : nullptr;
}

KnownTools::KnownTools(const std::string& tools) {
    if (!tools.empty()) tools_ = parse_tools(tools);
}

const Json* KnownTools::find(std::string_view name) const {
    for (const Json& tool : *tools_.array()) {
        const Json* function = function_of(tool);
        if (function && is_string(*function->find("name"), name)) return function;
    }
    return nullptr;
}

bool KnownTools::takes_text(std::string_view function, std::string_view argument) const {
    const Json* schema = find(function);
    for (const std::string_view key :
         {std::string_view("parameters"), std::string_view("properties"), argument})
        schema = schema ? schema->find(key) : nullptr;
    const Json* type = schema ? schema->find("type") : nullptr;
    if (!type) return false;
    const Json::Array* types = type->array();
    return is_string(*type, "string") ||
           (types && std::any_of(types->begin(), types->end(),
                                 [](const Json& one) { return is_string(one, "string"); }));
}

}  // namespace chatglm
