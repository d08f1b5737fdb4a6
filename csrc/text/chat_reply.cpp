#include "text/chat_reply.h"

#include <utility>

#include "text/chat_format.h"
#include "text/jinja_value.h"

namespace chatglm {
namespace {

// The training data says this where the date of training should be; the original code fills it in.
constexpr std::string_view kPlaceholder = "[[训练时间]]";
constexpr std::string_view kTrainingDate = "2023年";

bool is_chinese(char32_t c) {
    return c >= 0x4E00 && c <= 0x9FFF;
}

std::string_view full_width(char mark) {
    switch (mark) {
        case ',':
            return "，";
        case '!':
            return "！";
        case ':':
            return "：";
        case ';':
            return "；";
        case '?':
            return "？";
        default:
            return {};
    }
}

int32_t special_id(const Tokenizer& tokenizer, std::string_view spelling) {
    const int32_t id = tokenizer.token_id(spelling);
    return id >= 0 && tokenizer.is_special(id) ? id : -1;
}

}  // namespace

std::string StripFilter::put(std::string_view text) {
    std::string out;
    for (size_t pos = 0; pos < text.size();) {
        const Utf8Char next = decode_utf8(text.substr(pos));
        const std::string_view character = text.substr(pos, static_cast<size_t>(next.length));
        pos += character.size();
        if (jinja::is_python_space(next.code_point)) {
            if (!at_start_) held_ += character;
            continue;
        }
        out += held_;
        out += character;
        held_.clear();
        at_start_ = false;
        started_ = true;
    }
    return out;
}

void StripFilter::next_part() {
    at_start_ = true;
    held_ = started_ ? "\n" : "";
}

std::string ReplaceFilter::put(std::string_view text) {
    held_ += text;
    std::string out;
    for (size_t at = held_.find(from_); at != std::string::npos; at = held_.find(from_)) {
        out.append(held_, 0, at);
        out += to_;
        held_.erase(0, at + from_.size());
    }
    // Only what can be the beginning of another placeholder stays back.
    const size_t sure = held_.size() - begun_mark(held_, from_);
    out.append(held_, 0, sure);
    held_.erase(0, sure);
    return out;
}

std::string ReplaceFilter::finish() {
    return std::exchange(held_, {});
}

std::string PunctuationFilter::put(std::string_view text) {
    std::string out;
    for (size_t pos = 0; pos < text.size();) {
        const Utf8Char next = decode_utf8(text.substr(pos));
        const std::string_view character = text.substr(pos, static_cast<size_t>(next.length));
        pos += character.size();
        const bool chinese = is_chinese(next.code_point);
        if (held_) {
            out += chinese ? full_width(held_) : std::string_view(&held_, 1);
            held_ = 0;
        }
        const std::string_view wide = character.size() == 1 ? full_width(character[0]) : std::string_view();
        if (wide.empty()) {
            out += character;
        } else if (after_chinese_) {
            out += wide;
        } else {
            held_ = character[0];
        }
        after_chinese_ = chinese;
    }
    return out;
}

std::string PunctuationFilter::finish() {
    return held_ ? std::string(1, std::exchange(held_, '\0')) : std::string();
}

ReplyReader::ReplyReader(const Tokenizer& tokenizer)
    : tokenizer_(tokenizer),
      tool_style_(ChatFormat::tool_style(tokenizer)),
      assistant_id_(special_id(tokenizer, "<|assistant|>")),
      think_begin_id_(special_id(tokenizer, kThoughtBegin)),
      think_end_id_(special_id(tokenizer, kThoughtEnd)),
      replaces_placeholder_(tokenizer.chat_format() != "template"),
      widens_punctuation_(tokenizer.chat_format() == "chatglm"),
      utf8_(replace_unit(tokenizer)),
      thought_(tokenizer.thinking()),
      placeholder_(kPlaceholder, kTrainingDate) {}

std::string ReplyReader::put(int32_t id) {
    reasoning_.clear();
    const bool is_mark = thought_.expects_mark() && (id == think_begin_id_ || id == think_end_id_);
    const std::string bytes = tokenizer_.token_bytes(id, !is_mark);  // also refuses ids that do not exist
    if (done_) return {};
    if (tokenizer_.is_eos(id)) {
        done_ = true;
        return end_part();
    }
    if (id != assistant_id_) return read(utf8_.put(bytes));
    std::string text = end_part();
    strip_.next_part();
    undecided_ = true;
    return text;
}

std::string ReplyReader::finish() {
    reasoning_.clear();
    std::string text = done_ ? std::string() : end_part();
    done_ = true;
    std::string rest = replaces_placeholder_ ? placeholder_.finish() : std::string();
    if (widens_punctuation_) rest = punctuation_.put(rest) + punctuation_.finish();
    return text + rest;
}

std::string ReplyReader::read(std::string_view text) {
    return thought_.ended() ? read_answer(text) : read_answer(answer_of(thought_.put(text)));
}

// What is left when the thought is taken out.
std::string ReplyReader::answer_of(ThoughtFilter::Parts parts) {
    reasoning_ += strip_thought_.put(parts.thought);
    return std::move(parts.answer);
}

std::string ReplyReader::read_answer(std::string_view text) {
    if (!undecided_) return clean(text);
    part_ += text;
    if (may_be_tool_call(part_, tool_style_)) return {};
    undecided_ = false;
    return clean(std::exchange(part_, {}));
}

std::string ReplyReader::end_part() {
    std::string rest = utf8_.finish();
    if (!thought_.ended()) {
        rest = answer_of(thought_.put(rest));
        rest += answer_of(thought_.finish());
    }
    if (!undecided_) return clean(rest);
    undecided_ = false;
    const std::string part = std::exchange(part_, {}) + rest;
    if (auto call = parse_tool_call(part, tool_style_)) {
        tool_calls_.push_back(std::move(*call));
        return {};
    }
    return clean(part);
}

std::string ReplyReader::clean(std::string_view text) {
    std::string out = strip_.put(text);
    if (replaces_placeholder_) out = placeholder_.put(out);
    if (widens_punctuation_) out = punctuation_.put(out);
    return out;
}

ChatMessage Tokenizer::decode_message(const std::vector<int32_t>& ids) const {
    ReplyReader reader(*this);
    ChatMessage message;
    message.role = ChatMessage::kRoleAssistant;
    for (const int32_t id : ids) {
        message.content += reader.put(id);
        message.reasoning_content += reader.reasoning();
    }
    message.content += reader.finish();
    message.reasoning_content += reader.reasoning();
    message.tool_calls = reader.tool_calls();
    return message;
}

}  // namespace chatglm
