#include "chatglm/tokenizer.h"

#include <doctest/doctest.h>

#include <memory>

#include "chatglm/error.h"
#include "format/gguf_builder.h"
#include "text/sentencepiece_builder.h"

using namespace chatglm;
using chatglm::test::Bytes;
using chatglm::test::SentencePieceBuilder;
using chatglm::test::TemporaryFile;
using Ids = std::vector<int32_t>;

namespace {

// The metadata of a GGUF file without tensors.
class Metadata {
  public:
    Metadata& string(const std::string& key, const std::string& value) {
        add(key, GgufType::string).text(value);
        return *this;
    }
    Metadata& boolean(const std::string& key, bool value) {
        add(key, GgufType::boolean).put<uint8_t>(value);
        return *this;
    }
    Metadata& number(const std::string& key, uint32_t value) {
        add(key, GgufType::u32).put(value);
        return *this;
    }
    Metadata& strings(const std::string& key, const std::vector<std::string>& values) {
        array(key, GgufType::string, values.size());
        for (const std::string& value : values) body_.text(value);
        return *this;
    }
    template <class T>
    Metadata& numbers(const std::string& key, GgufType type, const std::vector<T>& values) {
        array(key, type, values.size());
        for (const T value : values) body_.put(value);
        return *this;
    }
    std::unique_ptr<Tokenizer> tokenizer() const {
        Bytes file;
        file.put<uint32_t>(0x46554747).put<uint32_t>(3).put<uint64_t>(0).put<uint64_t>(count_);
        file.data += body_.data;
        const TemporaryFile temporary(file.pad(32).data);
        return Tokenizer::from_gguf(
            GgufFile(temporary.path()));  // the file is gone when the tokenizer is used
    }

  private:
    Bytes& add(const std::string& key, GgufType type) {
        ++count_;
        return body_.key(key, type);
    }
    void array(const std::string& key, GgufType type, size_t size) {
        add(key, GgufType::array).put(static_cast<uint32_t>(type)).put<uint64_t>(size);
    }
    Bytes body_;
    uint64_t count_ = 0;
};

const std::vector<std::string> kSpTokens = {"<unk>", "<s>",     "</s>", "▁",        "a",
                                            "▁a",    "[gMASK]", "sop",  "<|user|>", "[PAD9]"};
const std::vector<int32_t> kSpTypes = {2, 3, 3, 1, 1, 1, 3, 3, 3, 5};

Metadata sentencepiece_arrays() {
    Metadata m;
    m.string("tokenizer.ggml.model", "llama").strings("tokenizer.ggml.tokens", kSpTokens);
    m.numbers("tokenizer.ggml.token_type", GgufType::i32, kSpTypes);
    return m;
}

Metadata bpe_arrays() {
    Metadata m;
    m.string("tokenizer.ggml.model", "gpt2").string("tokenizer.ggml.pre", "chatglm-bpe");
    m.strings("tokenizer.ggml.tokens", {"a", "b", "ab", "<|user|>"});
    m.numbers<int32_t>("tokenizer.ggml.token_type", GgufType::i32, {1, 1, 1, 3});
    return m;
}

const std::vector<float> kScores = {0, 0, 0, -1, -2, -3, 0, 0, 0, 0};

}  // namespace

TEST_CASE("a SentencePiece tokenizer is built from the original model in the file") {
    SentencePieceBuilder builder(SentencePieceModel::Algorithm::bpe, false);
    builder.piece("▁", -1).piece("a", -2).piece("▁a", -3);
    const std::string bytes = builder.bytes();
    Metadata m = sentencepiece_arrays();
    m.numbers("chatglm.tokenizer.sentencepiece", GgufType::u8,
              std::vector<uint8_t>(bytes.begin(), bytes.end()));
    m.numbers<int32_t>("chatglm.tokenizer.prefix_ids", GgufType::i32, {6, 7});
    m.numbers<int32_t>("chatglm.tokenizer.eos_ids", GgufType::i32, {2, 8});
    m.string("chatglm.chat_format", "chatglm3");
    const auto tokenizer = m.tokenizer();
    CHECK(tokenizer->vocab_size() == 10);
    CHECK(tokenizer->encode("a a") == Ids{6, 7, 5, 5});
    CHECK(tokenizer->encode_plain("a") == Ids{5});
    CHECK(tokenizer->decode({6, 7, 5, 5, 2}) == "a a");
    CHECK(tokenizer->strips_leading_space());
    CHECK(tokenizer->is_eos(8));
    CHECK_FALSE(tokenizer->is_eos(7));
    CHECK(tokenizer->chat_format() == "chatglm3");
}

TEST_CASE("a SentencePiece tokenizer is built from llama.cpp's arrays alone") {
    Metadata m = sentencepiece_arrays();
    m.numbers("tokenizer.ggml.scores", GgufType::f32, kScores).number("tokenizer.ggml.eos_token_id", 2);
    const auto tokenizer = m.tokenizer();
    CHECK(tokenizer->encode("a  a") == Ids{6, 7, 5, 3, 5});
    CHECK(tokenizer->eos_ids() == Ids{2, 8});
    CHECK(tokenizer->chat_format() == "chatglm3");

    const auto no_prefix = m.boolean("tokenizer.ggml.add_space_prefix", false).tokenizer();
    CHECK(no_prefix->encode_plain("a a") == Ids{4, 5});
    CHECK_FALSE(no_prefix->strips_leading_space());
}

TEST_CASE("a byte-level tokenizer is built with a merge list or by rank") {
    const auto by_rank = bpe_arrays().boolean("chatglm.tokenizer.merge_by_rank", true).tokenizer();
    CHECK(by_rank->encode_plain("ab") == Ids{2});
    CHECK(by_rank->encode_special("<|user|>a") == Ids{3, 0});
    CHECK(by_rank->prefix_ids().empty());
    CHECK(by_rank->eos_ids().empty());  // the file is ours and names none
    CHECK(by_rank->chat_format().empty());

    const auto by_list = bpe_arrays().strings("tokenizer.ggml.merges", {"a b"}).tokenizer();
    CHECK(by_list->encode_plain("ab") == Ids{2});
    CHECK(by_list->eos_ids() == Ids{3});
    const auto no_merges = bpe_arrays().strings("tokenizer.ggml.merges", {}).tokenizer();
    CHECK(no_merges->encode_plain("ab") == Ids{0, 1});
}

TEST_CASE("merges of three parts are those of a tokenizer that merges by rank") {
    Metadata m;
    m.string("tokenizer.ggml.model", "gpt2");
    m.strings("tokenizer.ggml.tokens", {"a", "b", "c", "ab", "abc", "cab"});
    const auto tokenizer = m.strings("tokenizer.ggml.merges", {"a b", "ab c", "c a b"}).tokenizer();
    CHECK(tokenizer->encode_plain("cab") == Ids{5});
    CHECK(tokenizer->encode_plain("abc") == Ids{4});
}

TEST_CASE("what other programs leave unsaid is told from the tokens, the template and the sizes") {
    const auto glm = [] {
        Metadata m;
        m.string("tokenizer.ggml.model", "gpt2");
        m.strings("tokenizer.ggml.tokens",
                  {"a", "[gMASK]", "<sop>", "<|user|>", "<|assistant|>", "<|endoftext|>"});
        m.numbers<int32_t>("tokenizer.ggml.token_type", GgufType::i32, {1, 3, 3, 3, 3, 3});
        return m;
    };
    const auto plain = glm().tokenizer();
    CHECK(plain->chat_format() == "glm4");
    CHECK(plain->prefix_ids() == Ids{1, 2});
    CHECK(plain->eos_ids() == Ids{5, 3});

    const auto templated = glm().string("tokenizer.chat_template", "<|user|>a").tokenizer();
    CHECK(templated->chat_format() == "template");
    CHECK(templated->prefix_ids().empty());

    const auto later = glm().string("general.architecture", "glm4").tokenizer();
    CHECK(later->chat_format() == "template");
    CHECK(later->prefix_ids() == Ids{1, 2});

    Metadata edge = glm().string("general.architecture", "chatglm");
    edge.number("chatglm.rope.dimension_count", 32).number("chatglm.embedding_length", 64);
    const auto without_prefix = edge.number("chatglm.attention.head_count", 2).tokenizer();
    CHECK(without_prefix->chat_format() == "template");
    CHECK(without_prefix->prefix_ids().empty());

    Metadata second = sentencepiece_arrays();
    second.numbers("tokenizer.ggml.scores", GgufType::f32, kScores);
    const auto second_or_third =
        second.string("tokenizer.chat_template", "[gMASK]sop<|user|> \n").tokenizer();
    CHECK(second_or_third->chat_format() == "chatglm3");
    CHECK(second_or_third->eos_ids() == Ids{2, 8});
}

TEST_CASE("metadata that does not fit together is refused") {
    CHECK_THROWS_AS(Metadata().tokenizer(), FormatError);
    CHECK_THROWS_AS(Metadata().string("tokenizer.ggml.model", "bert").tokenizer(), FormatError);
    CHECK_THROWS_AS(Metadata().string("tokenizer.ggml.model", "gpt2").tokenizer(), FormatError);
    CHECK_THROWS_AS(Metadata().string("tokenizer.ggml.model", "llama").tokenizer(), FormatError);
    CHECK_THROWS_AS(sentencepiece_arrays().tokenizer(), FormatError);  // no scores
    CHECK_THROWS_AS(
        sentencepiece_arrays().numbers<float>("tokenizer.ggml.scores", GgufType::f32, {1}).tokenizer(),
        FormatError);
    CHECK_THROWS_AS(sentencepiece_arrays()
                        .numbers<uint8_t>("chatglm.tokenizer.sentencepiece", GgufType::u8, {0xFF})
                        .tokenizer(),
                    FormatError);
    CHECK_THROWS_AS(
        bpe_arrays().numbers<int32_t>("chatglm.tokenizer.eos_ids", GgufType::i32, {4}).tokenizer(),
        FormatError);
    CHECK_THROWS_AS(
        bpe_arrays().numbers<int32_t>("chatglm.tokenizer.prefix_ids", GgufType::i32, {-1}).tokenizer(),
        FormatError);
    Metadata types;
    types.string("tokenizer.ggml.model", "gpt2").strings("tokenizer.ggml.tokens", {"a"});
    CHECK_THROWS_AS(types.numbers<int32_t>("tokenizer.ggml.token_type", GgufType::i32, {7}).tokenizer(),
                    FormatError);
}
