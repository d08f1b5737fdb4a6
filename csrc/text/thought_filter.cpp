#include "text/thought_filter.h"

#include <algorithm>
#include <utility>

namespace chatglm {
namespace {

constexpr std::string_view kWhitespace = " \t\r\n";

}  // namespace

size_t begun_mark(std::string_view text, std::string_view mark) {
    size_t length = std::min(text.size(), mark.size() - 1);
    while (length > 0 && !mark.starts_with(text.substr(text.size() - length))) --length;
    return length;
}

ThoughtFilter::ThoughtFilter(Thinking thinking)
    : always_(thinking == Thinking::by_prompt),
      state_(thinking == Thinking::none ? State::answer : State::start) {}

ThoughtFilter::Parts ThoughtFilter::put(std::string_view text) {
    Parts parts;
    held_ += text;
    if (state_ == State::start) begin();
    if (state_ == State::thought) think(parts);
    if (state_ == State::gap) skip_gap();
    if (state_ == State::answer) parts.answer = std::exchange(held_, {});
    return parts;
}

ThoughtFilter::Parts ThoughtFilter::finish() {
    const bool is_thought = state_ == State::thought || (state_ == State::start && always_);
    if (state_ == State::gap) held_.clear();
    state_ = State::answer;
    std::string rest = std::exchange(held_, {});
    return is_thought ? Parts{std::move(rest), {}} : Parts{{}, std::move(rest)};
}

// A model whose prompt has begun the thought may begin it again: that is no part of the thought. One that
// ends it at once has an empty thought, whoever began it.
void ThoughtFilter::begin() {
    const std::string_view rest =
        std::string_view(held_).substr(std::min(held_.find_first_not_of(kWhitespace), held_.size()));
    if (begun_mark(rest, kThoughtBegin) == rest.size() || begun_mark(rest, kThoughtEnd) == rest.size())
        return;
    const bool thinks = always_ || rest.starts_with(kThoughtBegin) || rest.starts_with(kThoughtEnd);
    if (rest.starts_with(kThoughtBegin)) held_.erase(0, held_.size() - rest.size() + kThoughtBegin.size());
    state_ = thinks ? State::thought : State::answer;
}

void ThoughtFilter::think(Parts& parts) {
    const size_t end = held_.find(kThoughtEnd);
    if (end != std::string::npos) {
        parts.thought = held_.substr(0, end);
        held_.erase(0, end + kThoughtEnd.size());
        state_ = State::gap;
        return;
    }
    const size_t sure = held_.size() - begun_mark(held_, kThoughtEnd);
    parts.thought = held_.substr(0, sure);
    held_.erase(0, sure);
}

void ThoughtFilter::skip_gap() {
    held_.erase(0, held_.find_first_not_of(kWhitespace));
    if (!held_.empty()) state_ = State::answer;
}

}  // namespace chatglm
