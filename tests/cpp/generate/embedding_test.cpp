#include <doctest/doctest.h>

#include <cmath>

#include "chatglm/error.h"
#include "chatglm/pipeline.h"
#include "model/tiny_model.h"

using namespace chatglm;
using chatglm::test::TemporaryFile;
using chatglm::test::TinyModel;

namespace {

constexpr size_t kWidth = 64;  // of a TinyModel

std::vector<float> embed(Pipeline& pipeline, const std::vector<std::vector<int32_t>>& texts,
                         const EmbeddingOptions& options = {}) {
    std::vector<float> out(texts.size() * kWidth);
    pipeline.embed(texts, out.data(), options);
    return out;
}

}  // namespace

TEST_CASE("a vector depends on its text alone, not on chunks, threads or other texts") {
    const TemporaryFile file(TinyModel{}.build());
    std::vector<std::vector<int32_t>> texts;
    for (int n = 1; n < 40; n += 3) {
        for (int begin : {3, 50}) {
            texts.emplace_back();
            for (int i = 0; i < n; ++i) texts.back().push_back(begin + i);
        }
    }
    for (const Pooling pooling : {Pooling::mean, Pooling::last}) {
        Pipeline pipeline(file.path());
        const auto together = embed(pipeline, texts, {pooling, true});
        PipelineOptions options;
        options.n_threads = 2;
        options.prefill_chunk = 7;
        Pipeline cut(file.path(), options);
        CHECK(embed(cut, texts, {pooling, true}) == together);
        for (size_t i = 0; i < texts.size(); ++i) {
            const auto alone = embed(cut, {texts[i]}, {pooling, true});
            CHECK(std::equal(alone.begin(), alone.end(), together.begin() + static_cast<int>(i * kWidth)));
        }
    }
}

TEST_CASE("normalized vectors have the length 1 and the direction of the others") {
    const TemporaryFile file(TinyModel{}.build());
    Pipeline pipeline(file.path());
    const auto raw = embed(pipeline, {{5, 6, 7}}, {Pooling::mean, false});
    const auto unit = embed(pipeline, {{5, 6, 7}});
    double squares = 0, dot = 0, raw_squares = 0;
    for (size_t i = 0; i < kWidth; ++i) {
        squares += double{unit[i]} * unit[i];
        raw_squares += double{raw[i]} * raw[i];
        dot += double{unit[i]} * raw[i];
    }
    CHECK(squares == doctest::Approx(1));
    CHECK(dot == doctest::Approx(std::sqrt(raw_squares)));
    CHECK(pipeline.embed("abc") == embed(pipeline, {pipeline.tokenizer().encode("abc")}));
}

TEST_CASE("an embedding that is interrupted or refused leaves no memory in use") {
    const TemporaryFile file(TinyModel{}.build());
    PipelineOptions options;
    options.prefill_chunk = 8;
    Pipeline pipeline(file.path(), options);
    const std::vector<std::vector<int32_t>> texts(4, std::vector<int32_t>(300, 9));
    std::vector<float> out(texts.size() * kWidth);
    int asked = 0;
    // Asked once before each batch at least: the third one leaves a text half computed.
    CHECK_THROWS_AS(pipeline.embed(texts, out.data(), {}, [&] { return ++asked > 2; }), Interrupted);
    CHECK(pipeline.stats().used_bytes == 0);
    CHECK_THROWS_WITH_AS(embed(pipeline, {{5}, {}}), doctest::Contains("Text 1 has no tokens"),
                         InvalidArgument);
    CHECK_THROWS_WITH_AS(embed(pipeline, {{5}, {6, 160}}), doctest::Contains("the token id 160"),
                         InvalidArgument);
    CHECK_THROWS_WITH_AS(embed(pipeline, {std::vector<int32_t>(4097, 5)}), doctest::Contains("4097 tokens"),
                         ContextLengthError);
    CHECK(embed(pipeline, {}).empty());
    CHECK(pipeline.stats().used_bytes == 0);
}
