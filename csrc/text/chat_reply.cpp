#include "text/chat_reply.h"

#include <algorithm>
#include <cstdio>
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

// FNV-1a.
uint64_t hash(std::string_view text, uint64_t state = 0xcbf29ce484222325) {
    for (const char c : text) state = (state ^ static_cast<unsigned char>(c)) * 0x100000001b3;
    return state;
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

ReplyReader::ReplyReader(const Tokenizer& tokenizer, KnownTools tools)
    : tokenizer_(tokenizer),
      tool_style_(ChatFormat::tool_style(tokenizer)),
      assistant_id_(special_id(tokenizer, "<|assistant|>")),
      think_begin_id_(special_id(tokenizer, kThoughtBegin)),
      think_end_id_(special_id(tokenizer, kThoughtEnd)),
      replaces_placeholder_(tokenizer.chat_format() != "template"),
      widens_punctuation_(tokenizer.chat_format() == "chatglm"),
      utf8_(replace_unit(tokenizer)),
      thought_(tokenizer.thinking()),
      placeholder_(kPlaceholder, kTrainingDate),
      tools_(std::move(tools)) {
    if (tool_style_ != ToolStyle::tagged) return;
    for (const std::string_view tag : kCallTags) {
        if (const int32_t id = special_id(tokenizer, tag); id >= 0) tag_ids_.push_back(id);
    }
}

void ReplyReader::begin_step() {
    reasoning_.clear();
    tool_call_error_.clear();
    first_new_call_ = tool_calls_.size();
}

std::string ReplyReader::put(int32_t id) {
    begin_step();
    const bool is_mark = (thought_.expects_mark() && (id == think_begin_id_ || id == think_end_id_)) ||
                         std::find(tag_ids_.begin(), tag_ids_.end(), id) != tag_ids_.end();
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
    begin_step();
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
    if (tool_style_ == ToolStyle::tagged) return read_tagged(tagged_.put(text));
    if (!undecided_) return clean(text);
    part_ += text;
    if (may_be_tool_call(part_, tool_style_)) return {};
    undecided_ = false;
    return clean(std::exchange(part_, {}));
}

std::string ReplyReader::read_tagged(const std::vector<TaggedCallFilter::Part>& parts) {
    std::string text;
    for (const auto& [kind, content] : parts) {
        if (kind == TaggedCallFilter::Part::text) {
            text += clean(content);
            continue;
        }
        const bool is_cut = kind == TaggedCallFilter::Part::cut_call;
        if (auto call = is_cut ? std::nullopt : parse_tagged_call(content, tools_)) {
            add_call(std::move(*call));
            continue;
        }
        tool_call_error_ = std::string("The call of a tool cannot be read: ") +
                           (is_cut ? "it has no end." : "its tags do not hold a name and arguments.");
        text += clean(std::string(kCallBegin) + content + std::string(is_cut ? "" : kCallEnd));
    }
    return text;
}

void ReplyReader::add_call(ToolCallMessage call) {
    const std::string index = std::to_string(tool_calls_.size());
    const std::string_view what = call.type == ToolCallMessage::kTypeCode
                                      ? std::string_view(call.code.input)
                                      : std::string_view(call.function.arguments);
    char digits[17];
    std::snprintf(digits, sizeof digits, "%016llx",
                  static_cast<unsigned long long>(hash(what, hash(call.function.name))));
    call.id = "call_" + index + "_" + digits;
    tool_calls_.push_back(std::move(call));
}

std::string ReplyReader::end_part() {
    std::string rest = utf8_.finish();
    if (!thought_.ended()) {
        rest = answer_of(thought_.put(rest));
        rest += answer_of(thought_.finish());
    }
    if (tool_style_ == ToolStyle::tagged) {
        std::string text = read_tagged(tagged_.put(rest));
        return text + read_tagged(tagged_.finish());
    }
    if (!undecided_) return clean(rest);
    undecided_ = false;
    const std::string part = std::exchange(part_, {}) + rest;
    if (auto call = parse_tool_call(part, tool_style_)) {
        add_call(std::move(*call));
        return {};
    }
    tool_call_error_ = chatglm::tool_call_error(part, tool_style_, tools_);
    return clean(part);
}

std::string ReplyReader::clean(std::string_view text) {
    std::string out = strip_.put(text);
    if (replaces_placeholder_) out = placeholder_.put(out);
    if (widens_punctuation_) out = punctuation_.put(out);
    return out;
}

ChatMessage Tokenizer::decode_message(const std::vector<int32_t>& ids, const std::string& tools) const {
    ReplyReader reader(*this, KnownTools(tools));
    ChatMessage message;
    message.role = ChatMessage::kRoleAssistant;
    const auto add = [&](const std::string& text) {
        message.content += text;
        message.reasoning_content += reader.reasoning();
        if (message.tool_call_error.empty()) message.tool_call_error = reader.tool_call_error();
    };
    for (const int32_t id : ids) add(reader.put(id));
    add(reader.finish());
    message.tool_calls = reader.tool_calls();
    return message;
}

}  // namespace chatglm
