// Products with float weights, and attention, which is made of them.
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

// ---- Attention ----

constexpr int kSumVectors = 4;  // 3 queries * 4 vectors of the head are 12 accumulators

// p[i][j] = q_i . k_j for X queries and j < n, and maybe some up to n_positions beyond.
template <class T, int X>
void score(const AttentionTile& tile, const float* const* q, int n, float (*p)[kMaxTile]) {
    const int64_t stride = tile.head_dim * T::kBytes;
    const auto* k = static_cast<const uint8_t*>(tile.k);
    int j = 0;
    for (; j < n && j + kDotRows <= tile.n_positions; j += kDotRows) {
        __m256 acc[X][kDotRows];
        dot_tile<T, kDotRows, X>(k + j * stride, stride, q, tile.head_dim, acc);
        for (int i = 0; i < X; ++i)
            _mm_storeu_ps(p[i] + j, sum_lanes(acc[i][0], acc[i][1], acc[i][2], acc[i][3]));
    }
    for (; j < n; ++j) {
        __m256 acc[X][1];
        dot_tile<T, 1, X>(k + j * stride, stride, q, tile.head_dim, acc);
        for (int i = 0; i < X; ++i) p[i][j] = sum_lanes(acc[i][0]);
    }
}

// Scores to softmax weights, zeros up to the next multiple of 8; updates m and l, returns the factor for acc.
CHATGLM_INLINE float softmax_step(float* p, int n, float scale, float& m, float& l) {
    const __m256 lowest = _mm256_set1_ps(-INFINITY);
    __m256 top = _mm256_set1_ps(m);
    for (int j = 0; j < n; j += 8) {
        const __m256i visible = first_lanes(n - j < 8 ? n - j : 8);
        const __m256 s = _mm256_mul_ps(_mm256_set1_ps(scale), _mm256_loadu_ps(p + j));
        const __m256 masked = _mm256_blendv_ps(lowest, s, _mm256_castsi256_ps(visible));
        _mm256_storeu_ps(p + j, masked);
        top = _mm256_max_ps(top, masked);
    }
    const float new_m = max_lanes(top);
    const __m256 shift = _mm256_set1_ps(new_m);
    __m256 sum = _mm256_setzero_ps();
    for (int j = 0; j < n; j += 8) {
        const __m256 e = exp8(_mm256_sub_ps(_mm256_loadu_ps(p + j), shift));
        _mm256_storeu_ps(p + j, e);
        sum = _mm256_add_ps(sum, e);
    }
    const float correction = _mm256_cvtss_f32(exp8(_mm256_set1_ps(m - new_m)));
    m = new_m;
    l = l * correction + sum_lanes(sum);
    return correction;
}

// acc = acc * factor + sum of p_j v_j over begin <= j < end, for X queries and N vectors of the head at c.
template <class T, int X, int N>
CHATGLM_INLINE void weigh_columns(const uint8_t* v, int64_t stride, int begin, int end,
                                  const float* const p[X], const float factor[X], float* const acc[X],
                                  int64_t c) {
    __m256 sum[X][N];
    for (int i = 0; i < X; ++i) {
        for (int k = 0; k < N; ++k) {
            sum[i][k] = _mm256_mul_ps(_mm256_set1_ps(factor[i]), _mm256_loadu_ps(acc[i] + c + 8 * k));
        }
    }
    for (int j = begin; j < end; ++j) {
        __m256 weight[X];
        for (int i = 0; i < X; ++i) weight[i] = _mm256_broadcast_ss(p[i] + j);
        for (int k = 0; k < N; ++k) {
            const __m256 value = T::load(v + j * stride + (c + 8 * k) * T::kBytes);
            for (int i = 0; i < X; ++i) sum[i][k] = _mm256_fmadd_ps(weight[i], value, sum[i][k]);
        }
    }
    for (int i = 0; i < X; ++i) {
        for (int k = 0; k < N; ++k) _mm256_storeu_ps(acc[i] + c + 8 * k, sum[i][k]);
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
    for (int i = 0; i < X; ++i) {
        __m256 sum = _mm256_mul_ps(_mm256_set1_ps(factor[i]), load_tail(acc[i] + c, rest));
        for (int j = begin; j < end; ++j) {
            sum = _mm256_fmadd_ps(_mm256_broadcast_ss(p[i] + j),
                                  T::load_first(v + j * stride + c * T::kBytes, rest), sum);
        }
        store_tail(acc[i] + c, sum, rest);
    }
}

// X queries that start at `first`. A query reads no value beyond its own n_visible, whatever the others see.
template <class T, int X>
void attend_queries(const AttentionTile& tile, int first) {
    alignas(32) float p[X][kMaxTile];
    const int* n = tile.n_visible + first;
    int longest = n[0], common = n[0];
    for (int i = 1; i < X; ++i) {
        longest = n[i] > longest ? n[i] : longest;
        common = n[i] < common ? n[i] : common;
    }
    score<T, X>(tile, tile.q + first, longest, p);
    float factor[X];
    const float* weights[X];
    for (int i = 0; i < X; ++i) {
        factor[i] =
            n[i] > 0 ? softmax_step(p[i], n[i], tile.scale, tile.m[first + i], tile.l[first + i]) : 1.0f;
        weights[i] = p[i];
    }
    if (common > 0) weigh<T, X>(tile, 0, common, weights, factor, tile.acc + first);
    for (int i = 0; i < X; ++i) {
        if (n[i] <= common) continue;
        const float rest = common > 0 ? 1.0f : factor[i];
        weigh<T, 1>(tile, common > 0 ? common : 0, n[i], weights + i, &rest, tile.acc + first + i);
    }
}

// Fetches the share of queries [begin, end) of what the next step reads.
CHATGLM_INLINE void prefetch_share(const AttentionTile& tile, int begin, int end) {
    if (!tile.next_k) return;
    constexpr int64_t kLine = 64;
    const int64_t first = tile.next_bytes * begin / tile.n_queries / kLine * kLine;
    const int64_t last = tile.next_bytes * end / tile.n_queries / kLine * kLine;
    prefetch(reinterpret_cast<uintptr_t>(tile.next_k) + static_cast<uintptr_t>(first), last - first);
    prefetch(reinterpret_cast<uintptr_t>(tile.next_v) + static_cast<uintptr_t>(first), last - first);
}

// Sixteen queries, as many as share a head in most of the family, are four times three and two times two.
template <class T>
void attend(const AttentionTile& tile) {
    int i = 0;
    while (i < tile.n_queries) {
        const int left = tile.n_queries - i;
        const int count = left == 1 ? 1 : left == 2 || left == 4 ? 2 : 3;
        prefetch_share(tile, i, i + count);
        if (count == 1) attend_queries<T, 1>(tile, i);
        if (count == 2) attend_queries<T, 2>(tile, i);
        if (count == 3) attend_queries<T, 3>(tile, i);
        i += count;
    }
}

}  // namespace
}  // namespace chatglm::cpu
