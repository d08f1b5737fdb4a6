// From a conversation to the ids of a prompt, exactly as the models' own code builds them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "chatglm/message.h"
#include "chatglm/tokenizer.h"
#include "text/tool_call.h"

namespace chatglm {

struct PromptOptions {
    // A JSON array of tool definitions ({"type": "function", "function": {...}}, or the bare {...} with a
    // name), put where the model was trained to find them. Empty: none.
    std::string tools{};
    // false: end after the last message instead of asking for a reply.
    bool add_generation_prompt = true;
};

// The formats, by Tokenizer::chat_format(). Contents never become special tokens, whatever they spell; but
// see Tokenizer::encode_plain about ChatGLM-6B.
//
// - chatglm: the bare question; with a history "[Round 0]\n问：...\n答：...\n[Round 1]...". The suffix ids
//   come last.
// - chatglm2: "[Round 1]\n\n问：...\n\n答：...\n\n[Round 2]..."
// - chatglm3: <|role|>, "metadata\n" and the content, each encoded on its own.
// - glm4: the same with the texts of GLM-4 about tools; messages without content are left out.
// - template: the Jinja template of the file.
//
// The first two have no place for a system message: it goes before everything else, with an empty line after
// it.
class ChatFormat {
  public:
    // Throws InvalidArgument when roles, order, tools or tool calls are not what the format knows, and
    // FormatError when the file's template or vocabulary does not serve.
    static std::vector<int32_t> encode(const Tokenizer& tokenizer, const std::vector<ChatMessage>& messages,
                                       const PromptOptions& options = {});

    // The text that a "template" format makes of the conversation, with special tokens spelled out.
    static std::string render(const Tokenizer& tokenizer, const std::vector<ChatMessage>& messages,
                              const PromptOptions& options = {});

    // How replies of this model call tools.
    static ToolStyle tool_style(const Tokenizer& tokenizer);

    // How replies of this model begin a thought: told from the end of a prompt, from what the template says
    // about answers, and from the special tokens. Renders the template; one that does not work says nothing.
    static Thinking thinking(const Tokenizer& tokenizer);

  private:
    static std::vector<int32_t> encode_template(const Tokenizer& tokenizer,
                                                const std::vector<ChatMessage>& messages,
                                                const PromptOptions& options);
};

}  // namespace chatglm
