#include "text/utf8_stream.h"

#include <utility>

#include "text/chat_reply.h"
#include "text/stop_matcher.h"

namespace chatglm {
namespace {

// Whether more bytes could still make a character of `tail`, which decode_utf8 took whole and found not
// valid.
bool may_continue(std::string_view tail) {
    const auto lead = static_cast<unsigned char>(tail[0]);
    const size_t length = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
    return lead >= 0xC2 && lead <= 0xF4 && tail.size() < length;
}

}  // namespace

std::string Utf8Stream::put(std::string_view bytes) {
    pending_ += bytes;
    const std::string_view all = pending_;
    size_t complete = 0;
    while (complete < all.size()) {
        const std::string_view rest = all.substr(complete);
        const Utf8Char next = decode_utf8(rest);
        if (!next.valid && static_cast<size_t>(next.length) == rest.size() && may_continue(rest)) break;
        complete += static_cast<size_t>(next.length);
    }
    std::string text = to_valid_utf8(all.substr(0, complete), unit_);
    pending_.erase(0, complete);
    return text;
}

std::string Utf8Stream::finish() {
    std::string text = to_valid_utf8(pending_, unit_);
    pending_.clear();
    return text;
}

// Otherwise than in a reply, which goes through the reader, only the stream and the first space matter.
struct TextStreamer::State {
    State(const Tokenizer& t, Mode m, std::vector<std::string> stop, const std::string& tools)
        : tokenizer(t),
          mode(m),
          strips_space(m == kPlain && t.strips_leading_space()),
          utf8(replace_unit(t)),
          reader(t, KnownTools(tools)),
          matcher(std::move(stop)) {}

    std::string put(int32_t id) {
        if (mode == kReply) return reader.put(id);
        std::string bytes = tokenizer.token_bytes(id);
        // SentencePiece joins the bytes of neighbouring byte tokens only.
        if (mode == kPlain && bytes.empty() && tokenizer.strips_leading_space()) return utf8.finish();
        if (strips_space && !bytes.empty()) strip_first_space(id, bytes);
        return utf8.put(bytes);
    }

    // Decoded alone, a token tells whether its space is one that goes; decoded twice, whether more of them
    // go.
    void strip_first_space(int32_t id, std::string& bytes) {
        strips_space = false;
        if (bytes[0] != ' ' || tokenizer.decode({id}) == bytes) return;
        bytes.erase(0, 1);
        strips_space = bytes.empty() && tokenizer.decode({id, id}).empty();
    }

    const Tokenizer& tokenizer;
    Mode mode;
    bool strips_space;
    Utf8Stream utf8;
    ReplyReader reader;
    StopMatcher matcher;
};

TextStreamer::TextStreamer(const Tokenizer& tokenizer, Mode mode, std::vector<std::string> stop,
                           const std::string& tools)
    : state_(std::make_unique<State>(tokenizer, mode, std::move(stop), tools)) {}
TextStreamer::~TextStreamer() = default;
TextStreamer::TextStreamer(TextStreamer&&) noexcept = default;
TextStreamer& TextStreamer::operator=(TextStreamer&&) noexcept = default;

std::string TextStreamer::put(int32_t id) {
    std::string text = state_->matcher.put(state_->put(id));
    // A call that began behind the stop is no part of the reply.
    if (stopped()) state_->reader.end();
    return text;
}

std::string TextStreamer::finish() {
    const std::string last = state_->mode == kReply ? state_->reader.finish() : state_->utf8.finish();
    std::string text = state_->matcher.put(last);
    return text + state_->matcher.finish();
}

bool TextStreamer::stopped() const {
    return state_->matcher.stopped();
}

const std::string& TextStreamer::reasoning() const {
    return state_->reader.reasoning();
}

const std::vector<ToolCallMessage>& TextStreamer::tool_calls() const {
    return state_->reader.tool_calls();
}

size_t TextStreamer::first_new_call() const {
    return state_->reader.first_new_call();
}

const std::string& TextStreamer::tool_call_error() const {
    return state_->reader.tool_call_error();
}

}  // namespace chatglm
