// Attention to a page of the cache.
// Part of avx2.cpp and avx512.cpp and of no other file: see avx2.cpp why everything has internal linkage.
#pragma once

#include "backend/cpu/kernels/attention_driver.h"
#include "backend/cpu/kernels/avx2_float.h"
#include "backend/cpu/kernels/avx2_vector.h"
#include "backend/cpu/kernels/kernels.h"

namespace chatglm::cpu {
namespace {

constexpr int kSumVectors = 4;  // 3 queries * 4 vectors of the head are 12 accumulators

// p[i][j] = q_i . k_j for X queries and begin <= j < end, and maybe some up to n_positions beyond.
template <class T, int X>
CHATGLM_NOINLINE void score(const AttentionTile& tile, const float* const* q, int begin, int end,
                            float (*p)[kMaxTile]) {
    const int64_t stride = tile.head_dim * T::kBytes;
    const auto* k = static_cast<const uint8_t*>(tile.k);
    int j = begin;
    for (; j < end && j + kDotRows <= tile.n_positions; j += kDotRows) {
        __m256 acc[X][kDotRows];
        dot_tile<T, kDotRows, X>(k + j * stride, stride, q, tile.head_dim, acc);
        for (int i = 0; i < X; ++i)
            _mm_storeu_ps(p[i] + j, sum_lanes(acc[i][0], acc[i][1], acc[i][2], acc[i][3]));
    }
    for (; j < end; ++j) {
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

// acc = acc * factor + sum of p_j v_j over n positions from v on, for X queries and N vectors of columns.
template <class T, int X, int N>
CHATGLM_INLINE void weigh_columns(const uint8_t* v, int64_t stride, int n, const float* const p[X],
                                  const float factor[X], float* const acc[X], int64_t c) {
    __m256 sum[X][N];
    for (int i = 0; i < X; ++i) {
        for (int k = 0; k < N; ++k) {
            sum[i][k] = _mm256_mul_ps(_mm256_set1_ps(factor[i]), _mm256_loadu_ps(acc[i] + c + 8 * k));
        }
    }
    for (int j = 0; j < n; ++j) {
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
CHATGLM_NOINLINE void weigh(const uint8_t* v, int64_t stride, int64_t n_columns, int n,
                            const float* const p[X], const float factor[X], float* const acc[X]) {
    int64_t c = 0;
    for (; c + 8 * kSumVectors <= n_columns; c += 8 * kSumVectors) {
        weigh_columns<T, X, kSumVectors>(v, stride, n, p, factor, acc, c);
    }
    for (; c + 8 <= n_columns; c += 8) weigh_columns<T, X, 1>(v, stride, n, p, factor, acc, c);
    const int64_t rest = n_columns - c;
    if (rest == 0) return;
    for (int i = 0; i < X; ++i) {
        __m256 sum = _mm256_mul_ps(_mm256_set1_ps(factor[i]), load_tail(acc[i] + c, rest));
        for (int j = 0; j < n; ++j) {
            sum = _mm256_fmadd_ps(_mm256_broadcast_ss(p[i] + j),
                                  T::load_first(v + j * stride + c * T::kBytes, rest), sum);
        }
        store_tail(acc[i] + c, sum, rest);
    }
}

struct Avx2Attention {
    using Single = F32;
    template <class T, int X>
    CHATGLM_INLINE void score(const AttentionTile& tile, const float* const* q, int begin, int end,
                              float (*p)[kMaxTile]) {
        cpu::score<T, X>(tile, q, begin, end, p);
    }
    CHATGLM_INLINE float softmax_step(float* p, int n, float scale, float& m, float& l) {
        return cpu::softmax_step(p, n, scale, m, l);
    }
    template <class T, int X>
    CHATGLM_INLINE void weigh(const uint8_t* v, int64_t stride, int64_t n_columns, int n,
                              const float* const p[X], const float factor[X], float* const acc[X]) {
        cpu::weigh<T, X>(v, stride, n_columns, n, p, factor, acc);
    }
    // Sixteen queries, as many as share a head in most of the family, are four times three and two times two.
    template <class F>
    CHATGLM_INLINE void by_groups(int n, const F& f) {
        int i = 0;
        for (; n - i >= 3 && n - i != 4; i += 3) f(i, Count<3>{});
        for (; n - i >= 2; i += 2) f(i, Count<2>{});
        if (n - i == 1) f(i, Count<1>{});
    }
    CHATGLM_INLINE void widen_block(const uint8_t* p, float* y) {
        const __m256 d = _mm256_broadcastss_ps(_mm_cvtph_ps(_mm_cvtsi32_si128(load_u16(p))));
        for (int i = 0; i < kBlockSize; i += 8) {
            const __m128i q = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p + 2 + i));
            _mm256_store_ps(y + i, _mm256_mul_ps(d, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(q))));
        }
    }
};

template <class T>
void attend(const AttentionTile& tile) {
    attend_all<Avx2Attention, FloatCache<Avx2Attention, T>>(tile);
}

template <Kernels::Matmul kMatmul>
void attend_blocks(const AttentionTile& tile) {
    attend_all<Avx2Attention, BlockCache<Avx2Attention, kMatmul>>(tile);
}

}  // namespace
}  // namespace chatglm::cpu
