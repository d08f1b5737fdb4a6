// Products with float weights.
// Part of avx512.cpp and of no other file: see avx2.cpp why everything has internal linkage.
#pragma once

#include "backend/cpu/kernels/avx2_float.h"
#include "backend/cpu/kernels/avx512_vector.h"
#include "backend/cpu/kernels/kernels.h"

namespace chatglm::cpu {
namespace {
namespace avx512 {

// A tile of W rows times x rows, one accumulator of sixteen lanes an element. Columns go in chunks of
// kColumns, and the chunks' sums are added in order, so that a tile's operands stay in the first-level cache.

struct F32 {
    static constexpr int64_t kBytes = 4;
    CHATGLM_INLINE __m512 load(const uint8_t* p) { return _mm512_loadu_ps(p); }
    CHATGLM_INLINE __m512 load(const uint8_t* p, __mmask16 lanes) { return _mm512_maskz_loadu_ps(lanes, p); }
};

CHATGLM_INLINE __m256i load_halves(const uint8_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}

struct F16 {
    static constexpr int64_t kBytes = 2;
    CHATGLM_INLINE __m512 load(const uint8_t* p) { return _mm512_cvtph_ps(load_halves(p)); }
    CHATGLM_INLINE __m512 load(const uint8_t* p, __mmask16 lanes) {
        return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(lanes, p));
    }
};

struct Bf16 {
    static constexpr int64_t kBytes = 2;
    CHATGLM_INLINE __m512 widen(__m256i v) {
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(v), 16));
    }
    CHATGLM_INLINE __m512 load(const uint8_t* p) { return widen(load_halves(p)); }
    CHATGLM_INLINE __m512 load(const uint8_t* p, __mmask16 lanes) {
        return widen(_mm256_maskz_loadu_epi16(lanes, p));
    }
};

template <class T, int W, int X, bool kStream>
CHATGLM_INLINE void dot_tile(const uint8_t* w, int64_t w_stride, const float* const x[X], int64_t n,
                             __m512 acc[X][W], uintptr_t ahead) {
    for (int i = 0; i < X; ++i) {
        for (int k = 0; k < W; ++k) acc[i][k] = _mm512_setzero_ps();
    }
    int64_t c = 0;
    for (; c + 16 <= n; c += 16) {
        if constexpr (kStream) {
            prefetch(ahead + static_cast<uintptr_t>(c * W * T::kBytes), 16 * W * T::kBytes);
        }
        __m512 v[X];
        for (int i = 0; i < X; ++i) v[i] = _mm512_loadu_ps(x[i] + c);
        for (int k = 0; k < W; ++k) {
            const __m512 weight = T::load(w + k * w_stride + c * T::kBytes);
            for (int i = 0; i < X; ++i) acc[i][k] = _mm512_fmadd_ps(weight, v[i], acc[i][k]);
        }
    }
    if (c == n) return;
    const __mmask16 rest = first_lanes(n - c);
    __m512 v[X];
    for (int i = 0; i < X; ++i) v[i] = _mm512_maskz_loadu_ps(rest, x[i] + c);
    for (int k = 0; k < W; ++k) {
        const __m512 weight = T::load(w + k * w_stride + c * T::kBytes, rest);
        for (int i = 0; i < X; ++i) acc[i][k] = _mm512_fmadd_ps(weight, v[i], acc[i][k]);
    }
}

constexpr int64_t kColumns = 1024;  // 4 rows of W and 6 of x: 32 KB with f16
constexpr int kDotRows = 4;         // of W: 4 * 6 accumulators, 6 x and 1 w of 32 registers
constexpr int kDotX = kMaxCount;

template <class T, int X, bool kStream>
void float_tiles(const MatmulArgs& args, int64_t row, int64_t column, int64_t begin, int64_t end) {
    const int64_t n_columns = args.n_cols - column < kColumns ? args.n_cols - column : kColumns;
    const uint8_t* weight = static_cast<const uint8_t*>(args.weight) + column * T::kBytes;
    const float* x[X];
    for (int i = 0; i < X; ++i) x[i] = args.x + (row + i) * args.n_cols + column;
    int64_t n = begin;
    for (; n + kDotRows <= end; n += kDotRows) {
        __m512 acc[X][kDotRows];
        const uint8_t* w = weight + n * args.weight_stride;
        // the run is the tile's rows from column 0 on; this chunk's share of the next one
        const uintptr_t ahead = prefetch_start(w - column * T::kBytes, kDotRows * args.weight_stride) +
                                static_cast<uintptr_t>(kDotRows * column * T::kBytes);
        dot_tile<T, kDotRows, X, kStream>(w, args.weight_stride, x, n_columns, acc, ahead);
        for (int i = 0; i < X; ++i) {
            float* y = args.y + (row + i) * args.y_stride + n;
            const __m128 sums = sum_lanes(acc[i][0], acc[i][1], acc[i][2], acc[i][3]);
            _mm_storeu_ps(y, column == 0 ? sums : _mm_add_ps(_mm_loadu_ps(y), sums));
        }
    }
    for (; n < end; ++n) {
        __m512 acc[X][1];
        dot_tile<T, 1, X, false>(weight + n * args.weight_stride, args.weight_stride, x, n_columns, acc, 0);
        for (int i = 0; i < X; ++i) {
            float& y = args.y[(row + i) * args.y_stride + n];
            y = column == 0 ? sum_lanes(acc[i][0]) : y + sum_lanes(acc[i][0]);
        }
    }
}

template <class T, bool kStream>
void float_columns(const MatmulArgs& args, int64_t column, int64_t begin, int64_t end) {
    for (int64_t row = 0; row < args.n_rows; row += kDotX) {
        with_count(args.n_rows - row, [&](auto count) {
            float_tiles<T, decltype(count)::value, kStream>(args, row, column, begin, end);
        });
    }
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

}  // namespace avx512
}  // namespace
}  // namespace chatglm::cpu
