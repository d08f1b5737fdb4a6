// Products with float weights.
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

}  // namespace
}  // namespace chatglm::cpu
