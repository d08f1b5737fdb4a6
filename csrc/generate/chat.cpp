#include "chatglm/chat.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "chatglm/error.h"
#include "chatglm/pipeline.h"
#include "text/fit_conversation.h"
#include "text/thought_filter.h"
#include "text/utf8_stream.h"

namespace chatglm {
namespace {

// A prompt that begins a thought gets its end: in a reply of a given format there is no place for one.
std::vector<int32_t> end_of_thought(const Tokenizer& tokenizer, const std::vector<int32_t>& prompt) {
    constexpr std::ptrdiff_t kEnough = 16;  // ids that spell the mark and what may stand behind it
    const auto n = std::min(kEnough, static_cast<std::ptrdiff_t>(prompt.size()));
    std::string end = tokenizer.decode({prompt.end() - n, prompt.end()}, false);
    end.erase(end.find_last_not_of(" \t\r\n") + 1);
    if (!end.ends_with(kThoughtBegin)) return {};
    return tokenizer.encode_special(std::string(kThoughtEnd) + "\n");
}

}  // namespace

struct ChatStream::State {
    std::unique_ptr<Generation> generation;
    TextStreamer streamer;
    ChatMessage message{ChatMessage::kRoleAssistant, ""};
    DeltaMessage pending = {};  // tokens whose text is not complete
    bool finished = false;

    // What came with the last put or finish of the streamer.
    DeltaMessage take(std::string text) {
        DeltaMessage delta = std::exchange(pending, {});
        delta.content = std::move(text);
        delta.reasoning_content = streamer.reasoning();
        delta.tool_call_error = streamer.tool_call_error();
        const auto& calls = streamer.tool_calls();
        for (size_t i = streamer.first_new_call(); i < calls.size(); ++i)
            delta.tool_calls.push_back({i, calls[i]});
        message.content += delta.content;
        message.reasoning_content += delta.reasoning_content;
        if (message.tool_call_error.empty()) message.tool_call_error = delta.tool_call_error;
        for (const ToolCallDelta& call : delta.tool_calls) message.tool_calls.push_back(call.call);
        return delta;
    }
    bool has_news(const std::string& text) const {
        return !text.empty() || !streamer.reasoning().empty() ||
               streamer.first_new_call() < streamer.tool_calls().size();
    }
};

ChatStream::ChatStream(std::unique_ptr<State> state) : state_(std::move(state)) {}
ChatStream::~ChatStream() = default;

bool ChatStream::next(DeltaMessage& delta, const std::function<bool()>& interrupted) {
    State& s = *state_;
    int32_t token = 0;
    while (!s.generation->done()) {
        if (!s.generation->step(token, interrupted)) continue;
        s.pending.token_ids.push_back(token);
        if (auto logprobs = s.generation->logprobs()) s.pending.logprobs.push_back(std::move(*logprobs));
        std::string text = s.streamer.put(token);
        if (s.streamer.stopped()) s.generation->stop();
        if (!s.has_news(text)) continue;
        delta = s.take(std::move(text));
        return true;
    }
    if (s.finished) return false;
    delta = finish();
    return !(delta.content.empty() && delta.reasoning_content.empty() && delta.tool_calls.empty() &&
             delta.token_ids.empty());
}

DeltaMessage ChatStream::finish() {
    State& s = *state_;
    if (std::exchange(s.finished, true)) return {};
    std::string text = s.streamer.finish();
    if (s.streamer.stopped()) s.generation->stop();
    s.generation->cancel();
    return s.take(std::move(text));
}

const ChatMessage& ChatStream::message() const {
    return state_->message;
}
Generation& ChatStream::generation() const {
    return *state_->generation;
}

int prompt_room(const GenerationConfig& config, int model_length) {
    const int length = std::max(std::min(config.max_length, model_length), 1);
    const int reply = config.max_new_tokens > 0 ? std::min(config.max_new_tokens, length / 2) : length / 4;
    const int room = length - std::max(reply, 1);
    return config.max_context_length > 0 ? std::min(room, config.max_context_length) : room;
}

std::unique_ptr<ChatStream> Pipeline::stream_chat(const std::vector<ChatMessage>& messages,
                                                  const GenerationConfig& config,
                                                  const ChatOptions& options) {
    if (options.constraint && !options.tools.empty()) {
        throw InvalidArgument(
            "tools and a format are given; a reply of a given format calls no tools. Leave out one.");
    }
    PromptOptions prompt_options;
    prompt_options.tools = options.tools;
    FittedPrompt prompt = fit_conversation(tokenizer(), messages, prompt_options, options.when_full,
                                           prompt_room(config, this->config().max_length));
    if (options.constraint) {
        const std::vector<int32_t> end = end_of_thought(tokenizer(), prompt.ids);
        prompt.ids.insert(prompt.ids.end(), end.begin(), end.end());
    }
    const auto mode = options.constraint ? TextStreamer::kExact : TextStreamer::kReply;
    TextStreamer streamer(tokenizer(), mode, config.stop, options.tools);
    auto state = std::make_unique<ChatStream::State>(
        ChatStream::State{start(std::move(prompt.ids), config, options.constraint), std::move(streamer)});
    state->message.dropped_messages = prompt.dropped_messages;
    return std::unique_ptr<ChatStream>(new ChatStream(std::move(state)));
}

ChatMessage Pipeline::chat(const std::vector<ChatMessage>& messages, const GenerationConfig& config,
                           const ChatOptions& options, const DeltaCallback& on_delta) {
    const auto stream = stream_chat(messages, config, options);
    DeltaMessage delta;
    while (stream->next(delta)) {
        if (on_delta && !on_delta(delta)) {
            stream->finish();
            break;
        }
    }
    return stream->message();
}

ChatMessage Pipeline::chat(const std::vector<ChatMessage>& messages, const GenerationConfig& config,
                           const TextCallback& on_text, const TextCallback& on_reasoning) {
    const auto give = [](const std::string& text, const TextCallback& to) {
        return text.empty() || !to || to(text);
    };
    return chat(messages, config, ChatOptions{}, [&](const DeltaMessage& delta) {
        return give(delta.reasoning_content, on_reasoning) && give(delta.content, on_text);
    });
}

std::unique_ptr<ChatStream> Pipeline::stream_generate(std::string_view prompt,
                                                      const GenerationConfig& config) {
    TextStreamer streamer(tokenizer(), TextStreamer::kPlain, config.stop);
    return std::unique_ptr<ChatStream>(new ChatStream(std::make_unique<ChatStream::State>(
        ChatStream::State{start(tokenizer().encode(prompt), config), std::move(streamer)})));
}

std::string Pipeline::generate(std::string_view prompt, const GenerationConfig& config,
                               const TextCallback& on_text) {
    const auto stream = stream_generate(prompt, config);
    DeltaMessage delta;
    while (stream->next(delta)) {
        if (!delta.content.empty() && on_text && !on_text(delta.content)) {
            stream->finish();
            break;
        }
    }
    return stream->message().content;
}

}  // namespace chatglm
