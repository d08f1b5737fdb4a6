// Text to token ids and back, and conversations to prompts.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "chatglm/message.h"

namespace chatglm {

class GgufFile;

// How the thought of a reasoning model, <think>...</think> before the answer, begins.
enum class Thinking {
    none,       // the model does not think
    by_model,   // with a reply that begins with <think>; any other reply is answer from the start
    by_prompt,  // with the prompt, which ends in <think>: every reply begins inside the thought
};

// All methods are const and may be called from many threads.
class Tokenizer {
  public:
    virtual ~Tokenizer() = default;

    // Builds the tokenizer that the metadata of `file` describes. Throws FormatError.
    static std::unique_ptr<Tokenizer> from_gguf(const GgufFile& file);

    // Ids of `text` taken literally: the spelling of a special token in it is ordinary text. (ChatGLM-6B's
    // special tokens are pieces of its SentencePiece model, which finds them in every text, as the original
    // does.)
    virtual std::vector<int32_t> encode_plain(std::string_view text) const = 0;

    // Ids of `text` in which every spelling of a special token ("<|user|>") becomes that token.
    virtual std::vector<int32_t> encode_special(std::string_view text) const = 0;

    // What a user means by "encode": the prefix tokens that every prompt of the model starts with
    // ([gMASK] sop where the model has them), encode_plain(text), and the suffix tokens that it ends with
    // (the same two with ChatGLM-6B).
    std::vector<int32_t> encode(std::string_view text) const;

    // Text of `ids`; special tokens give nothing when `skip_special`, otherwise their spelling. Bytes that do
    // not form UTF-8 become U+FFFD. Throws InvalidArgument for an id outside the vocabulary.
    std::string decode(const std::vector<int32_t>& ids, bool skip_special = true) const;

    // Raw bytes of one token inside a text (not at its start), empty for special tokens when `skip_special`:
    // the bytes of the tokens of a reply, joined, are the bytes of its text, except that SentencePiece models
    // drop one leading space at the start of a text (see `strips_leading_space`).
    virtual std::string token_bytes(int32_t id, bool skip_special = true) const = 0;
    virtual bool strips_leading_space() const = 0;

    virtual int32_t vocab_size() const = 0;
    // Id of a token by its exact spelling (special tokens included), or -1.
    virtual int32_t token_id(std::string_view spelling) const = 0;
    virtual bool is_special(int32_t id) const = 0;

    const std::vector<int32_t>& prefix_ids() const { return prefix_ids_; }
    const std::vector<int32_t>& suffix_ids() const { return suffix_ids_; }
    // Generation ends at any of these (for example </s>, <|user|>, <|observation|>).
    const std::vector<int32_t>& eos_ids() const { return eos_ids_; }
    bool is_eos(int32_t id) const;
    // Name of the chat format: "chatglm", "chatglm2", "chatglm3", "glm4", ... or "template".
    const std::string& chat_format() const { return chat_format_; }

    Thinking thinking() const { return thinking_; }

    // Ids of the whole prompt for a conversation that ends with the user's (or an observation's) turn.
    // `tools` is the text of a JSON array of tool definitions, OpenAI's {"type": "function", "function":
    // {...}} or the bare {"name": ..., "parameters": ...}; empty: none. Throws InvalidArgument when roles,
    // order or tools are not what the format knows.
    std::vector<int32_t> apply_chat_template(const std::vector<ChatMessage>& messages,
                                             const std::string& tools = {}) const;
    // Whether the chat format has a place for tools.
    bool knows_tools() const;

    // The assistant's message in the ids of a reply: text cleaned up as the original code does, a thought
    // apart from the answer, tool calls parsed. `tools` are those that the prompt told of.
    ChatMessage decode_message(const std::vector<int32_t>& ids, const std::string& tools = {}) const;

  protected:
    std::vector<int32_t> prefix_ids_;
    std::vector<int32_t> suffix_ids_;
    std::vector<int32_t> eos_ids_;
    std::string chat_format_;
    std::string chat_template_;  // the Jinja source from the file, may be empty
    Thinking thinking_ = Thinking::none;
    friend class ChatFormat;
};

}  // namespace chatglm
