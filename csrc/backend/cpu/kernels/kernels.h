// The table of functions that every instruction set fills. generic.cpp is the readable reference.
//
// What must hold in every file: each output element depends only on its own inputs, added in an order that is
// fixed by the sizes of the row alone. It never depends on how many rows or columns a call covers, nor on
// which thread makes the call. Only so is a reply the same for any number of threads, chunks and neighbours.
#pragma once

#include <cstdint>

#include "format/dtype.h"

namespace chatglm::cpu {

// Activations (n_rows, n_cols) quantized to 8 bits in blocks of 32, one absmax scale a block, as ggml's q8_0
// does but with the parts kept in planes so that eight blocks' scales load at once. q: (n_rows, n_cols) int8;
// d: (n_rows, n_blocks) scale; s: (n_rows, n_blocks) d * sum of the block's q.
struct QuantizedRows {
    const int8_t* q;
    const float* d;
    const float* s;
    int64_t n_cols;  // a multiple of 32; n_blocks = n_cols / 32
};

// One tile of y = x Wᵀ: y[r * y_stride + n] for r < n_rows and row_begin <= n < row_end. Rows of W may start
// at any byte. With few rows of x, long runs of W's rows (64 and more a call) keep memory streaming.
struct MatmulArgs {
    const void* weight;          // row 0 of W: (n_out, n_cols) in the type of the table's entry
    int64_t weight_stride;       // bytes from one row of W to the next
    int64_t row_begin, row_end;  // rows of W, that is columns of y, to compute
    int64_t n_cols;
    const float* x;    // (n_rows, n_cols) for float weights, else null
    QuantizedRows xq;  // for quantized weights
    int64_t n_rows;    // rows of x and y
    float* y;          // (n_rows, y_stride)
    int64_t y_stride;
};

// Attention of some queries to a run of positions inside one page of one K/V head, as one step of an online
// softmax. For each query i with scores s_p = scale * q_i · k_p over p in [0, n_visible[i]):
//   m' = max(m, max s_p);  c = exp(m - m');  w_p = exp(s_p - m');
//   acc = c acc + Σ w_p v_p;  l = c l + Σ w_p
// A query with n_visible 0 is left untouched. Start from m = -inf, l = 0, acc = 0.
struct AttentionTile {
    const void* k;    // (n_positions, head_dim) of the cache's type; of q8_0, (n_positions, xq.n_cols)
    const void* v;    // as k
    int n_positions;  // <= kMaxTile
    int head_dim;     // any size >= 1 works; multiples of 8 are fast
    int n_queries;
    const float* const* q;  // n_queries pointers to (head_dim,) f32
    QuantizedRows xq;       // for q8_0, the same: (n_queries, head_dim and zeros up to whole blocks)
    const int* n_visible;   // per query, <= n_positions
    float scale;
    float* m;           // (n_queries,)
    float* l;           // (n_queries,)
    float* const* acc;  // n_queries pointers to (head_dim,)
    // What the next step reads, (next_bytes,) each, to be fetched meanwhile; null when there is none.
    const void* next_k;
    const void* next_v;
    int64_t next_bytes;
};
inline constexpr int kMaxTile = 64;

struct Kernels {
    const char* name;  // "generic", "avx2", "avxvnni", "avx512vnni", "neon", "dotprod", "i8mm"

    // By weight type.
    using Matmul = void (*)(const MatmulArgs&);
    Matmul matmul_f32, matmul_f16, matmul_bf16;
    Matmul matmul_q4_0, matmul_q4_1, matmul_q5_0, matmul_q5_1, matmul_q8_0;

    // x (n,) -> q (n,), d (n/32,), s (n/32,): d = absmax / 127, q = round(x * (1 / d)), ties to even, in
    // [-127, 127]; the same bits in every table. A block whose absmax is below 2^-119 counts as zeros: d = 0.
    // A block with a value that is not finite, or is 2^118 or more, has q = 0 and d = s = NaN, so that its
    // outputs are NaN, not wrong: s and 16 s are finite in all other blocks.
    void (*quantize_row)(const float* x, int64_t n, int8_t* q, float* d, float* s);

    // By cache type. With q8_0, scores are products of quantized queries and keys.
    using Attend = void (*)(const AttentionTile&);
    Attend attend_f32, attend_f16, attend_q8_0;

    // Conversions of rows: cache and embedding.
    void (*f32_to_f16)(const float* x, uint16_t* y, int64_t n);
    void (*f16_to_f32)(const uint16_t* x, float* y, int64_t n);

    // y = x / sqrt(mean(x²) + eps) * weight. The sum is f32.
    void (*rms_norm)(const float* x, const float* weight, float eps, float* y, int64_t n);
    // y = (x - mean) / sqrt(variance + eps) * weight + bias
    void (*layer_norm)(const float* x, const float* weight, const float* bias, float eps, float* y,
                       int64_t n);
    // y = silu(gate) * up, silu(z) = z / (1 + exp(-z)). The same bits wherever a span of the row is cut at a
    // multiple of 8; also true of gelu and add_scaled.
    void (*swiglu)(const float* gate, const float* up, float* y, int64_t n);
    // y = 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x³)))
    void (*gelu)(const float* x, float* y, int64_t n);
    // y += scale * x
    void (*add_scaled)(const float* x, float scale, float* y, int64_t n);

    // The cache's type is f32, f16 or q8_0.
    Attend attend(DType type) const {
        return type == DType::f32 ? attend_f32 : type == DType::f16 ? attend_f16 : attend_q8_0;
    }

    Matmul matmul(DType type) const {
        switch (type) {
            case DType::f32:
                return matmul_f32;
            case DType::f16:
                return matmul_f16;
            case DType::bf16:
                return matmul_bf16;
            case DType::q4_0:
                return matmul_q4_0;
            case DType::q4_1:
                return matmul_q4_1;
            case DType::q5_0:
                return matmul_q5_0;
            case DType::q5_1:
                return matmul_q5_1;
            case DType::q8_0:
                return matmul_q8_0;
        }
        return nullptr;
    }
};

// Built for this processor's family; a null when the file's instruction set was not compiled in.
const Kernels* generic_kernels();
const Kernels* avx2_kernels();
const Kernels* avxvnni_kernels();
const Kernels* avx512vnni_kernels();
const Kernels* neon_kernels();
const Kernels* dotprod_kernels();
const Kernels* i8mm_kernels();

// The tables this machine can run, best first; "generic" is always last.
const Kernels* const* runnable_kernels(int* count);

// The best runnable table, or the one named by the environment variable CHATGLM_ISA. Chosen once.
// Throws InvalidArgument when CHATGLM_ISA names nothing that this machine can run, listing what it can.
const Kernels& kernels();

}  // namespace chatglm::cpu
