#include "text/tool_call.h"

#include <algorithm>

#include "chatglm/error.h"
#include "text/jinja_value.h"
#include "text/json.h"
#include "text/utf8.h"

namespace chatglm {
namespace {

constexpr size_t kMaxNameLength =
    64;                        // what programming interfaces of chat models allow for a function's name
constexpr int kMaxDepth = 50;  // of lists and dictionaries in arguments

bool is_digit(char c) {
    return c >= '0' && c <= '9';
}
bool is_identifier_part(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || is_digit(c);
}
bool is_identifier(std::string_view text) {
    return !text.empty() && !is_digit(text[0]) && std::all_of(text.begin(), text.end(), is_identifier_part);
}

std::string_view strip(std::string_view text, std::string_view characters = " \t\r\n") {
    const size_t first = text.find_first_not_of(characters);
    if (first == std::string_view::npos) return {};
    return text.substr(first, text.find_last_not_of(characters) - first + 1);
}

// Reads Python literals: what a model may write as arguments, and nothing that computes.
class LiteralReader {
  public:
    explicit LiteralReader(std::string_view text) : text_(text) {}

    // The whole text is tool_call(key=value, ...).
    std::optional<Json> call() {
        Json::Object arguments;
        if (!take_word("tool_call") || !take('(')) return std::nullopt;
        bool comma = false;
        while (!take(')')) {
            if (!arguments.empty() && !comma) return std::nullopt;
            const std::string key = word();
            if (!is_identifier(key) || !take('=')) return std::nullopt;
            Json value = this->value(0);
            const bool repeated = std::any_of(arguments.begin(), arguments.end(),
                                              [&](const auto& a) { return a.first == key; });
            if (failed_ || repeated) return std::nullopt;
            arguments.emplace_back(key, std::move(value));
            comma = take(',');
        }
        skip_space();
        if (failed_ || pos_ != text_.size()) return std::nullopt;
        return Json(std::move(arguments));
    }

  private:
    Json fail() {
        failed_ = true;
        return {};
    }
    void skip_space() {
        while (pos_ < text_.size() && std::string_view(" \t\r\n").find(text_[pos_]) != std::string_view::npos)
            ++pos_;
    }
    char peek() const { return pos_ < text_.size() ? text_[pos_] : '\0'; }
    bool take(char c) {
        skip_space();
        if (peek() != c || pos_ >= text_.size()) return false;
        ++pos_;
        return true;
    }
    std::string word() {
        skip_space();
        const size_t start = pos_;
        while (is_identifier_part(peek())) ++pos_;
        return std::string(text_.substr(start, pos_ - start));
    }
    bool take_word(std::string_view wanted) { return word() == wanted; }

    Json value(int depth) {
        skip_space();
        const char c = peek();
        if (depth > kMaxDepth) return fail();
        if (c == '\'' || c == '"') return strings();
        if (c == '[' || c == '(') return items(c == '[' ? ']' : ')', depth);
        if (c == '{') return dict(depth);
        if (is_digit(c) || c == '-' || c == '+' || c == '.') return number();
        const std::string name = word();
        if (name == "True" || name == "true") return true;  // a model may slip into JSON's spelling
        if (name == "False" || name == "false") return false;
        if (name == "None" || name == "null") return nullptr;
        return fail();
    }

    Json strings() {  // neighbours are joined
        std::string out;
        do {
            if (!string(out)) return fail();
            skip_space();
        } while (peek() == '\'' || peek() == '"');
        return out;
    }

    bool string(std::string& out) {
        const char mark = text_[pos_];
        const std::string triple(3, mark);
        const bool is_triple = text_.substr(pos_, 3) == triple;
        const std::string_view end =
            is_triple ? std::string_view(triple) : std::string_view(triple).substr(0, 1);
        pos_ += end.size();
        while (pos_ < text_.size()) {
            if (text_.substr(pos_, end.size()) == end) {
                pos_ += end.size();
                return true;
            }
            if (text_[pos_] == '\n' && !is_triple) return false;
            if (text_[pos_] == '\\') {
                ++pos_;
                if (!escape(out)) return false;
            } else {
                out += text_[pos_++];
            }
        }
        return false;
    }

    bool escape(std::string& out) {
        constexpr std::string_view kNames = "\\'\"abfnrtv";
        constexpr std::string_view kValues = "\\'\"\a\b\f\n\r\t\v";
        const char c = peek();
        if (pos_ >= text_.size()) return false;
        ++pos_;
        if (const size_t named = kNames.find(c); named != std::string_view::npos) {
            out += kValues[named];
            return true;
        }
        if (c == '\n') return true;
        const size_t n_digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
        if (n_digits == 0) {
            if (is_digit(c) || c == 'N') return false;  // octal and named characters: no model writes them
            out += '\\';
            out += c;
            return true;
        }
        char32_t value = 0, low = 0;
        if (!hexadecimal(n_digits, value)) return false;
        const size_t after = pos_;
        if (c == 'u' && value >= 0xD800 && value < 0xDC00 &&
            text_.substr(pos_, 2) == "\\u") {  // JSON's spelling
            pos_ += 2;
            if (hexadecimal(4, low) && low >= 0xDC00 && low < 0xE000) {
                value = 0x10000 + ((value - 0xD800) << 10) + (low - 0xDC00);
            } else {
                pos_ = after;
            }
        }
        append_utf8(out, value);
        return true;
    }

    bool hexadecimal(size_t n_digits, char32_t& value) {
        for (size_t i = 0; i < n_digits; ++i, ++pos_) {
            const size_t digit = std::string_view("0123456789abcdef0123456789ABCDEF").find(peek());
            if (pos_ >= text_.size() || digit == std::string_view::npos) return false;
            value = (value << 4) | static_cast<char32_t>(digit % 16);
        }
        return true;
    }

    Json items(char end, int depth) {
        Json::Array array;
        bool comma = false;
        ++pos_;
        while (!take(end)) {
            if (!array.empty() && !comma) return fail();
            array.push_back(value(depth + 1));
            if (failed_) return {};
            comma = take(',');
        }
        // (x) is x itself, (x,) is a tuple.
        if (end == ')' && array.size() == 1 && !comma) return std::move(array[0]);
        return array;
    }

    Json dict(int depth) {
        Json object = Json::Object{};
        bool first = true, comma = false;
        ++pos_;
        while (!take('}')) {
            if (!first && !comma) return fail();
            skip_space();
            if (peek() != '\'' && peek() != '"') return fail();
            const Json key = strings();
            if (failed_ || !take(':')) return fail();
            Json item = value(depth + 1);
            if (failed_) return {};
            object.set(*key.string(), std::move(item));
            comma = take(',');
            first = false;
        }
        return object;
    }

    Json number() {
        std::string digits = text_[pos_] == '-' ? "-" : "";
        if (text_[pos_] == '-' || text_[pos_] == '+') ++pos_;
        const size_t start = pos_;
        while (is_identifier_part(peek()) || peek() == '.' ||
               ((peek() == '+' || peek() == '-') && pos_ > start &&
                (text_[pos_ - 1] == 'e' || text_[pos_ - 1] == 'E')))
            ++pos_;
        std::string body(text_.substr(start, pos_ - start));
        // Python allows ".5", "5." and "1_000"; JSON, whose reader has the last word, does not.
        if (body.starts_with('.')) body.insert(0, "0");
        if (const size_t point = body.find('.');
            point != std::string::npos && (point + 1 == body.size() || !is_digit(body[point + 1]))) {
            body.insert(point + 1, "0");
        }
        for (size_t i = body.find('_'); i != std::string::npos; i = body.find('_')) {
            if (i == 0 || i + 1 == body.size() || !is_digit(body[i - 1]) || !is_digit(body[i + 1]))
                return fail();
            body.erase(i, 1);
        }
        try {
            return Json::parse(digits + body);
        } catch (const InvalidArgument&) {
            return fail();
        }
    }

    std::string_view text_;
    size_t pos_ = 0;
    bool failed_ = false;
};

// What stands between ``` and ```; the opening line may name the language.
std::optional<std::string_view> fenced(std::string_view text) {
    text = strip(text);
    const size_t first_line = text.find('\n');
    if (!text.starts_with("```") || first_line == std::string_view::npos) return std::nullopt;
    const std::string_view language = strip(text.substr(3, first_line - 3));
    const size_t last_line = text.rfind('\n');
    if (strip(text.substr(last_line)) != "```" || !(language.empty() || is_identifier(language)))
        return std::nullopt;
    return last_line > first_line ? text.substr(first_line + 1, last_line - first_line - 1)
                                  : std::string_view();
}

ToolCallMessage function_call(std::string_view name, std::string arguments) {
    ToolCallMessage call;
    call.type = ToolCallMessage::kTypeFunction;
    call.function = {std::string(name), std::move(arguments)};
    return call;
}

ToolCallMessage code_call(std::string_view code) {
    ToolCallMessage call;
    call.type = ToolCallMessage::kTypeCode;
    call.code.input = std::string(code);
    return call;
}

std::string python_literal(const Json& json) {
    std::string out;
    if (const Json::Array* array = json.array()) {
        for (const Json& item : *array) out += (out.empty() ? "" : ", ") + python_literal(item);
        return "[" + out + "]";
    }
    if (const Json::Object* object = json.object()) {
        for (const auto& [key, item] : *object) {
            out += (out.empty() ? "" : ", ") + jinja::Value(key).repr() + ": " + python_literal(item);
        }
        return "{" + out + "}";
    }
    if (const Json::BigInteger* big = json.big_integer()) return big->digits;
    return jinja::Value::from_json(json).repr();
}

std::string python_call(const std::string& name, const std::string& arguments) {
    // What other programs keep as the arguments of ChatGLM3's calls is the text of the call itself.
    if (LiteralReader(arguments).call()) return std::string(strip(arguments));
    const Json json = Json::parse(arguments);
    const Json::Object* members = json.object();
    if (!members) throw InvalidArgument("the arguments of the tool call \"" + name + "\" are no JSON object");
    const bool keywords =
        std::all_of(members->begin(), members->end(), [](const auto& m) { return is_identifier(m.first); });
    if (!keywords) return "tool_call(**" + python_literal(json) + ")";
    std::string out;
    for (const auto& [key, item] : *members)
        out += (out.empty() ? "" : ", ") + key + "=" + python_literal(item);
    return "tool_call(" + out + ")";
}

}  // namespace

bool is_tool_name(std::string_view text) {
    return !text.empty() && text.size() <= kMaxNameLength &&
           std::all_of(text.begin(), text.end(),
                       [](char c) { return is_identifier_part(c) || c == '-' || c == '.'; });
}

bool is_interpreter(std::string_view name, ToolStyle style) {
    const bool has_interpreter = style == ToolStyle::chatglm3 || style == ToolStyle::glm4;
    return has_interpreter && (name == "interpreter" || (style == ToolStyle::glm4 && name == "python"));
}

bool may_be_tool_call(std::string_view head, ToolStyle style) {
    if (style == ToolStyle::none || style == ToolStyle::tagged) return false;
    const size_t newline = head.find('\n');
    const std::string_view name = strip(head.substr(0, newline));
    if (newline == std::string_view::npos) return name.empty() || is_tool_name(name);
    if (!is_tool_name(name)) return false;
    const std::string_view rest = head.substr(newline + 1);
    if (style == ToolStyle::glm4) {
        if (is_interpreter(name, style)) return true;
        const size_t first = rest.find_first_not_of(" \t\r\n");
        return first == std::string_view::npos || rest[first] == '{';
    }
    const size_t first = std::min(rest.find_first_not_of(" \t\r\n"), rest.size());
    const std::string_view fence = rest.substr(first, 3);
    return std::string_view("```").starts_with(fence);
}

std::optional<ToolCallMessage> parse_tool_call(std::string_view text, ToolStyle style) {
    const size_t newline = text.find('\n');
    if (style == ToolStyle::none || style == ToolStyle::tagged || newline == std::string_view::npos)
        return std::nullopt;
    const std::string_view name = strip(text.substr(0, newline));
    if (!is_tool_name(name)) return std::nullopt;
    const std::string_view content = strip(text.substr(newline + 1));
    const auto block = fenced(content);
    if (is_interpreter(name, style)) {
        if (block) return code_call(*block);
        if (style == ToolStyle::chatglm3 || content.empty() || content.starts_with("```"))
            return std::nullopt;
        return code_call(content);
    }
    if (style == ToolStyle::chatglm3) {
        if (!block) return std::nullopt;
        const auto arguments = LiteralReader(strip(*block)).call();
        return arguments ? std::optional(function_call(name, arguments->dump())) : std::nullopt;
    }
    try {
        if (!Json::parse(content).object()) return std::nullopt;
    } catch (const InvalidArgument&) {
        return std::nullopt;
    }
    return function_call(name, std::string(content));
}

std::string tool_call_error(std::string_view text, ToolStyle style, const KnownTools& tools) {
    const size_t newline = text.find('\n');
    const std::string_view name = strip(text.substr(0, newline));
    if (!is_tool_name(name) || newline == std::string_view::npos || !may_be_tool_call(text, style)) return {};
    const std::string_view content = strip(text.substr(newline + 1));
    const bool is_known = tools.has(name);
    const std::string what = "The call of " + std::string(name) + " cannot be read: ";
    if (content.empty()) return is_known ? what + "the reply ends before the arguments." : std::string();
    if (is_interpreter(name, style)) return what + "the block of code has no end.";
    if (style == ToolStyle::chatglm3) {
        if (!is_known && content.find("tool_call") == std::string_view::npos) return {};
        if (!fenced(content)) return what + "the block with its arguments has no end.";
        return what + "it is not written as tool_call(name=value, ...) with plain values.";
    }
    const size_t next = content.find_first_not_of(" \t\r\n", 1);
    if (!is_known && next != std::string_view::npos && content[next] != '"' && content[next] != '}')
        return {};
    try {
        Json::parse(content);
        return what + "its arguments are no JSON object.";
    } catch (const InvalidArgument& error) {
        return what + error.what();
    }
}

WrittenToolCall write_tool_call(const ToolCallMessage& call, ToolStyle style) {
    if (call.type == ToolCallMessage::kTypeCode) {
        if (style == ToolStyle::glm4) return {"python", call.code.input};
        return {"interpreter", "```python\n" + call.code.input + "\n```"};
    }
    if (call.type != ToolCallMessage::kTypeFunction) {
        throw InvalidArgument("A tool call has the type \"" + call.type +
                              "\"; the types are function and code.");
    }
    const std::string& name = call.function.name;
    if (name.empty() || name.find('\n') != std::string::npos) {
        throw InvalidArgument("A tool call needs the name of its function, on one line.");
    }
    try {
        if (style == ToolStyle::chatglm3) {
            return {name, "```python\n" + python_call(name, call.function.arguments) + "\n```"};
        }
        if (!Json::parse(call.function.arguments).object()) throw InvalidArgument("no object");
    } catch (const InvalidArgument&) {
        throw InvalidArgument("The arguments of the tool call \"" + name +
                              "\" must be the text of a JSON object.");
    }
    return {name, call.function.arguments};
}

}  // namespace chatglm
