// Products with float weights.
// Part of avx2.cpp and avx512.cpp and of no other file: see avx2.cpp why everything has internal linkage.
#pragma once

#include "backend/cpu/kernels/avx2_vector.h"
#include "backend/cpu/kernels/kernels.h"

namespace chatglm::cpu {
namespace {

// A tile of W rows times x rows, one accumulator of eight lanes an element. Columns go in chunks of kColumns,
// and the chunks' sums are added in order, so that a tile's operands stay in the first-level cache.

struct F32 {
    static constexpr int64_t kBytes = 4;
    CHATGLM_INLINE __m256 load(const uint8_t* p) {
        return _mm256_loadu_ps(reinterpret_cast<const float*>(p));
    }
    CHATGLM_INLINE __m256 load_first(const uint8_t* p, int64_t n) {
        return load_tail(reinterpret_cast<const float*>(p), n);
    }
};

CHATGLM_INLINE __m128i load_first_halves(const uint8_t* p, int64_t n) {
    alignas(16) uint16_t v[8] = {};
    for (int64_t i = 0; i < n; ++i) v[i] = static_cast<uint16_t>(load_u16(p + 2 * i));
    return _mm_load_si128(reinterpret_cast<const __m128i*>(v));
}

struct F16 {
    static constexpr int64_t kBytes = 2;
    CHATGLM_INLINE __m256 load(const uint8_t* p) { return _mm256_cvtph_ps(load16(p)); }
    CHATGLM_INLINE __m256 load_first(const uint8_t* p, int64_t n) {
        return _mm256_cvtph_ps(load_first_halves(p, n));
    }
};

struct Bf16 {
    static constexpr int64_t kBytes = 2;
    CHATGLM_INLINE __m256 widen(__m128i v) {
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(v), 16));
    }
    CHATGLM_INLINE __m256 load(const uint8_t* p) { return widen(load16(p)); }
    CHATGLM_INLINE __m256 load_first(const uint8_t* p, int64_t n) { return widen(load_first_halves(p, n)); }
};

template <class T, int W, int X>
CHATGLM_INLINE void dot_tile(const uint8_t* w, int64_t w_stride, const float* const x[X], int64_t n,
                             __m256 acc[X][W], uintptr_t ahead = 0) {
    for (int i = 0; i < X; ++i) {
        for (int k = 0; k < W; ++k) acc[i][k] = _mm256_setzero_ps();
    }
    int64_t c = 0;
    for (; c + 8 <= n; c += 8) {
        if (ahead != 0) prefetch(ahead + static_cast<uintptr_t>(c * W * T::kBytes), 8 * W * T::kBytes);
        __m256 v[X];
        for (int i = 0; i < X; ++i) v[i] = _mm256_loadu_ps(x[i] + c);
        for (int k = 0; k < W; ++k) {
            const __m256 weight = T::load(w + k * w_stride + c * T::kBytes);
            for (int i = 0; i < X; ++i) acc[i][k] = _mm256_fmadd_ps(weight, v[i], acc[i][k]);
        }
    }
    if (c < n) {
        for (int k = 0; k < W; ++k) {
            const __m256 weight = T::load_first(w + k * w_stride + c * T::kBytes, n - c);
            for (int i = 0; i < X; ++i) {
                acc[i][k] = _mm256_fmadd_ps(weight, load_tail(x[i] + c, n - c), acc[i][k]);
            }
        }
    }
}

constexpr int64_t kColumns = 1024;  // 4 rows of W and 3 of x: 20 KB with f16
constexpr int kDotRows = 4;         // of W: 4 * 3 accumulators, 3 x and 1 w fill the 16 registers
constexpr int kDotX = 3;

template <class T, int X, bool kStream>
void float_tiles(const MatmulArgs& args, int64_t row, int64_t column, int64_t begin, int64_t end) {
    const int64_t n_columns = args.n_cols - column < kColumns ? args.n_cols - column : kColumns;
    const uint8_t* weight = static_cast<const uint8_t*>(args.weight) + column * T::kBytes;
    const float* x[X];
    for (int i = 0; i < X; ++i) x[i] = args.x + (row + i) * args.n_cols + column;
    int64_t n = begin;
    for (; n + kDotRows <= end; n += kDotRows) {
        __m256 acc[X][kDotRows];
        const uint8_t* w = weight + n * args.weight_stride;
        // the run is the tile's rows from column 0 on; this chunk's share of the next one
        const uintptr_t ahead = kStream
                                    ? prefetch_start(w - column * T::kBytes, kDotRows * args.weight_stride) +
                                          static_cast<uintptr_t>(kDotRows * column * T::kBytes)
                                    : 0;
        dot_tile<T, kDotRows, X>(w, args.weight_stride, x, n_columns, acc, ahead);
        for (int i = 0; i < X; ++i) {
            float* y = args.y + (row + i) * args.y_stride + n;
            const __m128 sums = sum_lanes(acc[i][0], acc[i][1], acc[i][2], acc[i][3]);
            _mm_storeu_ps(y, column == 0 ? sums : _mm_add_ps(_mm_loadu_ps(y), sums));
        }
    }
    for (; n < end; ++n) {
        __m256 acc[X][1];
        dot_tile<T, 1, X>(weight + n * args.weight_stride, args.weight_stride, x, n_columns, acc);
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
