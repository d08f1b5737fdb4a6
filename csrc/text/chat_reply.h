// From the ids of a reply to its text and its calls of tools. The original code works on the finished reply;
// here every step works on the stream, so that a stream and a finished reply have the same text.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "chatglm/tokenizer.h"
#include "text/known_tools.h"
#include "text/tagged_call.h"
#include "text/thought_filter.h"
#include "text/tool_call.h"
#include "text/utf8_stream.h"

namespace chatglm {

// SentencePiece replaces every broken byte, the others every broken sequence.
inline Replace replace_unit(const Tokenizer& tokenizer) {
    return tokenizer.strips_leading_space() ? Replace::byte : Replace::sequence;
}

// Drops whitespace at the start and at the end of a text, as Python's strip() does.
class StripFilter {
  public:
    std::string put(std::string_view text);
    // The next text is another part: one line break stands between the two, unless one of them is empty.
    void next_part();

  private:
    std::string held_;  // whitespace that is dropped if nothing follows
    bool started_ = false, at_start_ = true;
};

// Replaces a placeholder that may come in pieces.
class ReplaceFilter {
  public:
    ReplaceFilter(std::string_view from, std::string_view to) : from_(from), to_(to) {}
    std::string put(std::string_view text);
    std::string finish();

  private:
    std::string from_, to_, held_;
};

// ChatGLM-6B's replies: the marks , ! : ; ? beside a Chinese character become full-width.
class PunctuationFilter {
  public:
    std::string put(std::string_view text);
    std::string finish();

  private:
    char held_ = 0;  // a mark that waits for the character after it
    bool after_chinese_ = false;
};

class ReplyReader {
  public:
    // `tools` are those that the prompt told of.
    explicit ReplyReader(const Tokenizer& tokenizer, KnownTools tools = {});
    // Text of the answer that can be shown. Nothing comes after an id that ends the reply.
    std::string put(int32_t id);
    std::string finish();
    // Makes this the end of the reply: what is held back is no part of it.
    void end() { done_ = true; }
    // Text of the thought that became known with the last put or finish; it stands before theirs.
    const std::string& reasoning() const { return reasoning_; }
    // All calls so far; those from first_new_call() on became known with the last put or finish.
    const std::vector<ToolCallMessage>& tool_calls() const { return tool_calls_; }
    size_t first_new_call() const { return first_new_call_; }
    // Why a text that the last put or finish gave looks like a call and is none; empty if there is none.
    const std::string& tool_call_error() const { return tool_call_error_; }

  private:
    void begin_step();
    std::string read(std::string_view text);
    std::string read_answer(std::string_view text);
    std::string read_tagged(const std::vector<TaggedCallFilter::Part>& parts);
    std::string end_part();
    void add_call(ToolCallMessage call);
    std::string answer_of(ThoughtFilter::Parts parts);
    std::string clean(std::string_view text);

    const Tokenizer& tokenizer_;
    ToolStyle tool_style_;
    int32_t assistant_id_;                   // begins a further part; -1: the model has none
    int32_t think_begin_id_, think_end_id_;  // -1: the marks of a thought are no special tokens
    std::vector<int32_t> tag_ids_;           // special tokens among the tags of a call
    bool replaces_placeholder_, widens_punctuation_;
    bool done_ = false;
    Utf8Stream utf8_;
    ThoughtFilter thought_;
    StripFilter strip_thought_;
    std::string reasoning_;
    bool undecided_ = true;  // the part may still be a call of a tool, and is held back in `part_`
    std::string part_;
    StripFilter strip_;
    ReplaceFilter placeholder_;
    PunctuationFilter punctuation_;
    KnownTools tools_;
    TaggedCallFilter tagged_;
    std::vector<ToolCallMessage> tool_calls_;
    size_t first_new_call_ = 0;
    std::string tool_call_error_;
};

}  // namespace chatglm
