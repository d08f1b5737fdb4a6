#include "text/message_json.h"

#include <utility>

#include "chatglm/error.h"

namespace chatglm {
namespace {

const std::string& text_of(const Json& object, const char* key, const std::string& where) {
    const Json* value = object.find(key);
    if (!value || !value->string()) throw InvalidArgument(where + " has no text \"" + key + "\".");
    return *value->string();
}

std::string text_or_nothing(const Json& object, const char* key, const std::string& where) {
    return object.find(key) ? text_of(object, key, where) : std::string();
}

ToolCallMessage call_from_json(const Json& json, const std::string& where) {
    ToolCallMessage call;
    call.type = text_of(json, "type", where);
    call.id = text_or_nothing(json, "id", where);
    const bool is_code = call.type == ToolCallMessage::kTypeCode;
    if (!is_code && call.type != ToolCallMessage::kTypeFunction) {
        throw InvalidArgument(where + " has the type \"" + call.type + "\"; it can be function or code.");
    }
    const Json* body = json.find(call.type);
    if (!body) throw InvalidArgument(where + " has no \"" + call.type + "\".");
    const std::string inside = where + "." + call.type;
    if (is_code) {
        call.code.input = text_of(*body, "input", inside);
    } else {
        call.function = {text_of(*body, "name", inside), text_of(*body, "arguments", inside)};
    }
    return call;
}

}  // namespace

Json to_json(const ToolCallMessage& call) {
    Json::Object object{{"id", call.id}, {"type", call.type}};
    if (call.type == ToolCallMessage::kTypeCode) {
        object.emplace_back("code", Json::Object{{"input", call.code.input}});
    } else {
        object.emplace_back(
            "function", Json::Object{{"name", call.function.name}, {"arguments", call.function.arguments}});
    }
    return object;
}

Json to_json(const ChatMessage& message) {
    Json::Object object{{"role", message.role}, {"content", message.content}};
    if (!message.tool_calls.empty()) {
        Json::Array calls;
        for (const ToolCallMessage& call : message.tool_calls) calls.push_back(to_json(call));
        object.emplace_back("tool_calls", std::move(calls));
    }
    if (!message.reasoning_content.empty())
        object.emplace_back("reasoning_content", message.reasoning_content);
    if (!message.tool_call_error.empty()) object.emplace_back("tool_call_error", message.tool_call_error);
    return object;
}

Json to_json(const std::vector<ChatMessage>& messages) {
    Json::Array array;
    for (const ChatMessage& message : messages) array.push_back(to_json(message));
    return array;
}

std::vector<ChatMessage> messages_from_json(const Json& json, const std::string& where) {
    if (!json.array()) throw InvalidArgument(where + " is no list of messages.");
    std::vector<ChatMessage> messages;
    for (const Json& entry : *json.array()) {
        const std::string place = where + "[" + std::to_string(messages.size()) + "]";
        ChatMessage message{text_of(entry, "role", place), text_of(entry, "content", place)};
        message.reasoning_content = text_or_nothing(entry, "reasoning_content", place);
        message.tool_call_error = text_or_nothing(entry, "tool_call_error", place);
        if (const Json* calls = entry.find("tool_calls")) {
            if (!calls->array()) throw InvalidArgument(place + ".tool_calls is no list.");
            for (const Json& call : *calls->array()) {
                message.tool_calls.push_back(call_from_json(
                    call, place + ".tool_calls[" + std::to_string(message.tool_calls.size()) + "]"));
            }
        }
        messages.push_back(std::move(message));
    }
    return messages;
}

}  // namespace chatglm
