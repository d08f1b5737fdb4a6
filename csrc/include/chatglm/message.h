// What passes between a user and a model.
#pragma once

#include <string>
#include <vector>

namespace chatglm {

// A function that the model asks to be called. `arguments` is the text of a JSON object, whatever the model
// wrote; nothing of it was run as code.
struct FunctionMessage {
    std::string name;
    std::string arguments;
    bool operator==(const FunctionMessage&) const = default;
};

// Python source that the model asks to be run (ChatGLM3's and GLM-4's code interpreter). Never run by us.
struct CodeMessage {
    std::string input;
    bool operator==(const CodeMessage&) const = default;
};

struct ToolCallMessage {
    static constexpr const char* kTypeFunction = "function";
    static constexpr const char* kTypeCode = "code";
    std::string type;  // "function" or "code"
    FunctionMessage function;
    CodeMessage code;
    // What protocols tell calls apart by: unique within a reply, and the same whenever that reply is read.
    std::string id = {};
    // Of the call; the id is only its name.
    bool operator==(const ToolCallMessage& other) const {
        return type == other.type && function == other.function && code == other.code;
    }
};

// One message of a conversation. `role` is "system", "user", "assistant" or "observation".
struct ChatMessage {
    static constexpr const char* kRoleSystem = "system";
    static constexpr const char* kRoleUser = "user";
    static constexpr const char* kRoleAssistant = "assistant";
    static constexpr const char* kRoleObservation = "observation";
    std::string role;
    std::string content;
    std::vector<ToolCallMessage> tool_calls = {};
    // What a reasoning model thought before its answer, which alone is the `content`. Empty in others.
    std::string reasoning_content = {};
    // In a reply: why something in the `content` that looks like a call of a tool is none. Usually empty.
    std::string tool_call_error = {};
    // In a reply: messages of the conversation that the prompt had no room for.
    int dropped_messages = 0;
    // Of what was said; the prompt is not part of it.
    bool operator==(const ChatMessage& other) const {
        return role == other.role && content == other.content && tool_calls == other.tool_calls &&
               reasoning_content == other.reasoning_content && tool_call_error == other.tool_call_error;
    }
};

}  // namespace chatglm
