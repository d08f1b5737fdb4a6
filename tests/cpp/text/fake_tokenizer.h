// A tokenizer whose ordinary tokens are bytes, for tests of what is built upon tokenizers.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "chatglm/error.h"
#include "chatglm/tokenizer.h"
#include "text/chat_format.h"

namespace chatglm::test {

// Ids below 256 are bytes, then come the special tokens; the text room's own tokenizers are tested elsewhere.
class FakeTokenizer : public Tokenizer {
  public:
    explicit FakeTokenizer(std::string chat_format, std::string chat_template = "") {
        chat_format_ = std::move(chat_format);
        chat_template_ = std::move(chat_template);
        std::vector<int32_t>& marks = chat_format_ == "chatglm" ? suffix_ids_ : prefix_ids_;
        marks = {id("[gMASK]"), id("<sop>")};
        eos_ids_ = {id("<|endoftext|>"), id("<|user|>"), id("<|observation|>")};
        thinking_ = ChatFormat::thinking(*this);
    }

    static int32_t id(std::string_view special) {
        const auto at = std::find(kSpecials.begin(), kSpecials.end(), special);
        return at == kSpecials.end() ? -1 : 256 + static_cast<int32_t>(at - kSpecials.begin());
    }

    std::vector<int32_t> encode_plain(std::string_view text) const override {
        std::vector<int32_t> ids;
        for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
        return ids;
    }
    std::vector<int32_t> encode_special(std::string_view text) const override {
        std::vector<int32_t> ids;
        for (size_t i = 0; i < text.size();) {
            const auto special = std::find_if(kSpecials.begin(), kSpecials.end(), [&](const std::string& s) {
                return text.substr(i).starts_with(s);
            });
            ids.push_back(special == kSpecials.end() ? static_cast<unsigned char>(text[i]) : id(*special));
            i += special == kSpecials.end() ? 1 : special->size();
        }
        return ids;
    }
    std::string token_bytes(int32_t token, bool skip_special) const override {
        if (token < 0 || token >= vocab_size()) throw InvalidArgument("no such token");
        if (token < 256) return std::string(1, static_cast<char>(token));
        return skip_special ? std::string() : kSpecials[static_cast<size_t>(token) - 256];
    }
    bool strips_leading_space() const override { return false; }
    int32_t vocab_size() const override { return 256 + static_cast<int32_t>(kSpecials.size()); }
    int32_t token_id(std::string_view spelling) const override {
        return spelling.size() == 1 ? static_cast<unsigned char>(spelling[0]) : id(spelling);
    }
    bool is_special(int32_t token) const override { return token >= 256; }

    // Special tokens spelled out.
    std::string spell(const std::vector<int32_t>& ids) const {
        std::string text;
        for (const int32_t token : ids) text += token_bytes(token, false);
        return text;
    }

  private:
    inline static const std::vector<std::string> kSpecials{
        "[gMASK]", "<sop>", "<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>",
    };
};

inline ChatMessage system_message(std::string content) {
    return {ChatMessage::kRoleSystem, std::move(content), {}};
}
inline ChatMessage user(std::string content) {
    return {ChatMessage::kRoleUser, std::move(content), {}};
}
inline ChatMessage assistant(std::string content) {
    return {ChatMessage::kRoleAssistant, std::move(content), {}};
}
inline ChatMessage observation(std::string content) {
    return {ChatMessage::kRoleObservation, std::move(content), {}};
}

inline ToolCallMessage function_call(std::string name, std::string arguments) {
    return {ToolCallMessage::kTypeFunction, {std::move(name), std::move(arguments)}, {}};
}
inline ToolCallMessage code_call(std::string code) {
    return {ToolCallMessage::kTypeCode, {}, {std::move(code)}};
}

}  // namespace chatglm::test
