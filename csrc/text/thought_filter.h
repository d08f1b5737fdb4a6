// The thought that a reasoning model writes before its answer: <think>...</think>.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "chatglm/tokenizer.h"

namespace chatglm {

constexpr std::string_view kThoughtBegin = "<think>";
constexpr std::string_view kThoughtEnd = "</think>";

// Bytes at the end of `text` that `mark` may go on from: the longest beginning of `mark`, but not all of it.
size_t begun_mark(std::string_view text, std::string_view mark);

// Parts a reply that comes in pieces into its thought and its answer. Only a thought at the very start
// counts, and only one; marks behind it are text. What may be the beginning of a mark is held back.
class ThoughtFilter {
  public:
    explicit ThoughtFilter(Thinking thinking);

    struct Parts {
        std::string thought, answer;  // what came of the thought comes before what came of the answer
    };
    Parts put(std::string_view text);
    // The end of a text, and of a thought that has not ended: what was held back comes out, and all that
    // follows is answer.
    Parts finish();
    // Whether everything from here on is answer.
    bool ended() const { return state_ == State::answer; }
    // Whether a mark that came now would be one.
    bool expects_mark() const { return state_ == State::start || state_ == State::thought; }

  private:
    enum class State {
        start,    // the mark of the beginning may come
        thought,  // the mark of the end may come
        gap,      // white space between the thought and the answer, which belongs to neither
        answer,
    };
    void begin();
    void think(Parts& parts);
    void skip_gap();

    bool always_;  // the prompt has begun the thought
    State state_;
    std::string held_;
};

}  // namespace chatglm
