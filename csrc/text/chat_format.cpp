#include "text/chat_format.h"

#include <algorithm>
#include <array>

#include "chatglm/error.h"
#include "text/jinja.h"
#include "text/json.h"
#include "text/special_guard.h"
#include "text/tagged_call.h"
#include "text/thought_filter.h"
#include "text/tool_prompt.h"

namespace chatglm {
namespace {

using Messages = std::vector<ChatMessage>;
using Ids = std::vector<int32_t>;

void append(Ids& ids, const Ids& more) {
    ids.insert(ids.end(), more.begin(), more.end());
}

bool is_assistant(const ChatMessage& message) {
    return message.role == ChatMessage::kRoleAssistant;
}

std::string place(size_t i) {
    return "messages[" + std::to_string(i) + "]";
}

void check_messages(const Messages& messages, const PromptOptions& options) {
    constexpr std::array<std::string_view, 4> kRoles{ChatMessage::kRoleSystem, ChatMessage::kRoleUser,
                                                     ChatMessage::kRoleAssistant,
                                                     ChatMessage::kRoleObservation};
    if (messages.empty()) throw InvalidArgument("A conversation needs at least one message.");
    for (size_t i = 0; i < messages.size(); ++i) {
        if (std::find(kRoles.begin(), kRoles.end(), messages[i].role) == kRoles.end()) {
            throw InvalidArgument("The role of " + place(i) + " is \"" + messages[i].role +
                                  "\"; the roles are system, user, assistant and observation.");
        }
        if (is_assistant(messages[i])) continue;
        if (!messages[i].tool_calls.empty())
            throw InvalidArgument(place(i) + " has tool calls, but only the assistant calls tools.");
        if (!messages[i].reasoning_content.empty())
            throw InvalidArgument(place(i) + " has reasoning_content, but only the assistant thinks.");
    }
    const std::string& last = messages.back().role;
    if (options.add_generation_prompt && last != ChatMessage::kRoleUser &&
        last != ChatMessage::kRoleObservation) {
        throw InvalidArgument(
            "The last message is of the role \"" + last +
            "\"; a conversation to be answered ends with a message of the user, or an observation.");
    }
}

bool has_tools(const PromptOptions& options) {
    return !options.tools.empty() && !parse_tools(options.tools).array()->empty();
}

void check_tools(const Tokenizer& tokenizer, const PromptOptions& options) {
    if (!has_tools(options) || tokenizer.chat_format().empty()) return;
    if (!tokenizer.knows_tools()) {
        throw InvalidArgument(tokenizer.chat_format() == "template"
                                  ? "This model knows no tools: its chat template has no place for them."
                                  : "This model knows no tools: its chat format, \"" +
                                        tokenizer.chat_format() + "\", has no place for them.");
    }
    const KnownTools tools(options.tools);
    for (const char* name : {"interpreter", "python"}) {
        if (is_interpreter(name, ChatFormat::tool_style(tokenizer)) && tools.has(name)) {
            throw InvalidArgument(
                "A function among the tools is named \"" + std::string(name) +
                "\", by which this model calls its code interpreter. Give it another name.");
        }
    }
}

// Messages of the system at the start, then user and assistant in turns: what the first two generations know.
// Returns the index of the first question.
size_t check_rounds(const Messages& messages, const std::string& format) {
    size_t first = 0;
    while (first < messages.size() && messages[first].role == ChatMessage::kRoleSystem) ++first;
    for (size_t i = first; i < messages.size(); ++i) {
        const char* wanted = (i - first) % 2 == 0 ? ChatMessage::kRoleUser : ChatMessage::kRoleAssistant;
        if (messages[i].role != wanted) {
            throw InvalidArgument(
                "The role of " + place(i) + " is \"" + messages[i].role + "\", but the chat format \"" +
                format + "\" knows questions of the user and answers of the assistant in turns only.");
        }
        if (!messages[i].tool_calls.empty()) {
            throw InvalidArgument(place(i) + " has tool calls, which the chat format \"" + format +
                                  "\" does not know.");
        }
    }
    if (first == messages.size()) throw InvalidArgument("The conversation lacks a question of the user.");
    return first;
}

std::string system_text(const Messages& messages, size_t first) {
    std::string text;
    for (size_t i = 0; i < first; ++i) {
        if (!messages[i].content.empty()) text += messages[i].content + "\n\n";
    }
    return text;
}

Ids encode_chatglm(const Tokenizer& tokenizer, const Messages& messages) {
    const size_t first = check_rounds(messages, "chatglm");
    std::string text = system_text(messages, first);
    if (messages.size() == first + 1) {
        text += messages.back().content;
    } else {
        for (size_t i = first; i < messages.size(); i += 2) {
            text += "[Round " + std::to_string((i - first) / 2) + "]\n问：" + messages[i].content + "\n答：";
            if (i + 1 < messages.size()) text += messages[i + 1].content + "\n";
        }
    }
    Ids ids = tokenizer.encode_plain(text);
    append(ids, tokenizer.suffix_ids());
    return ids;
}

Ids encode_chatglm2(const Tokenizer& tokenizer, const Messages& messages) {
    const size_t first = check_rounds(messages, "chatglm2");
    std::string text = system_text(messages, first);
    for (size_t i = first; i < messages.size(); i += 2) {
        text +=
            "[Round " + std::to_string((i - first) / 2 + 1) + "]\n\n问：" + messages[i].content + "\n\n答：";
        if (i + 1 < messages.size()) text += messages[i + 1].content + "\n\n";
    }
    Ids ids = tokenizer.prefix_ids();
    append(ids, tokenizer.encode_plain(text));
    return ids;
}

// One message as ChatGLM3 and GLM-4 see it. An answer with tool calls is several of them.
struct Turn {
    std::string role, metadata, content, reasoning_content = {};
};

// A reply that is kept as the model wrote it has its metadata on the first line.
Turn assistant_turn(const std::string& content) {
    const bool is_call =
        parse_tool_call(content, ToolStyle::chatglm3) || parse_tool_call(content, ToolStyle::glm4);
    if (!is_call) return {ChatMessage::kRoleAssistant, "", content};
    const size_t newline = content.find('\n');
    return {ChatMessage::kRoleAssistant, content.substr(0, newline), content.substr(newline + 1)};
}

std::vector<Turn> split_turns(const Messages& messages, ToolStyle style) {
    std::vector<Turn> turns;
    for (const ChatMessage& message : messages) {
        if (!is_assistant(message)) {
            turns.push_back({message.role, "", message.content});
            continue;
        }
        const size_t first = turns.size();
        if (message.tool_calls.empty()) turns.push_back(assistant_turn(message.content));
        if (!message.tool_calls.empty() && !message.content.empty())
            turns.push_back({message.role, "", message.content});
        for (const ToolCallMessage& call : message.tool_calls) {
            WrittenToolCall written = write_tool_call(call, style);
            turns.push_back({message.role, std::move(written.name), std::move(written.content)});
        }
        turns[first].reasoning_content = message.reasoning_content;
    }
    return turns;
}

int32_t role_id(const Tokenizer& tokenizer, const std::string& role) {
    const std::string spelling = "<|" + role + "|>";
    const int32_t id = tokenizer.token_id(spelling);
    if (id < 0) {
        throw FormatError("The vocabulary lacks the token " + spelling + ", which the chat format \"" +
                          tokenizer.chat_format() + "\" needs. Convert the checkpoint again.");
    }
    return id;
}

Ids encode_roles(const Tokenizer& tokenizer, const Messages& messages, const PromptOptions& options,
                 ToolStyle style) {
    const Messages all =
        options.tools.empty() ? messages : with_tools(messages, parse_tools(options.tools), style);
    Ids ids = tokenizer.prefix_ids();
    for (const Turn& turn : split_turns(all, style)) {
        if (style == ToolStyle::glm4 && turn.content.empty()) continue;
        ids.push_back(role_id(tokenizer, turn.role));
        append(ids, tokenizer.encode_plain(turn.metadata + "\n"));
        append(ids, tokenizer.encode_plain(turn.content));
    }
    if (options.add_generation_prompt) ids.push_back(role_id(tokenizer, ChatMessage::kRoleAssistant));
    return ids;
}

// --- templates ---

bool mentions(const std::string& source, std::string_view word) {
    return source.find(word) != std::string::npos;
}

bool mentions_quoted(const std::string& source, const std::string& word) {
    return mentions(source, "'" + word + "'") || mentions(source, '"' + word + '"');
}

// A reply that is given back whole holds its thought. Templates cut it off by its marks, which must stay
// whole for that even where they are special tokens.
std::string protect_reply(std::string_view reply, const std::string& source, const SpecialGuard& guard) {
    if (!mentions(source, kThoughtEnd)) return guard.protect(reply);
    std::string out;
    for (;;) {
        const size_t at = std::min(reply.find(kThoughtBegin), reply.find(kThoughtEnd));
        out += guard.protect(reply.substr(0, at));
        if (at == std::string_view::npos) return out;
        const std::string_view mark =
            reply.substr(at).starts_with(kThoughtBegin) ? kThoughtBegin : kThoughtEnd;
        out += mark;
        reply.remove_prefix(at + mark.size());
    }
}

// Templates of the GLM kind take a tool's name as `metadata` and its output as an "observation"; the others
// take `tool_calls` and the role "tool". What the assistant thought goes to templates that ask for it.
Json template_messages(const Messages& messages, const std::string& source, const SpecialGuard& guard) {
    const auto text = [&](const std::string& content) { return Json(guard.protect(content)); };
    const auto said = [&](const std::string& role, const std::string& content) {
        return role == ChatMessage::kRoleAssistant ? Json(protect_reply(content, source, guard))
                                                   : text(content);
    };
    const bool is_glm = mentions(source, "metadata");
    const bool has_observations =
        is_glm || mentions_quoted(source, "observation") || !mentions_quoted(source, "tool");
    const auto add_thought = [&](Json::Object& message, const std::string& thought) {
        if (!thought.empty() && mentions(source, "reasoning_content"))
            message.emplace_back("reasoning_content", text(thought));
    };
    const auto role = [&](const std::string& name) {
        return Json(name == ChatMessage::kRoleObservation && !has_observations ? "tool" : name);
    };
    Json::Array out;
    if (is_glm) {
        for (const Turn& turn : split_turns(messages, ToolStyle::glm4)) {
            Json::Object message{{"role", role(turn.role)}, {"content", said(turn.role, turn.content)}};
            if (!turn.metadata.empty()) message.emplace_back("metadata", text(turn.metadata));
            add_thought(message, turn.reasoning_content);
            out.emplace_back(std::move(message));
        }
        return out;
    }
    for (const ChatMessage& message : messages) {
        Json::Object entry{{"role", role(message.role)}, {"content", said(message.role, message.content)}};
        add_thought(entry, message.reasoning_content);
        Json::Array calls;
        for (const ToolCallMessage& call : message.tool_calls) {
            const WrittenToolCall written = write_tool_call(call, ToolStyle::glm4);
            Json arguments = call.type == ToolCallMessage::kTypeFunction
                                 ? protect_strings(Json::parse(written.content), guard)
                                 : Json(Json::Object{{"code", text(written.content)}});
            calls.emplace_back(Json::Object{{"type", "function"},
                                            {"function", Json::Object{{"name", text(written.name)},
                                                                      {"arguments", std::move(arguments)}}}});
        }
        if (!calls.empty()) entry.emplace_back("tool_calls", std::move(calls));
        out.emplace_back(std::move(entry));
    }
    return out;
}

// What a template does not know it leaves out without a word.
void check_known(const Messages& messages, const std::string& source) {
    if (mentions(source, "metadata")) return;
    for (size_t i = 0; i < messages.size(); ++i) {
        if (!messages[i].tool_calls.empty() && !mentions(source, "tool_calls"))
            throw InvalidArgument(place(i) +
                                  " has tool calls, which this model's chat template does not know.");
        if (messages[i].role == ChatMessage::kRoleObservation && !mentions(source, "observation") &&
            !mentions(source, "tool")) {
            throw InvalidArgument(place(i) +
                                  " is an observation, which this model's chat template does not know.");
        }
    }
}

// Everything of a conversation that a template may print.
std::vector<std::string_view> texts_of(const Messages& messages, const std::string& source,
                                       const PromptOptions& options) {
    std::vector<std::string_view> texts{source, options.tools};
    for (const ChatMessage& message : messages) {
        texts.insert(texts.end(), {message.content, message.reasoning_content});
        for (const ToolCallMessage& call : message.tool_calls) {
            texts.insert(texts.end(), {call.function.name, call.function.arguments, call.code.input});
        }
    }
    return texts;
}

std::string render_template(const Tokenizer& tokenizer, const std::string& source, const Messages& messages,
                            const PromptOptions& options, const SpecialGuard& guard) {
    check_known(messages, source);
    Json all = template_messages(messages, source, guard);
    Json variables = Json::Object{};
    if (has_tools(options)) {
        const Json wrapped = wrap_tools(parse_tools(options.tools), [&](const std::string& type) {
            return mentions_quoted(source, type);
        });
        const Json tools = protect_strings(wrapped, guard);
        variables.set("tools", tools);
        // GLM-4's own template looks for them in a message.
        if (mentions(source, "['tools']") || mentions(source, "[\"tools\"]") || mentions(source, ".tools")) {
            Json::Object holder{{"role", "system"}, {"content", ""}, {"tools", tools}};
            all.array()->insert(all.array()->begin(), std::move(holder));
        }
    }
    variables.set("messages", std::move(all));
    variables.set("add_generation_prompt", options.add_generation_prompt);
    const Ids& eos_ids = tokenizer.eos_ids();
    variables.set("eos_token", eos_ids.empty() ? "" : tokenizer.token_bytes(eos_ids[0], false));
    variables.set("bos_token", "");
    return jinja::Template(source).render(variables);
}

}  // namespace

Ids ChatFormat::encode(const Tokenizer& tokenizer, const Messages& messages, const PromptOptions& options) {
    check_messages(messages, options);
    check_tools(tokenizer, options);
    const std::string& format = tokenizer.chat_format();
    if (format == "chatglm3") return encode_roles(tokenizer, messages, options, ToolStyle::chatglm3);
    if (format == "glm4") return encode_roles(tokenizer, messages, options, ToolStyle::glm4);
    if (format == "template") return encode_template(tokenizer, messages, options);
    if (format == "chatglm") return encode_chatglm(tokenizer, messages);
    if (format == "chatglm2") return encode_chatglm2(tokenizer, messages);
    if (format.empty()) {
        throw InvalidArgument(
            "This model has no chat format: it is a base model that continues text. Use generate instead of "
            "chat.");
    }
    throw FormatError("The chat format \"" + format +
                      "\" is not known; the formats are chatglm, chatglm2, chatglm3, glm4 and template.");
}

Ids ChatFormat::encode_template(const Tokenizer& tokenizer, const Messages& messages,
                                const PromptOptions& options) {
    const std::string& source = tokenizer.chat_template_;
    const SpecialGuard guard(tokenizer, texts_of(messages, source, options));
    return guard.encode(render_template(tokenizer, source, messages, options, guard));
}

std::string ChatFormat::render(const Tokenizer& tokenizer, const Messages& messages,
                               const PromptOptions& options) {
    check_messages(messages, options);
    check_tools(tokenizer, options);
    const std::string& source = tokenizer.chat_template_;
    const SpecialGuard guard(tokenizer, texts_of(messages, source, options));
    return guard.unprotect(render_template(tokenizer, source, messages, options, guard));
}

ToolStyle ChatFormat::tool_style(const Tokenizer& tokenizer) {
    const std::string& format = tokenizer.chat_format();
    const std::string& source = tokenizer.chat_template_;
    if (format == "chatglm3") return ToolStyle::chatglm3;
    if (format == "glm4") return ToolStyle::glm4;
    if (format != "template") return ToolStyle::none;
    if (mentions(source, kCallBegin)) return ToolStyle::tagged;
    return mentions(source, "metadata") || mentions(source, "tools") ? ToolStyle::glm4 : ToolStyle::none;
}

Thinking ChatFormat::thinking(const Tokenizer& tokenizer) {
    const std::string& source = tokenizer.chat_template_;
    if (tokenizer.chat_format() == "template" && mentions(source, kThoughtBegin)) {
        try {
            const std::string prompt = render(tokenizer, {{ChatMessage::kRoleUser, "?"}});
            const size_t end = prompt.find_last_not_of(" \t\r\n") + 1;
            if (prompt.substr(0, end).ends_with(kThoughtBegin)) return Thinking::by_prompt;
        } catch (const Error&) {
            // The user learns of it with the first chat; everything else works without a template.
        }
    }
    const auto is_mark = [&](std::string_view spelling) {
        const int32_t id = tokenizer.token_id(spelling);
        return id >= 0 && tokenizer.is_special(id);
    };
    const bool thinks = mentions(source, kThoughtEnd) || (is_mark(kThoughtBegin) && is_mark(kThoughtEnd));
    return thinks ? Thinking::by_model : Thinking::none;
}

Ids Tokenizer::apply_chat_template(const Messages& messages, const std::string& tools) const {
    PromptOptions options;
    options.tools = tools;
    return ChatFormat::encode(*this, messages, options);
}

bool Tokenizer::knows_tools() const {
    if (chat_format_ == "template") return mentions(chat_template_, "tools");
    return chat_format_ == "chatglm3" || chat_format_ == "glm4";
}

}  // namespace chatglm
