// A GGUF file with a small random model of any weight type, for tests of the engine.
#pragma once

#include <cmath>
#include <map>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "format/gguf_builder.h"
#include "format/quantize.h"
#include "format/super_block_samples.h"
#include "format/transcode.h"

namespace chatglm::test {

struct TinyModel {
    DType type = DType::f32;
    // Matrices of random blocks of this type instead; as they are, or as the engine repacks them.
    std::optional<SuperType> super = std::nullopt;
    bool repacked = false;
    bool fused_qkv = true;
    bool tied = false;
    std::string chat_template = {};
    std::map<int, std::string> pieces = {};  // what tokens spell instead of letters and numbers
    unsigned seed = 7;
    int vocab = 160, hidden = 64, layers = 3, heads = 4, kv_heads = 2, head_dim = 32, ffn = 96;
    int n_rows = 0;  // of the embedding; 0: one for each token

    std::string build() const {
        std::mt19937 random(seed);
        const int q = heads * head_dim, kv = kv_heads * head_dim;
        struct Entry {
            std::string name;
            std::vector<int64_t> shape;
        };
        const int embedded = n_rows > 0 ? n_rows : vocab;
        std::vector<Entry> entries{{"token_embd.weight", {embedded, hidden}},
                                   {"output_norm.weight", {hidden}}};
        if (!tied) entries.push_back({"output.weight", {embedded, hidden}});
        for (int i = 0; i < layers; ++i) {
            const std::string b = "blk." + std::to_string(i) + ".";
            entries.push_back({b + "attn_norm.weight", {hidden}});
            entries.push_back({b + "ffn_norm.weight", {hidden}});
            if (fused_qkv) {
                entries.push_back({b + "attn_qkv.weight", {q + 2 * kv, hidden}});
                entries.push_back({b + "attn_qkv.bias", {q + 2 * kv}});
            } else {
                entries.push_back({b + "attn_q.weight", {q, hidden}});
                entries.push_back({b + "attn_k.weight", {kv, hidden}});
                entries.push_back({b + "attn_v.weight", {kv, hidden}});
            }
            entries.push_back({b + "attn_output.weight", {hidden, q}});
            entries.push_back({b + "ffn_up.weight", {2 * ffn, hidden}});
            entries.push_back({b + "ffn_down.weight", {hidden, ffn}});
        }
        Bytes head, data;
        head.put<uint32_t>(0x46554747)
            .put<uint32_t>(3)
            .put<uint64_t>(entries.size())
            .put<uint64_t>(chat_template.empty() ? 16 : 17);
        head.key("general.architecture", GgufType::string).text("chatglm");
        const auto number = [&](const char* key, uint32_t value) {
            head.key(std::string("chatglm.") + key, GgufType::u32).put<uint32_t>(value);
        };
        number("block_count", static_cast<uint32_t>(layers));
        number("embedding_length", static_cast<uint32_t>(hidden));
        number("feed_forward_length", static_cast<uint32_t>(ffn));
        number("attention.head_count", static_cast<uint32_t>(heads));
        number("attention.head_count_kv", static_cast<uint32_t>(kv_heads));
        number("attention.key_length", static_cast<uint32_t>(head_dim));
        number("context_length", 4096);
        number("rope.dimension_count", static_cast<uint32_t>(head_dim / 2));
        head.key("chatglm.rope.freq_base", GgufType::f32).put<float>(10000.0f);
        // A SentencePiece vocabulary: three special tokens, the 26 letters, and words of one letter and a
        // number.
        head.key("tokenizer.ggml.model", GgufType::string).text("llama");
        head.key("tokenizer.ggml.tokens", GgufType::array)
            .put(uint32_t{8})
            .put<uint64_t>(static_cast<uint64_t>(vocab));
        for (int i = 0; i < vocab; ++i) {
            const std::string letter(1, static_cast<char>('a' + i % 26));
            const auto piece = pieces.find(i);
            head.text(piece != pieces.end() ? piece->second
                      : i == 0              ? "<unk>"
                      : i == 1              ? "<s>"
                      : i == 2              ? "</s>"
                      : i < 29              ? letter
                                            : letter + std::to_string(i));
        }
        head.key("tokenizer.ggml.scores", GgufType::array)
            .put(uint32_t{6})
            .put<uint64_t>(static_cast<uint64_t>(vocab));
        for (int i = 0; i < vocab; ++i) head.put(static_cast<float>(-i));
        head.key("tokenizer.ggml.token_type", GgufType::array)
            .put(uint32_t{5})
            .put<uint64_t>(static_cast<uint64_t>(vocab));
        for (int i = 0; i < vocab; ++i) head.put<int32_t>(i == 0 ? 2 : i < 3 ? 3 : 1);
        if (!chat_template.empty()) head.key("tokenizer.chat_template", GgufType::string).text(chat_template);
        head.key("tokenizer.ggml.eos_token_id", GgufType::u32).put<uint32_t>(2);
        head.key("chatglm.attention.layer_norm_rms_epsilon", GgufType::f32).put<float>(1e-5f);
        for (const Entry& e : entries) {
            const bool matrix = e.shape.size() == 2;
            const DType t = !matrix ? DType::f32 : super ? transcoded_type(*super) : type;
            const bool as_super = matrix && super && !repacked;
            const int64_t rows = matrix ? e.shape[0] : 1, n = e.shape.back();
            head.text(e.name).put<uint32_t>(static_cast<uint32_t>(e.shape.size()));
            for (size_t i = e.shape.size(); i-- > 0;) head.put<uint64_t>(static_cast<uint64_t>(e.shape[i]));
            data.pad(32);
            head.put<uint32_t>(as_super ? static_cast<uint32_t>(*super) : static_cast<uint32_t>(t))
                .put<uint64_t>(data.data.size());
            std::vector<float> row(static_cast<size_t>(n));
            std::vector<char> stored(static_cast<size_t>(row_bytes(t, n)));
            for (int64_t r = 0; r < rows; ++r) {
                if (matrix && super) {
                    std::string blocks = super_row(n, random);
                    if (repacked) {
                        transcode_row(*super, blocks.data(), stored.data(), n);
                        blocks.assign(stored.data(), stored.size());
                    }
                    data.data += blocks;
                    continue;
                }
                for (float& x : row) {
                    // Uniform in [-1, 1) by hand: std's distributions differ between libraries.
                    x = static_cast<float>(static_cast<double>(random()) / 2147483648.0 - 1.0);
                    x = matrix ? x * 2.0f / std::sqrt(static_cast<float>(n)) : 1.0f + 0.1f * x;
                }
                quantize_row(t, row.data(), stored.data(), n);
                data.data.append(stored.data(), stored.size());
            }
        }
        return head.pad(32).data + data.data;
    }

  private:
    std::string super_row(int64_t n, std::mt19937& random) const {
        std::string row;
        for (int64_t i = 0; i < n; i += super_type_info(*super).block_size) {
            const auto block = make_block(*super, 2e-4f, 1e-3f, [&](int) { return random() >> 24; });
            row.append(reinterpret_cast<const char*>(block.data()), block.size());
        }
        return row;
    }
};

}  // namespace chatglm::test
