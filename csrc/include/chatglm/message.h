// What passes between a user and a model.
#pragma once

#include <string>
#include <vector>

namespace chatglm {

// A function that the model asks to be called. `arguments` is the text that the model wrote, never run as
// code.
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
    bool operator==(const ToolCallMessage&) const = default;
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
    bool operator==(const ChatMessage&) const = default;
};

}  // namespace chatglm
