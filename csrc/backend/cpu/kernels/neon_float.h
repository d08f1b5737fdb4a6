// Products with float weights, and attention, which is made of them.
// Part of neon.cpp, dotprod.cpp and i8mm.cpp and of no other file: see avx2.cpp why everything has internal
// linkage.
#pragma once

#include "backend/cpu/kernels/kernels.h"
#include "backend/cpu/kernels/neon_vector.h"

namespace chatglm::cpu {
namespace {

// A tile of W rows times x rows, one accumulator of eight lanes an element. Columns go in chunks of kColumns,
// and the chunks' sums are added in order, so that a tile's operands stay in the first-level cache.

struct F32 {
    static constexpr int64_t kBytes = 4;
    CHATGLM_INLINE Floats load(const uint8_t* p) {
        return {vreinterpretq_f32_u8(vld1q_u8(p)), vreinterpretq_f32_u8(vld1q_u8(p + 16))};
    }
    CHATGLM_INLINE Floats load_first(const uint8_t* p, int64_t n) {
        uint8_t v[32] = {};
        std::memcpy(v, p, static_cast<size_t>(n) * 4);
        return load(v);
    }
};

struct F16 {
    static constexpr int64_t kBytes = 2;
    CHATGLM_INLINE Floats load(const uint8_t* p) {
        const float16x8_t v = vreinterpretq_f16_u8(vld1q_u8(p));
        return {vcvt_f32_f16(vget_low_f16(v)), vcvt_high_f32_f16(v)};
    }
    CHATGLM_INLINE Floats load_first(const uint8_t* p, int64_t n) {
        uint8_t v[16] = {};
        std::memcpy(v, p, static_cast<size_t>(n) * 2);
        return load(v);
    }
};

struct Bf16 {
    static constexpr int64_t kBytes = 2;
    CHATGLM_INLINE Floats load(const uint8_t* p) {
        const uint16x8_t v = vreinterpretq_u16_u8(vld1q_u8(p));
        return {vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(v), 16)),
                vreinterpretq_f32_u32(vshll_high_n_u16(v, 16))};
    }
    CHATGLM_INLINE Floats load_first(const uint8_t* p, int64_t n) {
        uint8_t v[16] = {};
        std::memcpy(v, p, static_cast<size_t>(n) * 2);
        return load(v);
    }
};

template <class T, int W, int X>
CHATGLM_INLINE void dot_tile(const uint8_t* w, int64_t w_stride, const float* const x[X], int64_t n,
                             Floats acc[X][W], uintptr_t ahead = 0) {
    CHATGLM_UNROLL
    for (int i = 0; i < X; ++i) {
        CHATGLM_UNROLL
        for (int k = 0; k < W; ++k) acc[i][k] = zeros();
    }
    int64_t c = 0;
    for (; c + 8 <= n; c += 8) {
        if (ahead != 0) prefetch(ahead + static_cast<uintptr_t>(c * W * T::kBytes), 8 * W * T::kBytes);
        Floats v[X];
        CHATGLM_UNROLL
        for (int i = 0; i < X; ++i) v[i] = load(x[i] + c);
        CHATGLM_UNROLL
        for (int k = 0; k < W; ++k) {
            const Floats weight = T::load(w + k * w_stride + c * T::kBytes);
            CHATGLM_UNROLL
            for (int i = 0; i < X; ++i) acc[i][k] = fma(acc[i][k], weight, v[i]);
        }
    }
    if (c < n) {
        CHATGLM_UNROLL
        for (int k = 0; k < W; ++k) {
            const Floats weight = T::load_first(w + k * w_stride + c * T::kBytes, n - c);
            CHATGLM_UNROLL
            for (int i = 0; i < X; ++i) acc[i][k] = fma(acc[i][k], weight, load_tail(x[i] + c, n - c));
        }
    }
}

constexpr int64_t kColumns = 1024;  // 4 rows of W and 3 of x: 20 KB with f16
constexpr int kDotRows = 4;         // of W: 4 * 3 accumulators, 3 x and 1 w of two registers are all 32
constexpr int kDotX = 3;

template <class T, int X, bool kStream>
void float_tiles(const MatmulArgs& args, int64_t row, int64_t column, int64_t begin, int64_t end) {
    const int64_t n_columns = args.n_cols - column < kColumns ? args.n_cols - column : kColumns;
    const uint8_t* weight = static_cast<const uint8_t*>(args.weight) + column * T::kBytes;
    const float* x[X];
    CHATGLM_UNROLL
    for (int i = 0; i < X; ++i) x[i] = args.x + (row + i) * args.n_cols + column;
    int64_t n = begin;
    for (; n + kDotRows <= end; n += kDotRows) {
        Floats acc[X][kDotRows];
        const uint8_t* w = weight + n * args.weight_stride;
        // the run is the tile's rows from column 0 on; this chunk's share of the next one
        const uintptr_t ahead = kStream
                                    ? prefetch_start(w - column * T::kBytes, kDotRows * args.weight_stride) +
                                          static_cast<uintptr_t>(kDotRows * column * T::kBytes)
                                    : 0;
        dot_tile<T, kDotRows, X>(w, args.weight_stride, x, n_columns, acc, ahead);
        CHATGLM_UNROLL
        for (int i = 0; i < X; ++i) {
            float* y = args.y + (row + i) * args.y_stride + n;
            const float32x4_t sums = sum_lanes(acc[i][0], acc[i][1], acc[i][2], acc[i][3]);
            vst1q_f32(y, column == 0 ? sums : vaddq_f32(vld1q_f32(y), sums));
        }
    }
    for (; n < end; ++n) {
        Floats acc[X][1];
        dot_tile<T, 1, X>(weight + n * args.weight_stride, args.weight_stride, x, n_columns, acc);
        CHATGLM_UNROLL
        for (int i = 0; i < X; ++i) {
            float& y = args.y[(row + i) * args.y_stride + n];
            y = column == 0 ? sum_lanes(acc[i][0]) : y + sum_lanes(acc[i][0]);
        }
    }
}

template <class T, bool kStream>
void float_columns(const MatmulArgs& args, int64_t column, int64_t begin, int64_t end) {
    int64_t row = 0;
    for (; row + kDotX <= args.n_rows; row += kDotX)
        float_tiles<T, kDotX, kStream>(args, row, column, begin, end);
    if (args.n_rows - row == 2) return float_tiles<T, 2, kStream>(args, row, column, begin, end);
    if (args.n_rows - row == 1) float_tiles<T, 1, kStream>(args, row, column, begin, end);
}

template <class T>
void matmul_float(const MatmulArgs& args) {
    if (args.n_rows <= kDotX) {  // read W once from end to end
        for (int64_t n = args.row_begin; n < args.row_end; n += kDotRows) {
            const int64_t end = args.row_end - n < kDotRows ? args.row_end : n + kDotRows;
            int64_t column = 0;
            do float_columns<T, true>(args, column, n, end);
            while ((column += kColumns) < args.n_cols);
        }
        return;
    }
    int64_t column = 0;
    do float_columns<T, false>(args, column, args.row_begin, args.row_end);
    while ((column += kColumns) < args.n_cols);
}

// ---- Attention ----

constexpr int kSumVectors = 4;  // 3 queries * 4 vectors of the head are 12 accumulators

// p[i][j] = q_i . k_j for X queries and j < n, and maybe some up to n_positions beyond.
template <class T, int X>
void score(const AttentionTile& tile, const float* const* q, int n, float (*p)[kMaxTile]) {
    const int64_t stride = tile.head_dim * T::kBytes;
    const auto* k = static_cast<const uint8_t*>(tile.k);
    int j = 0;
    for (; j < n && j + kDotRows <= tile.n_positions; j += kDotRows) {
        Floats acc[X][kDotRows];
        dot_tile<T, kDotRows, X>(k + j * stride, stride, q, tile.head_dim, acc);
        CHATGLM_UNROLL
        for (int i = 0; i < X; ++i)
            vst1q_f32(p[i] + j, sum_lanes(acc[i][0], acc[i][1], acc[i][2], acc[i][3]));
    }
    for (; j < n; ++j) {
        Floats acc[X][1];
        dot_tile<T, 1, X>(k + j * stride, stride, q, tile.head_dim, acc);
        CHATGLM_UNROLL
        for (int i = 0; i < X; ++i) p[i][j] = sum_lanes(acc[i][0]);
    }
}

// Scores to softmax weights, zeros up to the next multiple of 4; updates m and l, returns the factor for acc.
CHATGLM_INLINE float softmax_step(float* p, int n, float scale, float& m, float& l) {
    const uint32_t lanes[4] = {0, 1, 2, 3};
    const float32x4_t lowest = vdupq_n_f32(-INFINITY);
    float32x4_t top = vdupq_n_f32(m);
    for (int j = 0; j < n; j += 4) {
        const uint32x4_t visible = vcltq_u32(vld1q_u32(lanes), vdupq_n_u32(static_cast<uint32_t>(n - j)));
        const float32x4_t s = vbslq_f32(visible, vmulq_n_f32(vld1q_f32(p + j), scale), lowest);
        vst1q_f32(p + j, s);
        top = vmaxnmq_f32(top, s);  // of numbers only: a NaN reaches the sums, not the maximum
    }
    const float new_m = vmaxnmvq_f32(top);
    const float32x4_t shift = vdupq_n_f32(new_m);
    float32x4_t sum = vdupq_n_f32(0.0f);
    for (int j = 0; j < n; j += 4) {
        const float32x4_t e = exp4(vsubq_f32(vld1q_f32(p + j), shift));
        vst1q_f32(p + j, e);
        sum = vaddq_f32(sum, e);
    }
    const float correction = vgetq_lane_f32(exp4(vdupq_n_f32(m - new_m)), 0);
    m = new_m;
    l = l * correction + vaddvq_f32(sum);
    return correction;
}

// acc = acc * factor + sum of p_j v_j over begin <= j < end, for X queries and N vectors of the head at c.
template <class T, int X, int N>
CHATGLM_INLINE void weigh_columns(const uint8_t* v, int64_t stride, int begin, int end,
                                  const float* const p[X], const float factor[X], float* const acc[X],
                                  int64_t c) {
    Floats sum[X][N];
    CHATGLM_UNROLL
    for (int i = 0; i < X; ++i) {
        CHATGLM_UNROLL
        for (int k = 0; k < N; ++k) sum[i][k] = multiply(load(acc[i] + c + 8 * k), factor[i]);
    }
    for (int j = begin; j < end; ++j) {
        CHATGLM_UNROLL
        for (int k = 0; k < N; ++k) {
            const Floats value = T::load(v + j * stride + (c + 8 * k) * T::kBytes);
            CHATGLM_UNROLL
            for (int i = 0; i < X; ++i) sum[i][k] = fma(sum[i][k], value, p[i][j]);
        }
    }
    CHATGLM_UNROLL
    for (int i = 0; i < X; ++i) {
        CHATGLM_UNROLL
        for (int k = 0; k < N; ++k) store(acc[i] + c + 8 * k, sum[i][k]);
    }
}

template <class T, int X>
void weigh(const AttentionTile& tile, int begin, int end, const float* const p[X], const float factor[X],
           float* const acc[X]) {
    const int64_t stride = tile.head_dim * T::kBytes;
    const auto* v = static_cast<const uint8_t*>(tile.v);
    int64_t c = 0;
    for (; c + 8 * kSumVectors <= tile.head_dim; c += 8 * kSumVectors) {
        weigh_columns<T, X, kSumVectors>(v, stride, begin, end, p, factor, acc, c);
    }
    for (; c + 8 <= tile.head_dim; c += 8) weigh_columns<T, X, 1>(v, stride, begin, end, p, factor, acc, c);
    const int64_t rest = tile.head_dim - c;
    if (rest == 0) return;
    CHATGLM_UNROLL
    for (int i = 0; i < X; ++i) {
        Floats sum = multiply(load_tail(acc[i] + c, rest), factor[i]);
        for (int j = begin; j < end; ++j) {
            sum = fma(sum, T::load_first(v + j * stride + c * T::kBytes, rest), p[i][j]);
        }
        store_tail(acc[i] + c, sum, rest);
    }
}

// X queries that start at `first`. A query reads no value beyond its own n_visible, whatever the others see.
template <class T, int X>
void attend_queries(const AttentionTile& tile, int first) {
    float p[X][kMaxTile];
    const int* n = tile.n_visible + first;
    int longest = n[0], common = n[0];
    for (int i = 1; i < X; ++i) {
        longest = n[i] > longest ? n[i] : longest;
        common = n[i] < common ? n[i] : common;
    }
    score<T, X>(tile, tile.q + first, longest, p);
    float factor[X];
    const float* weights[X];
    CHATGLM_UNROLL
    for (int i = 0; i < X; ++i) {
        factor[i] =
            n[i] > 0 ? softmax_step(p[i], n[i], tile.scale, tile.m[first + i], tile.l[first + i]) : 1.0f;
        weights[i] = p[i];
    }
    if (common > 0) weigh<T, X>(tile, 0, common, weights, factor, tile.acc + first);
    CHATGLM_UNROLL
    for (int i = 0; i < X; ++i) {
        if (n[i] <= common) continue;
        const float rest = common > 0 ? 1.0f : factor[i];
        weigh<T, 1>(tile, common > 0 ? common : 0, n[i], weights + i, &rest, tile.acc + first + i);
    }
}

template <class T>
void attend(const AttentionTile& tile) {
    int i = 0;
    for (; i + kDotX <= tile.n_queries; i += kDotX) attend_queries<T, kDotX>(tile, i);
    for (; i < tile.n_queries; ++i) attend_queries<T, 1>(tile, i);
}

}  // namespace
}  // namespace chatglm::cpu
