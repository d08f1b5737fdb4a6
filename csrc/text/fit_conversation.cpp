#include "text/fit_conversation.h"

#include <algorithm>
#include <cstddef>
#include <string>
#include <utility>

#include "chatglm/error.h"

namespace chatglm {
namespace {

using Messages = std::vector<ChatMessage>;

// The index of the first message of each turn. What stands before the first question, other than messages of
// the system, belongs to the first turn.
std::vector<size_t> find_turns(const Messages& messages) {
    std::vector<size_t> turns;
    size_t first = 0;
    while (first < messages.size() && messages[first].role == ChatMessage::kRoleSystem) ++first;
    bool has_question = false;  // the turn at hand
    for (size_t i = first; i < messages.size(); ++i) {
        const bool asks = messages[i].role == ChatMessage::kRoleUser;
        if (turns.empty() || (asks && has_question)) turns.push_back(i);
        has_question = has_question || asks;
    }
    return turns;
}

// `messages` without those from `begin` to `end`.
Messages without(const Messages& messages, size_t begin, size_t end) {
    Messages kept(messages.begin(), messages.begin() + static_cast<std::ptrdiff_t>(begin));
    kept.insert(kept.end(), messages.begin() + static_cast<std::ptrdiff_t>(end), messages.end());
    return kept;
}

}  // namespace

WhenFull parse_when_full(std::string_view name) {
    if (name == "error") return WhenFull::error;
    if (name == "drop_oldest") return WhenFull::drop_oldest;
    if (name == "keep_head") return WhenFull::keep_head;
    throw InvalidArgument("when_full is \"" + std::string(name) +
                          "\"; it can be error, drop_oldest or keep_head.");
}

FittedPrompt fit_conversation(const Tokenizer& tokenizer, const Messages& messages,
                              const PromptOptions& options, WhenFull when_full, int max_tokens) {
    const auto fits = [&](const FittedPrompt& prompt) {
        return prompt.ids.size() <= static_cast<size_t>(std::max(max_tokens, 0));
    };
    FittedPrompt whole{ChatFormat::encode(tokenizer, messages, options), 0};
    if (when_full == WhenFull::error || fits(whole)) return whole;

    const std::vector<size_t> turns = find_turns(messages);
    const size_t first = when_full == WhenFull::keep_head ? 1 : 0;  // of the turns that may go
    if (turns.size() <= first + 1) return whole;
    const auto drop = [&](size_t n) {  // turns
        const size_t begin = turns[first], end = turns[first + n];
        return FittedPrompt{ChatFormat::encode(tokenizer, without(messages, begin, end), options),
                            static_cast<int>(end - begin)};
    };
    // A prompt grows with its turns: the fewest to drop are found by halving.
    size_t too_few = 0, enough = turns.size() - 1 - first;
    FittedPrompt best = drop(enough);
    if (!fits(best)) return best;
    while (enough - too_few > 1) {
        const size_t n = too_few + (enough - too_few) / 2;
        FittedPrompt prompt = drop(n);
        if (fits(prompt)) {
            enough = n;
            best = std::move(prompt);
        } else {
            too_few = n;
        }
    }
    return best;
}

}  // namespace chatglm
