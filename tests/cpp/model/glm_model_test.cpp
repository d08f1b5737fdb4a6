#include "model/glm_model.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <utility>

#include "chatglm/error.h"
#include "model/tiny_model.h"

using namespace chatglm;
using chatglm::test::TemporaryFile;
using chatglm::test::TinyModel;

namespace {

std::vector<int32_t> some_ids(int n, int seed = 1) {
    std::vector<int32_t> ids(static_cast<size_t>(n));
    uint32_t state = static_cast<uint32_t>(seed) * 2654435761u + 1;
    for (int32_t& id : ids) {
        state = state * 1664525u + 1013904223u;
        id = static_cast<int32_t>((state >> 16) % 160);
    }
    return ids;
}

// Adds ids [begin, end) of a sequence; logits for all of them, or for the last one only.
void add(Batch& batch, const GlmModel& model, const std::vector<int32_t>& ids, size_t begin, size_t end,
         KvCache::SequenceId sequence, bool all_logits) {
    batch.add(model.config(), ids, static_cast<int>(begin), static_cast<int>(end), sequence);
    const size_t n = batch.wants_logits.size();
    for (size_t i = all_logits ? n - (end - begin) : n - 1; i < n; ++i) batch.wants_logits[i] = 1;
}

// Logits of every position, computed in chunks.
std::vector<float> logits_of(const GlmModel& model, KvCache& cache, const std::vector<int32_t>& ids,
                             size_t chunk) {
    const auto vocab = static_cast<size_t>(model.config().vocab_size);
    std::vector<float> out(ids.size() * vocab);
    const auto sequence = cache.create();
    for (size_t begin = 0; begin < ids.size(); begin += chunk) {
        Batch batch;
        add(batch, model, ids, begin, std::min(ids.size(), begin + chunk), sequence, true);
        model.forward(batch, cache, out.data() + begin * vocab);
    }
    cache.release(sequence);
    return out;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

}  // namespace

TEST_CASE(
    "logits have the same bits for any thread count, chunking and company, for every weight and cache type") {
    const auto ids = some_ids(600);
    const auto other = some_ids(70, 2);
    for (const DType type : {DType::f32, DType::f16, DType::bf16, DType::q4_0, DType::q4_1, DType::q5_0,
                             DType::q5_1, DType::q8_0}) {
        for (const DType kv : kCacheTypes) {
            if (kv == DType::f32 && type != DType::f32) continue;
            if (kv == DType::q8_0 && type != DType::f32 && type != DType::q8_0) continue;
            CAPTURE(dtype_info(type).name);
            CAPTURE(dtype_info(kv).name);
            const TemporaryFile path(TinyModel{.type = type}.build());
            const GgufFile file(path.path());
            std::vector<float> expected;
            for (const int threads : {1, 2, 3, 5}) {
                const auto backend = make_cpu_backend(threads);
                const GlmModel model(file, *backend);
                KvCache cache(*backend, model.kv_layout(kv));
                const auto vocab = static_cast<size_t>(model.config().vocab_size);
                if (expected.empty()) expected = logits_of(model, cache, ids, ids.size());
                for (const size_t chunk : {size_t{1}, size_t{7}, size_t{64}, ids.size()}) {
                    CAPTURE(chunk);
                    if (chunk == 1 && threads > 2) continue;
                    CHECK(same_bits(logits_of(model, cache, ids, chunk), expected));
                }
                // Three sequences in one ragged batch: one long, one alone at its first token, one in its
                // middle.
                const auto a = cache.create(), b = cache.create(), c = cache.create();
                Batch start;
                start.add(model.config(), other, 0, 33, c);
                model.forward(start, cache, nullptr);
                Batch ragged;
                add(ragged, model, ids, 0, 1, b, true);
                add(ragged, model, ids, 0, ids.size(), a, false);
                add(ragged, model, other, 33, other.size(), c, true);
                std::vector<float> out((2 + other.size() - 33) * vocab);
                model.forward(ragged, cache, out.data());
                CHECK(std::memcmp(out.data(), expected.data(), vocab * sizeof(float)) == 0);
                CHECK(std::memcmp(out.data() + vocab, expected.data() + (ids.size() - 1) * vocab,
                                  vocab * sizeof(float)) == 0);
                const auto alone = logits_of(model, cache, other, other.size());
                CHECK(std::memcmp(out.data() + 2 * vocab, alone.data() + 33 * vocab,
                                  (other.size() - 33) * vocab * sizeof(float)) == 0);
            }
        }
    }
}

TEST_CASE("long contexts give the same bits whether splits run in one thread or in many") {
    const TemporaryFile path(TinyModel{.type = DType::q8_0}.build());
    const GgufFile file(path.path());
    const auto ids = some_ids(1700);
    for (const DType kv : {DType::f16, DType::q8_0}) {
        CAPTURE(dtype_info(kv).name);
        std::vector<float> expected;
        for (const int threads : {1, 4}) {
            const auto backend = make_cpu_backend(threads);
            const GlmModel model(file, *backend);
            KvCache cache(*backend, model.kv_layout(kv));
            for (const size_t chunk : {size_t{1700}, size_t{1699}, size_t{850}}) {
                const auto logits = logits_of(model, cache, ids, chunk);
                if (expected.empty()) expected = logits;
                CHECK(same_bits(logits, expected));
            }
        }
    }
}

TEST_CASE("a q8_0 cache keeps the logits close to those of f32, whatever the size of a head") {
    const auto ids = some_ids(90);
    for (const int head_dim : {16, 32, 80}) {
        CAPTURE(head_dim);
        const TemporaryFile path(TinyModel{.head_dim = head_dim}.build());
        const GgufFile file(path.path());
        const auto backend = make_cpu_backend(2);
        const GlmModel model(file, *backend);
        std::vector<float> logits[2];
        for (const DType kv : {DType::f32, DType::q8_0}) {
            KvCache cache(*backend, model.kv_layout(kv));
            logits[kv == DType::q8_0] = logits_of(model, cache, ids, ids.size());
        }
        double error = 0, all = 0;
        for (size_t i = 0; i < logits[0].size(); ++i) {
            error += std::pow(logits[0][i] - logits[1][i], 2);
            all += std::pow(logits[0][i], 2);
        }
        CHECK(std::sqrt(error / all) < 0.02);
        CHECK(error > 0);
    }
}

TEST_CASE("separate and tied weights load; what is missing or misshapen is named") {
    for (const bool fused : {true, false}) {
        const TemporaryFile path(TinyModel{.fused_qkv = fused, .tied = true}.build());
        const GgufFile file(path.path());
        const auto backend = make_cpu_backend(1);
        const GlmModel model(file, *backend);
        KvCache cache(*backend, model.kv_layout(DType::f32));
        const auto logits = logits_of(model, cache, some_ids(5), 5);
        CHECK(std::all_of(logits.begin(), logits.end(), [](float x) { return x == x; }));
    }
    const auto fails_with = [](std::string content, const std::string& from, const std::string& to,
                               const char* expected) {
        content.replace(content.find(from), from.size(), to);
        const TemporaryFile path(content);
        const GgufFile file(path.path());
        const auto backend = make_cpu_backend(1);
        CHECK_THROWS_WITH_AS(GlmModel(file, *backend), doctest::Contains(expected), FormatError);
    };
    const std::string good = TinyModel{}.build();
    fails_with(good, "blk.1.ffn_up.weight", "blk.1.ffn_UP.weight", "blk.1.ffn_up.weight");
    fails_with(good, "chatglm.block_count", "chatglm.block_counT", "chatglm.block_count");
    fails_with(good, "output_norm.weight", "output_norm.weighT", "output_norm.weight");
    TinyModel odd;
    odd.kv_heads = 3;
    const TemporaryFile path(odd.build());
    const GgufFile file(path.path());
    const auto backend = make_cpu_backend(1);
    CHECK_THROWS_WITH_AS(GlmModel(file, *backend), doctest::Contains("evenly"), FormatError);
}

TEST_CASE("a refused batch leaves the cache as it was") {
    const TemporaryFile path(TinyModel{}.build());
    const GgufFile file(path.path());
    const auto backend = make_cpu_backend(2);
    const GlmModel model(file, *backend);
    KvCache cache(*backend, model.kv_layout(DType::f16));
    const auto a = cache.create(), b = cache.create();
    Batch bad;
    bad.add(model.config(), std::vector<int32_t>{1, 160}, 0, 2, a);
    CHECK_THROWS_AS(model.forward(bad, cache, nullptr), InvalidArgument);
    Batch torn;
    const std::vector<int32_t> ids{1, 1};
    torn.add(model.config(), ids, 0, 1, a);
    torn.add(model.config(), ids, 0, 1, b);
    torn.add(model.config(), ids, 1, 2, a);
    CHECK_THROWS_AS(model.forward(torn, cache, nullptr), InvalidArgument);
    CHECK(cache.length(a) == 0);
    CHECK(cache.length(b) == 0);
    CHECK(cache.used_pages() == 0);
}

TEST_CASE("a file of a type that is not computed with gives what it gives when repacked beforehand") {
    const auto ids = some_ids(40);
    for (const SuperType type : test::kSuperTypes) {
        CAPTURE(super_type_info(type).name);
        for (const bool tied : {true, false}) {
            TinyModel tiny{.tied = tied, .hidden = 256, .layers = 2, .head_dim = 64, .ffn = 512};
            tiny.super = type;
            const TemporaryFile stored(tiny.build());
            tiny.repacked = true;
            const TemporaryFile native(tiny.build());
            std::vector<float> logits[2];
            for (const TemporaryFile* path : {&stored, &native}) {
                const GgufFile file(path->path());
                const auto backend = make_cpu_backend(path == &stored ? 3 : 1);
                const GlmModel model(file, *backend);
                KvCache cache(*backend, model.kv_layout(DType::f16));
                logits[path == &native] = logits_of(model, cache, ids, ids.size());
                const auto notes = model.notes();
                const std::string used = dtype_info(transcoded_type(type)).name;
                if (path == &native) {
                    CHECK(model.config().dtype == used);
                    CHECK(notes.empty());
                    continue;
                }
                CHECK(model.config().dtype == super_type_info(type).name);
                REQUIRE(notes.size() == 1);
                CHECK(notes[0].find((tied ? "9 matrices of the type " : "10 matrices of the type ") +
                                    model.config().dtype + " were repacked as " + used) == 0);
            }
            CHECK(same_bits(logits[0], logits[1]));
            CHECK(std::all_of(logits[0].begin(), logits[0].end(), [](float x) { return std::isfinite(x); }));
        }
    }
}

TEST_CASE("types that cannot be used, damaged scales and files cut short are told in a sentence") {
    TinyModel tiny{.hidden = 256, .layers = 1, .head_dim = 64, .ffn = 256};
    tiny.super = SuperType::q4_K;
    const std::string good = tiny.build();
    const auto message_of = [](const std::string& content) -> std::string {
        const TemporaryFile path(content);
        try {
            const GgufFile file(path.path());
            const auto backend = make_cpu_backend(2);
            const GlmModel model(file, *backend);
        } catch (const FormatError& e) {
            return e.what();
        }
        return "";
    };
    CHECK(message_of(good).empty());

    // A scale in the last matrix, behind which nothing follows.
    std::string damaged = good;
    const uint16_t infinity = 0x7c00;
    std::memcpy(damaged.data() + damaged.size() - sizeof(BlockQ4_K), &infinity, sizeof infinity);
    const std::string said = message_of(damaged);
    CHECK(said.find("row 255 of tensor 'blk.0.ffn_down.weight' (q4_K)") != std::string::npos);
    CHECK(said.find("damaged") != std::string::npos);

    CHECK(message_of(good.substr(0, good.size() - 1)).find("cut short") != std::string::npos);
    CHECK(message_of(good.substr(0, good.size() - 50000)).find("cut short") != std::string::npos);

    // The type stands after the name, the number of dimensions and two sizes.
    const auto with_type = [&](uint32_t number) {
        std::string content = good;
        const std::string name = "token_embd.weight";
        std::memcpy(content.data() + content.find(name) + name.size() + 20, &number, sizeof number);
        return message_of(content);
    };
    for (const auto& [number, name] : {std::pair{17u, "iq2_xs"}, {39u, "mxfp4"}, {77u, "ggml type 77"}}) {
        const std::string refused = with_type(number);
        CHECK(refused.find("'token_embd.weight' has the type " + std::string(name)) != std::string::npos);
        CHECK(refused.find("chatglm_cpp.convert") != std::string::npos);
    }
    tiny.hidden = 64;
    tiny.super.reset();
    std::string narrow = tiny.build();
    const std::string name = "token_embd.weight";
    const uint32_t q6_K = 14;
    std::memcpy(narrow.data() + narrow.find(name) + name.size() + 20, &q6_K, sizeof q6_K);
    CHECK(message_of(narrow).find("64 elements, which is not a whole number of q6_K blocks of 256") !=
          std::string::npos);
}
