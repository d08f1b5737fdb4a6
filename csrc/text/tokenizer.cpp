#include "chatglm/tokenizer.h"

#include <algorithm>
#include <limits>
#include <span>
#include <utility>

#include "chatglm/error.h"
#include "format/gguf.h"
#include "text/byte_level_bpe.h"
#include "text/chat_format.h"
#include "text/foreign_vocabulary.h"
#include "text/sentencepiece.h"
#include "text/utf8.h"

namespace chatglm {
namespace {

constexpr std::string_view kTokens = "tokenizer.ggml.tokens";
constexpr std::string_view kScores = "tokenizer.ggml.scores";
constexpr std::string_view kTypes = "tokenizer.ggml.token_type";
constexpr std::string_view kMerges = "tokenizer.ggml.merges";
constexpr std::string_view kOriginal = "chatglm.tokenizer.sentencepiece";
constexpr std::string_view kMergeByRank = "chatglm.tokenizer.merge_by_rank";

[[noreturn]] void fail(const GgufFile& file, const std::string& what) {
    throw FormatError(file.path() + ": " + what + ". Convert the checkpoint again.");
}

// Runs `build`, whose errors do not know what file they are about.
template <typename Build>
auto naming(const GgufFile& file, const Build& build) {
    try {
        return build();
    } catch (const FormatError& error) {
        throw FormatError(file.path() + ": " + error.what());
    }
}

// The views point into `file`.
std::vector<std::string_view> read_tokens(const GgufFile& file) {
    constexpr uint64_t kMaxTokens = 1 << 24;
    const uint64_t n = file.array_size(kTokens);
    if (n > kMaxTokens)
        fail(file, std::string(kTokens) + " has " + std::to_string(n) + " entries, more than any vocabulary");
    std::vector<std::string_view> tokens = file.get_strings(kTokens);
    if (tokens.empty()) fail(file, std::string("there are no tokens in it (") + std::string(kTokens) + ")");
    return tokens;
}

// One entry for each token. Asked before the entries are decoded, which takes memory.
void check_size(const GgufFile& file, std::string_view key, size_t n_tokens) {
    if (const uint64_t n = file.array_size(key); n != n_tokens) {
        fail(file, std::string(key) + " has " + std::to_string(n) + " entries for " +
                       std::to_string(n_tokens) + " tokens");
    }
}

std::vector<TokenType> read_types(const GgufFile& file, size_t n_tokens) {
    if (!file.has(kTypes)) return std::vector<TokenType>(n_tokens, TokenType::normal);
    check_size(file, kTypes, n_tokens);
    const std::vector<int64_t> numbers = file.get_ints(kTypes);
    std::vector<TokenType> types;
    types.reserve(n_tokens);
    for (const int64_t number : numbers) {
        if (number < 1 || number > 6)
            fail(file, std::string(kTypes) + " has the unknown type " + std::to_string(number));
        types.push_back(static_cast<TokenType>(number));
    }
    return types;
}

// Files that other programs wrote have only llama.cpp's arrays. The views point into `file`.
SentencePieceModel model_from_arrays(const GgufFile& file, const std::vector<std::string_view>& tokens,
                                     const std::vector<TokenType>& types) {
    check_size(file, kScores, tokens.size());
    const std::vector<float> scores = file.get_floats(kScores);
    SentencePieceModel model;
    model.algorithm = SentencePieceModel::Algorithm::bpe;
    model.normalization.add_dummy_prefix = file.get_bool("tokenizer.ggml.add_space_prefix", true);
    model.normalization.remove_extra_whitespaces =
        file.get_bool("tokenizer.ggml.remove_extra_whitespaces", false);
    model.byte_fallback = std::find(types.begin(), types.end(), TokenType::byte) != types.end();
    // The special tokens and the padding behind the pieces are no pieces: in text, "sop" is three letters.
    size_t n_pieces = tokens.size();
    const auto is_added = [&](size_t i) {
        return types[i] == TokenType::control || types[i] == TokenType::unused;
    };
    while (n_pieces > 0 && is_added(n_pieces - 1)) --n_pieces;
    model.pieces.reserve(n_pieces);
    for (size_t i = 0; i < n_pieces; ++i) {
        if (!(scores[i] == scores[i]))
            fail(file, std::string(kScores) + "[" + std::to_string(i) + "] is not a number");
        model.pieces.push_back({tokens[i], scores[i], types[i]});
    }
    return model;
}

std::unique_ptr<SentencePieceTokenizer> read_sentencepiece(const GgufFile& file) {
    const std::vector<std::string_view> tokens = read_tokens(file);
    const std::vector<TokenType> types = read_types(file, tokens.size());
    const std::span<const uint8_t> original = file.get_bytes(kOriginal);
    const int64_t first_piece = file.get_int("chatglm.tokenizer.num_image_tokens", 0);
    if (first_piece < 0 || first_piece > static_cast<int64_t>(tokens.size())) {
        fail(file, "chatglm.tokenizer.num_image_tokens is " + std::to_string(first_piece) +
                       ", but there are " + std::to_string(tokens.size()) + " tokens");
    }
    const SentencePieceModel model = original.empty()
                                         ? model_from_arrays(file, tokens, types)
                                         : naming(file, [&] { return parse_sentencepiece_model(original); });
    std::vector<SentencePieceTokenizer::Token> all;
    all.reserve(tokens.size());
    for (size_t i = 0; i < tokens.size(); ++i) all.push_back({tokens[i], types[i]});
    return naming(file, [&] {
        return std::make_unique<SentencePieceTokenizer>(model, all, static_cast<int32_t>(first_piece));
    });
}

// llama.cpp's converter made merges of GLM-4's tiktoken ranks. What no pair of lower ranks gives became a
// "merge" of three parts or more, which a list of merges cannot express: the ids are the ranks, as they were.
bool come_from_ranks(const std::vector<std::string_view>& merges) {
    return std::any_of(merges.begin(), merges.end(), [](std::string_view merge) {
        return std::count(merge.begin(), merge.end(), ' ') > 1;
    });
}

std::unique_ptr<ByteLevelBpeTokenizer> read_byte_level_bpe(const GgufFile& file) {
    const std::vector<std::string_view> tokens = read_tokens(file);
    const std::vector<TokenType> types = read_types(file, tokens.size());
    ByteLevelBpeModel model;
    model.tokens.reserve(tokens.size());
    for (size_t i = 0; i < tokens.size(); ++i) model.tokens.push_back({tokens[i], types[i]});

    const std::string pre = file.get_string("tokenizer.ggml.pre", "chatglm-bpe");
    if (pre == "chatglm-bpe" || pre == "glm4") {
        model.pre_tokenizer = PreTokenizer::glm4;
    } else if (pre == "smollm") {
        model.pre_tokenizer = PreTokenizer::smollm;
    } else {
        throw FormatError(file.path() + ": the pre-tokenizer \"" + pre +
                          "\" (tokenizer.ggml.pre) is not supported: expected chatglm-bpe or smollm.");
    }
    const std::vector<std::string_view> merges = file.get_strings(kMerges);
    model.merge_by_rank = file.get_bool(kMergeByRank, !file.has(kMerges) || come_from_ranks(merges));
    if (!model.merge_by_rank) model.merges = merges;
    model.ignore_merges = file.get_bool("chatglm.tokenizer.ignore_merges", false);
    return naming(file, [&] { return std::make_unique<ByteLevelBpeTokenizer>(model); });
}

std::vector<int32_t> read_ids(const GgufFile& file, std::string_view key, int32_t vocab_size) {
    constexpr uint64_t kMaxIds = 1024;
    if (const uint64_t n = file.array_size(key); n > kMaxIds)
        fail(file, std::string(key) + " has " + std::to_string(n) + " entries");
    std::vector<int32_t> ids;
    for (const int64_t id : file.get_ints(key)) {
        if (id < 0 || id >= vocab_size) {
            fail(file, std::string(key) + " names token " + std::to_string(id) + ", but the vocabulary has " +
                           std::to_string(vocab_size));
        }
        ids.push_back(static_cast<int32_t>(id));
    }
    return ids;
}

}  // namespace

std::unique_ptr<Tokenizer> Tokenizer::from_gguf(const GgufFile& file) {
    const std::string model = file.get_string("tokenizer.ggml.model");
    const std::string chat_format = file.get_string("chatglm.chat_format", "");
    std::unique_ptr<Tokenizer> tokenizer;
    if (model == "llama") {
        auto sentencepiece = read_sentencepiece(file);
        if (chat_format == "chatglm") sentencepiece->use_blank_pieces();
        tokenizer = std::move(sentencepiece);
    } else if (model == "gpt2") {
        tokenizer = read_byte_level_bpe(file);
    } else {
        throw FormatError(
            file.path() + ": the tokenizer \"" + model +
            "\" (tokenizer.ggml.model) is not supported: expected llama (SentencePiece) or gpt2 "
            "(byte-level BPE).");
    }

    const int32_t vocab_size = tokenizer->vocab_size();
    tokenizer->chat_template_ = file.get_string("tokenizer.chat_template", "");
    tokenizer->chat_format_ = chat_format;
    tokenizer->prefix_ids_ = read_ids(file, "chatglm.tokenizer.prefix_ids", vocab_size);
    tokenizer->suffix_ids_ = read_ids(file, "chatglm.tokenizer.suffix_ids", vocab_size);
    tokenizer->eos_ids_ = read_ids(file, "chatglm.tokenizer.eos_ids", vocab_size);
    // In our own files an absent key means that there is none, for example no chat format in a base model.
    if (!file.has(kOriginal) && !file.has(kMergeByRank)) {
        const std::string& source = tokenizer->chat_template_;
        if (tokenizer->prefix_ids_.empty())
            tokenizer->prefix_ids_ = guess_prefix_ids(file, *tokenizer, source);
        if (tokenizer->eos_ids_.empty()) tokenizer->eos_ids_ = guess_eos_ids(file, *tokenizer);
        if (chat_format.empty()) {
            GuessedChat chat = guess_chat(file, *tokenizer, source);
            tokenizer->chat_format_ = std::move(chat.format);
            tokenizer->chat_template_ = std::move(chat.chat_template);
        }
    }
    tokenizer->thinking_ = ChatFormat::thinking(*tokenizer);
    return tokenizer;
}

std::vector<int32_t> Tokenizer::encode(std::string_view text) const {
    const std::vector<int32_t> text_ids = encode_plain(text);
    std::vector<int32_t> ids = prefix_ids_;
    ids.insert(ids.end(), text_ids.begin(), text_ids.end());
    ids.insert(ids.end(), suffix_ids_.begin(), suffix_ids_.end());
    return ids;
}

std::string Tokenizer::decode(const std::vector<int32_t>& ids, bool skip_special) const {
    // SentencePiece has rules of its own for the first space and for broken UTF-8.
    if (const auto* sentencepiece = dynamic_cast<const SentencePieceTokenizer*>(this)) {
        return sentencepiece->decode_text(ids, skip_special);
    }
    std::string bytes;
    for (const int32_t id : ids) bytes += token_bytes(id, skip_special);
    return to_valid_utf8(bytes);
}

bool Tokenizer::is_eos(int32_t id) const {
    return std::find(eos_ids_.begin(), eos_ids_.end(), id) != eos_ids_.end();
}

}  // namespace chatglm
