// A conversation of the user with a model, or one text that it continues.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "chatglm/pipeline.h"
#include "tools/chat/settings.h"

namespace chatglm {

class Conversation {
  public:
    // Loads the model, and the conversation of --session if there is one. `settings` must outlive it.
    explicit Conversation(const Settings& settings);

    // Prints the reply to `prompt`. False when Ctrl-C stopped it.
    bool answer(const std::string& prompt);

    // Answers the lines of standard input.
    void converse();

  private:
    void resume();
    void save();
    bool calls_tool() const { return !messages_.empty() && !messages_.back().tool_calls.empty(); }
    bool print(ChatStream& reply) const;

    const Settings& s_;
    ChatOptions options_;
    std::unique_ptr<Pipeline> pipeline_;
    std::vector<ChatMessage> messages_;
    size_t n_fixed_ = 0;  // the system message stays
};

}  // namespace chatglm
