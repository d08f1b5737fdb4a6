#include "text/tagged_call.h"

#include <algorithm>
#include <utility>

#include "chatglm/error.h"
#include "text/json.h"
#include "text/thought_filter.h"
#include "text/tool_call.h"

namespace chatglm {
namespace {

std::string_view strip(std::string_view text) {
    const size_t first = text.find_first_not_of(" \t\r\n");
    if (first == std::string_view::npos) return {};
    return text.substr(first, text.find_last_not_of(" \t\r\n") - first + 1);
}

// What stands between the two tags that `rest` begins with, which are taken off it.
std::optional<std::string_view> take(std::string_view& rest, std::string_view begin, std::string_view end) {
    rest = strip(rest);
    if (!rest.starts_with(begin)) return std::nullopt;
    const size_t at = rest.find(end, begin.size());
    if (at == std::string_view::npos) return std::nullopt;
    const std::string_view inside = rest.substr(begin.size(), at - begin.size());
    rest.remove_prefix(at + end.size());
    return inside;
}

Json value_of(std::string_view text, bool is_text) {
    if (is_text) return text;
    try {
        return Json::parse(text);
    } catch (const InvalidArgument&) {
        return text;
    }
}

std::optional<ToolCallMessage> function_call(std::string_view name, const Json& arguments) {
    if (!is_tool_name(name) || !arguments.object()) return std::nullopt;
    ToolCallMessage call;
    call.type = ToolCallMessage::kTypeFunction;
    call.function = {std::string(name), arguments.dump()};
    return call;
}

std::optional<ToolCallMessage> parse_json_call(std::string_view body) {
    try {
        const Json json = Json::parse(body);
        const Json* name = json.find("name");
        const Json* arguments = json.find("arguments");
        if (!name || !name->string()) return std::nullopt;
        return function_call(*name->string(), arguments ? *arguments : Json(Json::Object{}));
    } catch (const InvalidArgument&) {
        return std::nullopt;
    }
}

}  // namespace

std::optional<ToolCallMessage> parse_tagged_call(std::string_view body, const KnownTools& tools) {
    if (strip(body).starts_with('{')) return parse_json_call(body);
    const size_t end_of_name = std::min(body.find(kKeyBegin), body.size());
    const std::string_view name = strip(body.substr(0, end_of_name));
    Json::Object arguments;
    for (std::string_view rest = body.substr(end_of_name); !strip(rest).empty();) {
        const auto key = take(rest, kKeyBegin, kKeyEnd);
        const auto value = key ? take(rest, kValueBegin, kValueEnd) : std::nullopt;
        if (!value) return std::nullopt;
        const std::string_view stripped = strip(*key);
        if (std::any_of(arguments.begin(), arguments.end(),
                        [&](const Json::Member& one) { return one.first == stripped; })) {
            return std::nullopt;
        }
        arguments.emplace_back(stripped, value_of(*value, tools.takes_text(name, stripped)));
    }
    return function_call(name, std::move(arguments));
}

std::vector<TaggedCallFilter::Part> TaggedCallFilter::put(std::string_view text) {
    std::vector<Part> parts;
    held_ += text;
    for (;;) {
        if (in_call_) {
            size_t end = 0;
            if (!find_end(end)) return parts;
            parts.push_back({Part::call, held_.substr(0, end)});
            held_.erase(0, end + kCallEnd.size());
            in_call_ = false;
        }
        const size_t begin = held_.find(kCallBegin);
        in_call_ = begin != std::string::npos;
        const size_t sure = in_call_ ? begin : held_.size() - begun_mark(held_, kCallBegin);
        if (sure > 0) parts.push_back({Part::text, held_.substr(0, sure)});
        held_.erase(0, in_call_ ? begin + kCallBegin.size() : sure);
        if (!in_call_) return parts;
        in_value_ = false;
        searched_ = 0;
    }
}

std::vector<TaggedCallFilter::Part> TaggedCallFilter::finish() {
    std::vector<Part> parts;
    if (in_call_ || !held_.empty()) parts.push_back({in_call_ ? Part::cut_call : Part::text, held_});
    held_.clear();
    in_call_ = false;
    return parts;
}

// A value may spell the tag that ends the call.
bool TaggedCallFilter::find_end(size_t& end) {
    for (;;) {
        const size_t mark = held_.find(in_value_ ? kValueEnd : kValueBegin, searched_);
        end = in_value_ ? std::string::npos : held_.find(kCallEnd, searched_);
        if (end < mark) return true;
        if (mark == std::string::npos) {
            const size_t longest = kValueEnd.size() - 1;
            searched_ = std::max(searched_, held_.size() - std::min(held_.size(), longest));
            return false;
        }
        searched_ = mark + (in_value_ ? kValueEnd : kValueBegin).size();
        in_value_ = !in_value_;
    }
}

}  // namespace chatglm
