#include "text/foreign_vocabulary.h"

#include <algorithm>
#include <string_view>

namespace chatglm {
namespace {

constexpr std::string_view kMask = "[gMASK]";

// Templates of the generations after GLM-4-9B, whose replies begin behind a line break.
constexpr std::string_view kGlm4Messages =
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['metadata'] or '' }}\n"
    "{{ message['content'] }}{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}";
constexpr std::string_view kGlm4Prefix = "[gMASK]<sop>";

int32_t special_id(const Tokenizer& tokenizer, std::string_view spelling) {
    const int32_t id = tokenizer.token_id(spelling);
    return id >= 0 && tokenizer.is_special(id) ? id : -1;
}

// GLM-Edge has GLM-4's vocabulary and llama.cpp's name of its architecture, but rotates whole heads, and was
// trained without [gMASK] <sop>.
bool is_glm_edge(const GgufFile& file) {
    if (file.get_string("general.architecture", "") != "chatglm") return false;
    const int64_t rotated = file.get_int("chatglm.rope.dimension_count", 0);
    const int64_t n_heads = file.get_int("chatglm.attention.head_count", 0);
    const int64_t hidden = file.get_int("chatglm.embedding_length", 0);
    return rotated > 0 && n_heads > 0 &&
           rotated == file.get_int("chatglm.attention.key_length", hidden / n_heads);
}

}  // namespace

GuessedChat guess_chat(const GgufFile& file, const Tokenizer& tokenizer, const std::string& chat_template) {
    // The templates of ChatGLM2 and ChatGLM3 are written for another tokenizer than theirs: they miss the
    // spaces that encoding in parts puts in front, and know no tools.
    const bool is_second_or_third =
        chat_template.find("[gMASK]sop") != std::string::npos && special_id(tokenizer, "sop") >= 0;
    if (!chat_template.empty() && !is_second_or_third) return {"template", chat_template};
    if (special_id(tokenizer, "<sop>") < 0) {
        return {special_id(tokenizer, "<|user|>") >= 0 ? "chatglm3" : "chatglm2", chat_template};
    }
    const bool is_edge = is_glm_edge(file);
    if (!is_edge && file.get_string("general.architecture", "") != "glm4") return {"glm4", ""};
    return {"template", std::string(is_edge ? "" : kGlm4Prefix).append(kGlm4Messages)};
}

std::vector<int32_t> guess_prefix_ids(const GgufFile& file, const Tokenizer& tokenizer,
                                      const std::string& chat_template) {
    const bool is_unwanted =
        chat_template.empty() ? is_glm_edge(file) : chat_template.find(kMask) == std::string::npos;
    const int32_t mask = special_id(tokenizer, kMask);
    int32_t start = special_id(tokenizer, "<sop>");
    if (start < 0) start = special_id(tokenizer, "sop");
    if (is_unwanted || mask < 0 || start < 0) return {};
    return {mask, start};
}

std::vector<int32_t> guess_eos_ids(const GgufFile& file, const Tokenizer& tokenizer) {
    std::vector<int32_t> ids;
    const auto add = [&](int64_t id) {
        if (id < 0 || id >= tokenizer.vocab_size()) return;
        if (std::find(ids.begin(), ids.end(), id) == ids.end()) ids.push_back(static_cast<int32_t>(id));
    };
    constexpr std::string_view kEos = "tokenizer.ggml.eos_token_id";
    add(file.get_int(kEos, -1));
    if (!file.has(kEos)) {  // older files rely on what llama.cpp assumes
        const bool is_sentencepiece = file.get_string("tokenizer.ggml.model", "") == "llama";
        add(is_sentencepiece ? 2 : special_id(tokenizer, "<|endoftext|>"));
    }
    add(file.get_int("tokenizer.ggml.eot_token_id", -1));
    add(file.get_int("tokenizer.ggml.eom_token_id", -1));
    for (const std::string_view spelling : {"<|user|>", "<|observation|>"})
        add(special_id(tokenizer, spelling));
    return ids;
}

}  // namespace chatglm
