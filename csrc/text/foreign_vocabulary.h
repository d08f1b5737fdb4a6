// What files of other programs (llama.cpp's converter) leave unsaid about their tokenizer, told from the
// special tokens that the vocabulary has, from the chat template and from the sizes of the model.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "chatglm/tokenizer.h"
#include "format/gguf.h"

namespace chatglm {

// How to chat, as `chatglm.chat_format` and `tokenizer.chat_template` would say it. `chat_template` is the
// file's own, empty where it has none.
struct GuessedChat {
    std::string format;
    std::string chat_template;
};
GuessedChat guess_chat(const GgufFile& file, const Tokenizer& tokenizer, const std::string& chat_template);

// [gMASK] and sop, which begin every text of the models that were trained with them.
std::vector<int32_t> guess_prefix_ids(const GgufFile& file, const Tokenizer& tokenizer,
                                      const std::string& chat_template);

// Every id that ends a reply.
std::vector<int32_t> guess_eos_ids(const GgufFile& file, const Tokenizer& tokenizer);

}  // namespace chatglm
