// Whatever is wrong with a file, opening it ends in a sentence that names the file, and takes no more memory
// than the file could need.
#include <doctest/doctest.h>

#include <limits>

#include "chatglm/error.h"
#include "chatglm/pipeline.h"
#include "format/gguf_layout.h"
#include "generate/allocations.h"
#include "model/tiny_model.h"

using namespace chatglm;
using chatglm::test::Bytes;
using chatglm::test::GgufLayout;
using chatglm::test::largest_request;
using chatglm::test::TemporaryFile;
using chatglm::test::TinyModel;

namespace {

constexpr size_t kMostMemory = 4 << 20;  // beyond the size of the file

std::string small_model() {
    TinyModel model;
    model.vocab = 40;
    model.hidden = model.head_dim = model.ffn = 32;
    model.layers = model.heads = model.kv_heads = 1;
    model.chat_template = "{{ messages[0]['content'] }}";
    return model.build();
}

// The sentence that opening and using a file with this content ends in; empty when there is nothing to say.
std::string sentence(const std::string& content) {
    const TemporaryFile file(content);
    PipelineOptions options;
    options.n_threads = 1;
    std::string message;
    largest_request = 0;
    try {
        Pipeline pipeline(file.path(), options);
        const std::vector<int32_t> ids{3, 4, 5};
        std::vector<float> logits(ids.size() * static_cast<size_t>(pipeline.config().vocab_size));
        pipeline.logits(ids, logits.data());
        pipeline.tokenizer().decode(pipeline.tokenizer().encode("a b"));
    } catch (const InvalidArgument& error) {  // of a file that is whole: an unusable, but possible value
        message = error.what();
    } catch (const FormatError& error) {
        message = error.what();
        CHECK(message.find(file.path()) != std::string::npos);
        CHECK(message.size() > file.path().size() + 20);
    }
    CHECK(largest_request < content.size() + kMostMemory);
    return message;
}

// `good` with other metadata. `entry` is the whole entry, key and type included; empty: leave `key` out.
std::string with_entry(const std::string& good, const std::string& key, const std::string& entry) {
    const GgufLayout layout(good);
    Bytes file;
    file.put<uint32_t>(0x46554747).put<uint32_t>(3);
    file.data += good.substr(8, 8);  // the number of tensors
    std::string kept = entry;
    uint64_t count = entry.empty() ? 0 : 1;
    for (const auto& old : layout.entries) {
        if (old.key == key) continue;
        kept += good.substr(old.begin, old.end - old.begin);
        ++count;
    }
    file.put(count);
    file.data += kept + good.substr(layout.tensors_begin, layout.header_end - layout.tensors_begin);
    return file.pad(32).data + good.substr(layout.data_begin);
}

const std::vector<std::string> kRequired{"general.architecture",
                                         "chatglm.block_count",
                                         "chatglm.embedding_length",
                                         "chatglm.feed_forward_length",
                                         "chatglm.context_length",
                                         "chatglm.attention.head_count",
                                         "chatglm.attention.layer_norm_rms_epsilon",
                                         "tokenizer.ggml.model",
                                         "tokenizer.ggml.tokens",
                                         "tokenizer.ggml.scores"};

const std::vector<std::string> kOptional{"general.type",
                                         "general.name",
                                         "general.alignment",
                                         "split.count",
                                         "chatglm.attention.head_count_kv",
                                         "chatglm.attention.key_length",
                                         "chatglm.rope.dimension_count",
                                         "chatglm.rope.dimension_sections",
                                         "chatglm.rope.freq_base",
                                         "chatglm.rope.scaling.type",
                                         "chatglm.rope.scaling.factor",
                                         "chatglm.prefix_length",
                                         "chatglm.nextn_predict_layers",
                                         "chatglm.chat_format",
                                         "tokenizer.ggml.token_type",
                                         "tokenizer.ggml.eos_token_id",
                                         "tokenizer.ggml.eot_token_id",
                                         "tokenizer.ggml.eom_token_id",
                                         "tokenizer.ggml.add_space_prefix",
                                         "tokenizer.ggml.remove_extra_whitespaces",
                                         "tokenizer.chat_template",
                                         "chatglm.tokenizer.sentencepiece",
                                         "chatglm.tokenizer.num_image_tokens",
                                         "chatglm.tokenizer.prefix_ids",
                                         "chatglm.tokenizer.suffix_ids",
                                         "chatglm.tokenizer.eos_ids"};

// Values of every kind, as entries of `key`.
std::vector<std::string> entries_of(const std::string& key) {
    std::vector<std::string> entries;
    const auto scalar = [&](GgufType type, auto value) {
        Bytes entry;
        entries.push_back(entry.key(key, type).put(value).data);
    };
    scalar(GgufType::u32, uint32_t{0});
    scalar(GgufType::u32, uint32_t{1});
    scalar(GgufType::i32, int32_t{-1});
    scalar(GgufType::i32, std::numeric_limits<int32_t>::max());
    scalar(GgufType::i64, std::numeric_limits<int64_t>::min());
    scalar(GgufType::u64, std::numeric_limits<uint64_t>::max());
    scalar(GgufType::f32, 0.0f);
    scalar(GgufType::f32, -1e30f);
    scalar(GgufType::f32, 1e-38f);
    scalar(GgufType::f32, std::numeric_limits<float>::infinity());
    scalar(GgufType::f64, std::numeric_limits<double>::quiet_NaN());
    scalar(GgufType::boolean, uint8_t{7});
    for (const char* text : {"", "x", "\xff{{", "llama", "gpt2", "linear", "glm4", "template"}) {
        Bytes entry;
        entries.push_back(entry.key(key, GgufType::string).text(text).data);
    }
    const auto list = [&](GgufType element, const auto& values) {
        Bytes entry;
        entry.key(key, GgufType::array).put(static_cast<uint32_t>(element)).put<uint64_t>(values.size());
        for (const auto& value : values) entry.put(value);
        entries.push_back(entry.data);
    };
    list(GgufType::u8, std::vector<uint8_t>{});
    list(GgufType::u8, std::vector<uint8_t>{10, 2, 255});
    list(GgufType::i32, std::vector<int32_t>{-1, 39, 40});
    list(GgufType::i32, std::vector<int32_t>(40, 3));
    list(GgufType::f32, std::vector<float>(40, std::numeric_limits<float>::quiet_NaN()));
    list(GgufType::u64, std::vector<uint64_t>(40, std::numeric_limits<uint64_t>::max()));
    Bytes texts;
    texts.key(key, GgufType::array).put(static_cast<uint32_t>(GgufType::string)).put<uint64_t>(40);
    for (int i = 0; i < 40; ++i) texts.text(i % 2 ? "a" : "");
    entries.push_back(texts.data);
    return entries;
}

}  // namespace

TEST_CASE("a model cut short between any two things in its file") {
    const std::string good = small_model();
    REQUIRE(sentence(good).empty());
    for (const size_t length : GgufLayout(good).boundaries) {
        CAPTURE(length);
        CHECK_FALSE(sentence(good.substr(0, length)).empty());
    }
}

TEST_CASE("a model with any number of its header changed") {
    const std::string good = small_model();
    for (const auto& field : GgufLayout(good).fields) {
        CAPTURE(field.what);
        uint64_t old = 0;
        std::memcpy(&old, good.data() + field.offset, field.bytes);
        for (const uint64_t value : {uint64_t{0}, old + 1, old - 1, uint64_t{13}, uint64_t{0x7fffffff},
                                     uint64_t{1} << 40, ~uint64_t{0}}) {
            CAPTURE(value);
            std::string bad = good;
            std::memcpy(bad.data() + field.offset, &value, field.bytes);
            sentence(bad);
        }
    }
}

TEST_CASE("a model whose setting has a senseless value or another kind") {
    const std::string good = small_model();
    std::vector<std::string> keys = kRequired;
    keys.insert(keys.end(), kOptional.begin(), kOptional.end());
    for (const std::string& key : keys) {
        CAPTURE(key);
        int n_refused = 0, n = 0;
        for (const std::string& entry : entries_of(key)) {
            CAPTURE(n++);
            n_refused += !sentence(with_entry(good, key, entry)).empty();
        }
        CHECK(n_refused > 0);
    }
}

TEST_CASE("a model that lacks a setting which it needs") {
    const std::string good = small_model();
    for (const std::string& key : kRequired) {
        CHECK(sentence(with_entry(good, key, "")).find(key) != std::string::npos);
    }
}
