#include "tools/chat/conversation.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <system_error>
#include <utility>

#include "chatglm/error.h"
#include "tools/chat/reply_printer.h"
#include "tools/chat/texts.h"
#include "tools/console.h"

namespace chatglm {
namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void print_usage(const Progress& p) {
    const auto rate = [](int tokens, double seconds) {
        return seconds > 0 ? std::max(tokens, 0) / seconds : 0.0;
    };
    // The first token of the reply comes with the prompt's last chunk.
    std::fprintf(stderr,
                 "prompt: %d tokens, %d of them cached, %.2f s (%.1f tokens/s); reply: %d tokens, %.2f s "
                 "(%.1f tokens/s)\n",
                 p.prompt_tokens, p.cached_tokens, p.first_token_seconds,
                 rate(p.prompt_tokens - p.cached_tokens, p.first_token_seconds), p.new_tokens,
                 p.seconds - p.first_token_seconds, p.tokens_per_second);
}

}  // namespace

Conversation::Conversation(const Settings& settings) : s_(settings), options_(settings.chat) {
    const auto start = std::chrono::steady_clock::now();
    PipelineOptions options = s_.pipeline;
    options.expected_length = s_.generation.max_length;
    pipeline_ = std::make_unique<Pipeline>(s_.model, options);
    for (const std::string& note : pipeline_->notes()) std::fprintf(stderr, "note: %s\n", note.c_str());
    if (s_.verbose) {
        const ModelConfig& c = pipeline_->config();
        std::fprintf(stderr, "%s: %s, %s, %.2f G parameters, loaded in %.2f s; %s, %d threads, %s cache\n",
                     s_.model.c_str(), console::printable(c.name).c_str(), c.dtype.c_str(),
                     static_cast<double>(c.n_parameters) / 1e9, seconds_since(start), pipeline_->isa(),
                     pipeline_->n_threads(), pipeline_->kv_dtype().c_str());
    }
    if (s_.system && !s_.system->empty()) messages_.push_back({ChatMessage::kRoleSystem, *s_.system, {}});
    if (s_.session_path) resume();
    while (n_fixed_ < messages_.size() && messages_[n_fixed_].role == ChatMessage::kRoleSystem) ++n_fixed_;
}

void Conversation::resume() {
    const std::string& path = *s_.session_path;
    std::error_code ignored;
    if (!std::filesystem::exists(std::u8string(path.begin(), path.end()), ignored)) return;
    if (!messages_.empty()) {
        throw InvalidArgument("The conversation in '" + path +
                              "' has begun already; leave out the system message, or name another file.");
    }
    Session session = pipeline_->load_session(path);
    if (s_.verbose) {
        std::fprintf(stderr, "%s: %zu messages, %d tokens of them computed\n", path.c_str(),
                     session.messages.size(), session.cached_tokens);
    }
    messages_ = std::move(session.messages);
    if (!s_.tools_path) options_.tools = std::move(session.tools);
}

void Conversation::save() {
    if (s_.session_path) pipeline_->save_session(*s_.session_path, messages_, options_.tools);
}

bool Conversation::answer(const std::string& prompt) {
    if (s_.mode == "generate") return print(*pipeline_->stream_generate(prompt, s_.generation));
    auto asked = messages_;
    asked.push_back({calls_tool() ? ChatMessage::kRoleObservation : ChatMessage::kRoleUser, prompt, {}});
    const auto stream = pipeline_->stream_chat(asked, s_.generation, options_);
    const bool complete = print(*stream);
    const ChatMessage& reply = stream->message();
    const bool answered = !reply.content.empty() || !reply.tool_calls.empty();
    if (reply.dropped_messages > 0)
        std::fprintf(stderr, "%d messages had no room any more.\n", reply.dropped_messages);
    if (!complete && !answered && reply.reasoning_content.empty()) return false;
    const bool cut = stream->generation().finish_reason() == FinishReason::kLength;
    if (cut && !answered && !reply.reasoning_content.empty()) {
        std::fprintf(stderr,
                     "The reply ended in its thought: for an answer raise --max_length or "
                     "--max_new_tokens.\n");
    }
    messages_ = std::move(asked);
    messages_.push_back(reply);
    save();
    return complete;
}

void Conversation::converse() {
    const bool terminal = console::is_terminal(stdin);
    if (terminal) {
        std::fprintf(stderr,
                     "%s. Ask whatever you want. clear forgets the conversation, exit leaves, Ctrl-C stops "
                     "a reply.\n",
                     console::printable(pipeline_->config().name).c_str());
    }
    for (;;) {
        if (terminal) {
            std::cout << (calls_tool() ? "Result of the call > " : "You > ") << std::flush;
        }
        auto line = console::read_line();
        if (!line) break;
        const size_t first = line->find_first_not_of(" \t\r\n");
        if (first == std::string::npos) continue;
        const std::string text = line->substr(first, line->find_last_not_of(" \t\r\n") - first + 1);
        if (text == "stop" || text == "exit" || text == "quit") break;
        if (text == "clear") {
            messages_.resize(n_fixed_);
            continue;
        }
        try {
            check_utf8(text, "The line");
            answer(text);
        } catch (const InvalidArgument& error) {
            std::fprintf(stderr, "%s\n", error.what());
        }
    }
}

// Prints the pieces of a reply as they come. False when Ctrl-C stopped it, and then it keeps what it has.
bool Conversation::print(ChatStream& reply) const {
    const console::InterruptGuard guard;
    ReplyPrinter printer(s_.sync);
    const auto interrupted = [&] { return guard.interrupted(); };
    bool complete = true;
    try {
        DeltaMessage delta;
        while (!interrupted() && reply.next(delta, interrupted)) printer.put(delta);
    } catch (const Interrupted&) {
        complete = false;
    }
    if (!reply.generation().done()) complete = false;
    printer.put(reply.finish());
    printer.finish();
    if (s_.verbose) print_usage(reply.generation().progress());
    return complete;
}

}  // namespace chatglm
