// The reference of every kernel in plain C++: what the other instruction sets are tested against, and what
// runs where none of them does. Written to be read; inner loops are left simple enough for a compiler to
// vectorize.
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "backend/cpu/kernels/kernels.h"
#include "core/half.h"

namespace chatglm::cpu {
namespace {

// ---- Products with quantized weights ----

// A block as signed levels: w[j] = d * q[j] + m.
struct Levels {
    int8_t q[kBlockSize];
    float d, m;
};

template <class Block>
Block load_block(const uint8_t* p) {  // a row of blocks may start at any byte
    Block block;
    std::memcpy(&block, p, sizeof(Block));
    return block;
}

void unpack_nibbles(const uint8_t* qs, int offset, int8_t* q) {
    for (int j = 0; j < kBlockSize / 2; ++j) {
        q[j] = static_cast<int8_t>((qs[j] & 15) + offset);
        q[j + kBlockSize / 2] = static_cast<int8_t>((qs[j] >> 4) + offset);
    }
}

void add_fifth_bits(const uint8_t* qh, int8_t* q) {
    for (int j = 0; j < kBlockSize; ++j) q[j] = static_cast<int8_t>(q[j] + 16 * (qh[j / 8] >> (j % 8) & 1));
}

void unpack(const BlockQ4_0& b, Levels& w) {
    w.d = half_to_float(b.d);
    w.m = 0.0f;
    unpack_nibbles(b.qs, -8, w.q);
}

void unpack(const BlockQ4_1& b, Levels& w) {
    w.d = half_to_float(b.d);
    w.m = half_to_float(b.m);
    unpack_nibbles(b.qs, 0, w.q);
}

void unpack(const BlockQ5_0& b, Levels& w) {
    w.d = half_to_float(b.d);
    w.m = 0.0f;
    unpack_nibbles(b.qs, -16, w.q);
    add_fifth_bits(b.qh, w.q);
}

void unpack(const BlockQ5_1& b, Levels& w) {
    w.d = half_to_float(b.d);
    w.m = half_to_float(b.m);
    unpack_nibbles(b.qs, 0, w.q);
    add_fifth_bits(b.qh, w.q);
}

void unpack(const BlockQ8_0& b, Levels& w) {
    w.d = half_to_float(b.d);
    w.m = 0.0f;
    std::memcpy(w.q, b.qs, sizeof(w.q));
}

int dot_block(const int8_t* a, const int8_t* b) {
    int sum = 0;
    for (int j = 0; j < kBlockSize; ++j) sum += int{a[j]} * int{b[j]};
    return sum;
}

// One float sum per element of y, block after block.
template <class Block>
void matmul_quantized(const MatmulArgs& args) {
    const int64_t n_blocks = args.n_cols / kBlockSize;
    for (int64_t n = args.row_begin; n < args.row_end; ++n) {
        const uint8_t* row = static_cast<const uint8_t*>(args.weight) + n * args.weight_stride;
        for (int64_t r = 0; r < args.n_rows; ++r) args.y[r * args.y_stride + n] = 0.0f;
        for (int64_t b = 0; b < n_blocks; ++b) {
            Levels w;
            unpack(load_block<Block>(row + b * static_cast<int64_t>(sizeof(Block))), w);
            for (int64_t r = 0; r < args.n_rows; ++r) {
                const int64_t i = r * n_blocks + b;
                const int dot = dot_block(w.q, args.xq.q + i * kBlockSize);
                float& y = args.y[r * args.y_stride + n];
                y += w.d * (args.xq.d[i] * static_cast<float>(dot));
                y += w.m * args.xq.s[i];
            }
        }
    }
}

// Blocks that 8 bits cannot hold: a value that is not finite makes d and s NaN, so that the error shows in
// every output instead of vanishing, and so does one of 2^118 or more, as 32 of them times an offset of 16
// may be no float; below 2^-119 d would be a denormal and 1 / d infinite, so the block counts as zeros.
constexpr float kTooLarge = 0x1p118f, kSmallestAbsmax = 0x1p-119f;

// v rounded to an integer, ties to even: adding 1.5 * 2^23 leaves no fraction bits. For |v| <= 2^22.
float round_to_even(float v) {
    return (v + 12582912.0f) - 12582912.0f;
}

void quantize_row(const float* x, int64_t n, int8_t* q, float* d, float* s) {
    for (int64_t b = 0; b < n / kBlockSize; ++b, x += kBlockSize, q += kBlockSize) {
        uint32_t absmax_bits = 0;  // of |x| as an integer: in the order of the floats, NaN above all
        for (int j = 0; j < kBlockSize; ++j) {
            const uint32_t bits = std::bit_cast<uint32_t>(x[j]) & 0x7fffffffu;
            absmax_bits = bits > absmax_bits ? bits : absmax_bits;
        }
        const float absmax = std::bit_cast<float>(absmax_bits);
        if (!(absmax >= kSmallestAbsmax && absmax < kTooLarge)) {
            std::memset(q, 0, kBlockSize);
            d[b] = s[b] = absmax < kSmallestAbsmax ? 0.0f : std::numeric_limits<float>::quiet_NaN();
            continue;
        }
        d[b] = absmax / 127.0f;
        const float id = 1.0f / d[b];
        int sum = 0;
        for (int j = 0; j < kBlockSize; ++j) {
            q[j] = static_cast<int8_t>(round_to_even(x[j] * id));
            sum += q[j];
        }
        s[b] = d[b] * static_cast<float>(sum);
    }
}

// ---- Products with float weights ----

struct F32 {
    static constexpr int64_t kBytes = 4;
    static float load(const uint8_t* p) {
        float v;
        std::memcpy(&v, p, 4);
        return v;
    }
};

struct F16 {
    static constexpr int64_t kBytes = 2;
    static float load(const uint8_t* p) {
        uint16_t v;
        std::memcpy(&v, p, 2);
        return half_to_float(v);
    }
};

struct Bf16 {
    static constexpr int64_t kBytes = 2;
    static float load(const uint8_t* p) {
        uint16_t v;
        std::memcpy(&v, p, 2);
        return bf16_to_float(v);
    }
};

// Σ x_i y_i in eight interleaved partial sums, then a tree: short rounding chains, and vectorizable.
constexpr int kLanes = 8;

float sum_lanes(const float* lane) {
    return ((lane[0] + lane[4]) + (lane[2] + lane[6])) + ((lane[1] + lane[5]) + (lane[3] + lane[7]));
}

template <class T>
float dot(const uint8_t* w, const float* x, int64_t n) {
    float lane[kLanes] = {};
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
        for (int k = 0; k < kLanes; ++k) lane[k] += T::load(w + (i + k) * T::kBytes) * x[i + k];
    }
    for (int k = 0; i < n; ++i, ++k) lane[k] += T::load(w + i * T::kBytes) * x[i];
    return sum_lanes(lane);
}

template <class T>
void matmul_float(const MatmulArgs& args) {
    for (int64_t n = args.row_begin; n < args.row_end; ++n) {
        const uint8_t* row = static_cast<const uint8_t*>(args.weight) + n * args.weight_stride;
        for (int64_t r = 0; r < args.n_rows; ++r) {
            args.y[r * args.y_stride + n] = dot<T>(row, args.x + r * args.n_cols, args.n_cols);
        }
    }
}

// ---- Attention ----

// Keys and values in a float type.
template <class T>
struct FloatCache {
    static float score(const AttentionTile& tile, int query, int position) {
        const int64_t at = int64_t{position} * tile.head_dim * T::kBytes;
        return dot<T>(static_cast<const uint8_t*>(tile.k) + at, tile.q[query], tile.head_dim);
    }
    static float value(const AttentionTile& tile, int position, int64_t column) {
        const int64_t at = (int64_t{position} * tile.head_dim + column) * T::kBytes;
        return T::load(static_cast<const uint8_t*>(tile.v) + at);
    }
};

// In blocks, the last of a row filled up with zeros; what meets the keys are the quantized queries.
struct BlockCache {
    static BlockQ8_0 block(const void* rows, const AttentionTile& tile, int position, int64_t b) {
        const int64_t n_blocks = tile.xq.n_cols / kBlockSize;
        const int64_t at = (position * n_blocks + b) * static_cast<int64_t>(sizeof(BlockQ8_0));
        return load_block<BlockQ8_0>(static_cast<const uint8_t*>(rows) + at);
    }
    static float score(const AttentionTile& tile, int query, int position) {
        const int64_t n_blocks = tile.xq.n_cols / kBlockSize;
        float sum = 0.0f;
        for (int64_t b = 0; b < n_blocks; ++b) {
            const int64_t i = query * n_blocks + b;
            const BlockQ8_0 key = block(tile.k, tile, position, b);
            const int products = dot_block(key.qs, tile.xq.q + i * kBlockSize);
            sum += half_to_float(key.d) * (tile.xq.d[i] * static_cast<float>(products));
        }
        return sum;
    }
    static float value(const AttentionTile& tile, int position, int64_t column) {
        const BlockQ8_0 b = block(tile.v, tile, position, column / kBlockSize);
        return half_to_float(b.d) * static_cast<float>(b.qs[column % kBlockSize]);
    }
};

template <class Cache>
void attend(const AttentionTile& tile) {
    const int64_t head_dim = tile.head_dim;
    for (int i = 0; i < tile.n_queries; ++i) {
        const int n = tile.n_visible[i];
        if (n <= 0) continue;
        float p[kMaxTile];
        float m = tile.m[i];
        for (int j = 0; j < n; ++j) {
            p[j] = tile.scale * Cache::score(tile, i, j);
            m = p[j] > m ? p[j] : m;
        }
        float sum = 0.0f;
        for (int j = 0; j < n; ++j) {
            p[j] = std::exp(p[j] - m);
            sum += p[j];
        }
        const float correction = std::exp(tile.m[i] - m);
        tile.m[i] = m;
        tile.l[i] = tile.l[i] * correction + sum;
        float* acc = tile.acc[i];
        for (int64_t c = 0; c < head_dim; ++c) acc[c] *= correction;
        for (int j = 0; j < n; ++j) {
            for (int64_t c = 0; c < head_dim; ++c) acc[c] += p[j] * Cache::value(tile, j, c);
        }
    }
}

// ---- Rows ----

void f32_to_f16(const float* x, uint16_t* y, int64_t n) {
    for (int64_t i = 0; i < n; ++i) y[i] = float_to_half(x[i]);
}

void f16_to_f32(const uint16_t* x, float* y, int64_t n) {
    for (int64_t i = 0; i < n; ++i) y[i] = half_to_float(x[i]);
}

void rms_norm(const float* x, const float* weight, float eps, float* y, int64_t n) {
    float lane[kLanes] = {};
    for (int64_t i = 0; i < n; ++i) lane[i % kLanes] += x[i] * x[i];
    const float scale = 1.0f / std::sqrt(sum_lanes(lane) / static_cast<float>(n) + eps);
    for (int64_t i = 0; i < n; ++i) y[i] = x[i] * scale * weight[i];
}

void layer_norm(const float* x, const float* weight, const float* bias, float eps, float* y, int64_t n) {
    float lane[kLanes] = {};
    for (int64_t i = 0; i < n; ++i) lane[i % kLanes] += x[i];
    const float mean = sum_lanes(lane) / static_cast<float>(n);
    float square[kLanes] = {};
    for (int64_t i = 0; i < n; ++i) square[i % kLanes] += (x[i] - mean) * (x[i] - mean);
    const float scale = 1.0f / std::sqrt(sum_lanes(square) / static_cast<float>(n) + eps);
    for (int64_t i = 0; i < n; ++i) y[i] = (x[i] - mean) * scale * weight[i] + bias[i];
}

void swiglu(const float* gate, const float* up, float* y, int64_t n) {
    for (int64_t i = 0; i < n; ++i) y[i] = gate[i] / (1.0f + std::exp(-gate[i])) * up[i];
}

void gelu(const float* x, float* y, int64_t n) {
    // 0.5 (1 + tanh(u)) = 1 / (1 + exp(-2u)), which keeps its relative precision in the left tail.
    constexpr float kTwoSqrt2OverPi = 1.5957691216f;
    for (int64_t i = 0; i < n; ++i) {
        const float v = x[i];
        y[i] = v / (1.0f + std::exp(-kTwoSqrt2OverPi * (v + 0.044715f * v * v * v)));
    }
}

void add_scaled(const float* x, float scale, float* y, int64_t n) {
    for (int64_t i = 0; i < n; ++i) y[i] += scale * x[i];
}

constexpr Kernels kGeneric = {
    .name = "generic",
    .matmul_f32 = matmul_float<F32>,
    .matmul_f16 = matmul_float<F16>,
    .matmul_bf16 = matmul_float<Bf16>,
    .matmul_q4_0 = matmul_quantized<BlockQ4_0>,
    .matmul_q4_1 = matmul_quantized<BlockQ4_1>,
    .matmul_q5_0 = matmul_quantized<BlockQ5_0>,
    .matmul_q5_1 = matmul_quantized<BlockQ5_1>,
    .matmul_q8_0 = matmul_quantized<BlockQ8_0>,
    .quantize_row = quantize_row,
    .attend_f32 = attend<FloatCache<F32>>,
    .attend_f16 = attend<FloatCache<F16>>,
    .attend_q8_0 = attend<BlockCache>,
    .f32_to_f16 = f32_to_f16,
    .f16_to_f32 = f16_to_f32,
    .rms_norm = rms_norm,
    .layer_norm = layer_norm,
    .swiglu = swiglu,
    .gelu = gelu,
    .add_scaled = add_scaled,
};

}  // namespace

const Kernels* generic_kernels() {
    return &kGeneric;
}

}  // namespace chatglm::cpu
