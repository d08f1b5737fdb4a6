#include "model/memory_need.h"

#include <doctest/doctest.h>

#include "chatglm/error.h"
#include "format/gguf_builder.h"
#include "model/glm_model.h"
#include "model/load_config.h"
#include "model/tiny_model.h"

using namespace chatglm;

namespace {

constexpr int64_t kGiga = 1'000'000'000;

MemoryState machine(double total, double available, double fatal = 0) {
    const auto bytes = [](double gigabytes) { return static_cast<int64_t>(gigabytes * kGiga); };
    return {bytes(total), bytes(available), bytes(fatal)};
}

// Counts what a model asks of its backend.
class CountingBackend final : public Backend {
  public:
    explicit CountingBackend(Backend& inner) : inner_(inner) {}
    int64_t allocated = 0;

    const char* isa() const override { return inner_.isa(); }
    int n_threads() const override { return inner_.n_threads(); }
    Weight load_matrix(const GgufTensor& t) override { return inner_.load_matrix(t); }
    void embed(const Weight& t, std::span<const int32_t> ids, float* y) override { inner_.embed(t, ids, y); }
    void norm(NormKind k, const float* x, int rows, int n, const NormWeight& w, float e, float* y) override {
        inner_.norm(k, x, rows, n, w, e, y);
    }
    void linear(const float* x, int rows, const Weight& w, const float* b, float* y, int64_t s) override {
        inner_.linear(x, rows, w, b, y, s);
    }
    void rope(float* x, int rows, int64_t s, int heads, int d, const RopeAngles& a) override {
        inner_.rope(x, rows, s, heads, d, a);
    }
    void store_kv(const KvLayout& l, int layer, const AttentionBatch& b, const float* k, const float* v,
                  int64_t s) override {
        inner_.store_kv(l, layer, b, k, v, s);
    }
    void attention(const KvLayout& l, int layer, const AttentionBatch& b, const float* q, int64_t s,
                   int heads, float* y) override {
        inner_.attention(l, layer, b, q, s, heads, y);
    }
    void swiglu(const float* x, int rows, int n, float* y) override { inner_.swiglu(x, rows, n, y); }
    void gelu(float* x, int rows, int n) override { inner_.gelu(x, rows, n); }
    void add(const float* x, float scale, float* y, int64_t n) override { inner_.add(x, scale, y, n); }
    void gather(const float* x, std::span<const int32_t> rows, int n, float* y) override {
        inner_.gather(x, rows, n, y);
    }
    void upload(const void* h, void* d, size_t n) override { inner_.upload(h, d, n); }
    void download(const void* d, void* h, size_t n) override { inner_.download(d, h, n); }

  protected:
    uint8_t* acquire(size_t bytes) override {
        allocated += static_cast<int64_t>(bytes);
        held_.push_back(inner_.allocate(bytes));
        return held_.back().get();
    }
    void release(uint8_t*) override {}

  private:
    Backend& inner_;
    std::vector<Buffer> held_;
};

}  // namespace

TEST_CASE("what a model takes is known before it is loaded") {
    const test::TemporaryFile path(test::TinyModel{.type = DType::q8_0}.build());
    const GgufFile file(path.path());
    const ModelConfig config = load_config(file);
    constexpr int kTokens = 128, kRows = 32;
    const MemoryNeed need = memory_need(file, config, DType::f16, kTokens, kRows);

    const auto cpu = make_cpu_backend(1);
    CountingBackend backend(*cpu);
    const GlmModel model(file, backend);
    CHECK(backend.allocated == need.repacked);  // norms and biases; of the matrices nothing
    int64_t matrices = 0;
    for (const GgufTensor& t : file.tensors())
        matrices += t.shape.size() > 1 ? static_cast<int64_t>(t.data.size()) : 0;
    CHECK(need.mapped == matrices);

    for (const DType kv : {DType::f32, DType::q8_0}) {
        KvCache other(*cpu, model.kv_layout(kv));
        other.extend(other.create(), kTokens);
        CHECK(other.allocated_bytes() == memory_need(file, config, kv, kTokens, kRows).cache);
    }

    KvCache cache(backend, model.kv_layout(DType::f16));
    const auto sequence = model.create_sequence(cache);
    const std::vector<int32_t> ids(kTokens, 5);
    std::vector<float> logits(static_cast<size_t>(config.vocab_size));
    for (int begin = 0; begin < kTokens; begin += kRows) {
        Batch batch;
        batch.add(config, ids, begin, begin + kRows, sequence);
        batch.wants_logits.back() = 1;
        model.forward(batch, cache, logits.data());
    }
    CHECK(cache.allocated_bytes() == need.cache);
    const int64_t work = backend.allocated - need.repacked - need.cache;
    CHECK(work <= need.work);
    CHECK(need.work <= work * 3 / 2);
}

TEST_CASE("weights that are repacked are counted as the engine keeps them") {
    const test::TinyModel stored{.super = SuperType::q4_K, .hidden = 256, .head_dim = 64, .ffn = 256};
    test::TinyModel repacked = stored;
    repacked.repacked = true;
    const test::TemporaryFile a(stored.build()), b(repacked.build());
    const GgufFile before(a.path()), after(b.path());
    const auto need = [](const GgufFile& file) {
        return memory_need(file, load_config(file), DType::f16, 1, 1);
    };
    CHECK(need(before).mapped == 0);
    CHECK(need(before).repacked == need(after).repacked + need(after).mapped);

    check_repacked_memory(before, {});
    check_repacked_memory(before, {1, 1, need(before).repacked});
    check_repacked_memory(after, {1, 1, need(after).repacked});
    CHECK_THROWS_WITH_AS(check_repacked_memory(before, {1, 1, need(before).repacked - 1}),
                         doctest::Contains("repacked at load"), OutOfMemory);
}

TEST_CASE("a model that fits what is free needs no note") {
    CHECK(memory_note(4 * kGiga, 2048, machine(16, 8)) == "");
    CHECK(memory_note(8 * kGiga, 2048, machine(16, 8)) == "");
}

TEST_CASE("a model that fits the machine but not what is free asks to close other programs") {
    const std::string note = memory_note(9 * kGiga, 4096, machine(16, 8));
    CHECK(note.find("4096 tokens of context need 9.0 GB of memory, and 8.0 GB are free") !=
          std::string::npos);
}

TEST_CASE("a model larger than the machine is told to be slow, and still loads") {
    const std::string note = memory_note(18 * kGiga, 2048, machine(16, 8));
    CHECK(note.find("16.0 GB is all there is") != std::string::npos);
    CHECK(note.find("disk") != std::string::npos);
}

TEST_CASE("where the system says nothing about its memory nothing is said or refused") {
    CHECK(memory_note(int64_t{1} << 60, 2048, {}) == "");
    check_cache_memory(KvLayout{DType::f16, 64, 1000, 1000, 1000}, 1 << 30, {});
}

TEST_CASE("a prompt whose cache cannot be had is refused, whatever its size") {
    const KvLayout layout{DType::f16, 64, 40, 2, 128};  // 40 KB a token
    check_cache_memory(layout, 100'000, machine(16, 8, 18));
    CHECK_THROWS_WITH_AS(check_cache_memory(layout, 1'000'000, machine(16, 8, 18)),
                         doctest::Contains("41.0 GB, and there are 18.0 GB"), OutOfMemory);
    const KvLayout absurd{DType::f32, 64, 1 << 20, 1 << 20, 1 << 20};
    CHECK_THROWS_AS(check_cache_memory(absurd, 1 << 30, machine(16, 8, 18)), OutOfMemory);
}
