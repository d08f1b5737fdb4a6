// Replies on standard output.
#pragma once

#include <iostream>
#include <string>
#include <utility>

#include "chatglm/chat.h"
#include "chatglm/error.h"
#include "text/message_json.h"
#include "tools/console.h"

namespace chatglm {

inline void flush_output() {
    std::cout.flush();
    if (!std::cout) throw Error("Standard output cannot be written: it is closed, or its disk is full.");
}

// Prints a reply as it comes, or with `sync` when it is complete. A terminal shows the thought too, dimmed
// and with a blank line behind it; elsewhere the answer stands alone. Calls of tools stand
// behind the text, each on a line of its own as JSON.
class ReplyPrinter {
  public:
    explicit ReplyPrinter(bool sync) : sync_(sync) {}

    void put(const DeltaMessage& delta) {
        const std::string &thought = delta.reasoning_content, &answer = delta.content;
        std::string text;
        if (!thought.empty() && shows_thought_) {
            text = has_styles_ ? console::dimmed(thought) : thought;
            after_thought_ = true;
        }
        if (!answer.empty()) text += (std::exchange(after_thought_, false) ? "\n\n" : "") + answer;
        for (const ToolCallDelta& call : delta.tool_calls) {
            calls_ += to_json(call.call).dump() + "\n";
        }
        has_text_ = has_text_ || !text.empty();
        if (sync_) {
            held_ += text;
        } else {
            std::cout << text;
            flush_output();
        }
    }
    void finish() {
        if (has_text_ || calls_.empty()) held_ += "\n";
        std::cout << held_ << calls_;
        flush_output();
    }

  private:
    bool sync_;
    bool shows_thought_ = console::is_terminal(stdout), has_styles_ = console::has_styles();
    bool after_thought_ = false;
    bool has_text_ = false;
    std::string held_, calls_;
};

}  // namespace chatglm
