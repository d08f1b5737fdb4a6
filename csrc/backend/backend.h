// The operations that the model is made of. A backend implements operations on its own memory, never a model.
//
// Activations are f32 matrices, one row a token, in memory from allocate(); shapes stand in the comments as
// (rows, columns). What must hold for every backend: a row of a result depends on that row's inputs alone,
// bit for bit, whatever other rows are in the call.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "chatglm/model.h"
#include "format/dtype.h"
#include "format/gguf.h"

namespace chatglm {

// A weight matrix (rows, cols) in its stored type, where the backend computes with it.
struct Weight {
    DType type{};
    int64_t rows = 0;
    int64_t cols = 0;
    const void* data = nullptr;
    explicit operator bool() const { return data != nullptr; }
};

// Weight and bias of a norm (n,), f32; bias is null for RMSNorm.
struct NormWeight {
    const float* weight = nullptr;
    const float* bias = nullptr;
    explicit operator bool() const { return weight != nullptr; }
};

// Rotation of one span of each head, for every row: pairs (2i, 2i + 1) of dims [0, 2 * n_pairs).
struct RopeAngles {
    const float* cos = nullptr;  // (n_rows, n_pairs)
    const float* sin = nullptr;  // (n_rows, n_pairs)
    int n_pairs = 0;
};

// A page holds `page_size` positions of every layer: per layer K (n_kv_heads, page_size, head_dim), then V
// alike. With a type of blocks, every head's row is filled up with zeros to whole blocks.
struct KvLayout {
    DType type = DType::f16;  // f32, f16 or q8_0
    int page_size = 64;
    int n_layers = 0;
    int n_kv_heads = 0;
    int head_dim = 0;

    int64_t row_size() const {  // elements of one position of one head
        const int64_t block = dtype_info(type).block_size;
        return (head_dim + block - 1) / block * block;
    }
    size_t head_bytes() const { return static_cast<size_t>(row_bytes(type, page_size * row_size())); }
    size_t layer_bytes() const { return 2 * head_bytes() * static_cast<size_t>(n_kv_heads); }
    size_t page_bytes() const { return layer_bytes() * static_cast<size_t>(n_layers); }
};

// Rows of a batch that belong to one sequence: adjacent, in ascending order of their cache slots.
struct SequenceRows {
    int row_begin = 0;
    int row_end = 0;
    std::span<uint8_t* const> pages;  // page of slots [64 i, 64 i + 64)
};

struct AttentionBatch {
    std::span<const SequenceRows> sequences;
    std::span<const int32_t> slots;      // per row: its place in its sequence's cache
    std::span<const int32_t> n_visible;  // per row: it attends to slots [0, n_visible)
};

class Backend {
  public:
    virtual ~Backend() = default;

    virtual const char* isa() const = 0;
    virtual int n_threads() const = 0;

    // Memory for activations and cache pages, aligned to at least 64 bytes, filled with zeros. Throws
    // OutOfMemory.
    struct Release {
        Backend* backend;
        void operator()(uint8_t* p) const { backend->release(p); }
    };
    using Buffer = std::unique_ptr<uint8_t, Release>;
    Buffer allocate(size_t bytes) { return Buffer(acquire(bytes), Release{this}); }

    // Makes a stored matrix ready to compute with. The file must stay mapped while the backend lives.
    virtual Weight load_matrix(const GgufTensor& tensor) = 0;

    // y (n, hidden) = rows of table (vocab, hidden)
    virtual void embed(const Weight& table, std::span<const int32_t> ids, float* y) = 0;

    // y (n_rows, n) = norm of x (n_rows, n); y may be x
    virtual void norm(NormKind kind, const float* x, int n_rows, int n, const NormWeight& w, float eps,
                      float* y) = 0;

    // y (n_rows, w.rows), rows y_stride apart, = x (n_rows, w.cols) Wᵀ + bias (w.rows,); bias may be null
    virtual void linear(const float* x, int n_rows, const Weight& w, const float* bias, float* y,
                        int64_t y_stride) = 0;

    // Rotates in place the heads (n_rows, n_heads, head_dim) whose rows are `stride` apart.
    virtual void rope(float* x, int n_rows, int64_t stride, int n_heads, int head_dim,
                      const RopeAngles& angles) = 0;

    // Writes k, v (n_rows, n_kv_heads, head_dim), rows `stride` apart, into the batch's slots of `layer`.
    virtual void store_kv(const KvLayout& layout, int layer, const AttentionBatch& batch, const float* k,
                          const float* v, int64_t stride) = 0;

    // y (n_rows, n_heads * head_dim) = softmax(q kᵀ / sqrt(head_dim)) v over each row's visible slots.
    // q (n_rows, n_heads, head_dim), rows `stride` apart; query head h reads K/V head h / (n_heads /
    // n_kv_heads).
    virtual void attention(const KvLayout& layout, int layer, const AttentionBatch& batch, const float* q,
                           int64_t stride, int n_heads, float* y) = 0;

    // y (n_rows, n) = silu(x[:, :n]) * x[:, n:], x (n_rows, 2n)
    virtual void swiglu(const float* x, int n_rows, int n, float* y) = 0;

    // x (n_rows, n) = gelu(x), tanh form
    virtual void gelu(float* x, int n_rows, int n) = 0;

    // y (count,) += scale * x (count,)
    virtual void add(const float* x, float scale, float* y, int64_t count) = 0;

    // y (rows.size(), n) = the given rows of x (., n)
    virtual void gather(const float* x, std::span<const int32_t> rows, int n, float* y) = 0;

    // To and from the backend's memory.
    virtual void upload(const void* host, void* device, size_t bytes) = 0;
    virtual void download(const void* device, void* host, size_t bytes) = 0;

  protected:
    virtual uint8_t* acquire(size_t bytes) = 0;
    virtual void release(uint8_t* p) = 0;
};

// Computes on the processor with `n_threads` threads (0: the physical cores).
std::unique_ptr<Backend> make_cpu_backend(int n_threads);

}  // namespace chatglm
