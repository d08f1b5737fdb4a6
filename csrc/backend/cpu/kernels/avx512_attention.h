// Attention to a page of the cache.
// Part of avx512.cpp and of no other file: see avx2.cpp why everything has internal linkage.
#pragma once

#include "backend/cpu/kernels/avx2_attention.h"
#include "backend/cpu/kernels/avx512_float.h"
#include "backend/cpu/kernels/avx512_vector.h"
#include "backend/cpu/kernels/kernels.h"

namespace chatglm::cpu {
namespace {
namespace avx512 {

constexpr int kSumVectors = 4;  // 6 queries * 4 vectors of the head are 24 accumulators

// p[i][j] = q_i . k_j for X queries and begin <= j < end, and maybe some up to n_positions beyond.
template <class T, int X>
void score(const AttentionTile& tile, const float* const* q, int begin, int end, float (*p)[kMaxTile]) {
    const int64_t stride = tile.head_dim * T::kBytes;
    const auto* k = static_cast<const uint8_t*>(tile.k);
    int j = begin;
    for (; j < end && j + kDotRows <= tile.n_positions; j += kDotRows) {
        __m512 acc[X][kDotRows];
        dot_tile<T, kDotRows, X, false>(k + j * stride, stride, q, tile.head_dim, acc, 0);
        for (int i = 0; i < X; ++i) {
            _mm_storeu_ps(p[i] + j, sum_lanes(acc[i][0], acc[i][1], acc[i][2], acc[i][3]));
        }
    }
    for (; j < end; ++j) {
        __m512 acc[X][1];
        dot_tile<T, 1, X, false>(k + j * stride, stride, q, tile.head_dim, acc, 0);
        for (int i = 0; i < X; ++i) p[i][j] = sum_lanes(acc[i][0]);
    }
}

// acc = acc * factor + sum of p_j v_j over n positions from v on, for X queries and N vectors of columns, of
// the last of which `lanes` exist.
template <class T, int X, int N>
CHATGLM_INLINE void weigh_columns(const uint8_t* v, int64_t stride, int n, const float* const p[X],
                                  const float factor[X], float* const acc[X], int64_t c, __mmask16 lanes) {
    const auto lanes_of = [lanes](int k) { return k + 1 < N ? static_cast<__mmask16>(0xffff) : lanes; };
    __m512 sum[X][N];
    for (int i = 0; i < X; ++i) {
        for (int k = 0; k < N; ++k) {
            const __m512 old = _mm512_maskz_loadu_ps(lanes_of(k), acc[i] + c + 16 * k);
            sum[i][k] = _mm512_mul_ps(_mm512_set1_ps(factor[i]), old);
        }
    }
    for (int j = 0; j < n; ++j) {
        __m512 value[N];
        for (int k = 0; k < N; ++k) {
            value[k] = T::load(v + j * stride + (c + 16 * k) * T::kBytes, lanes_of(k));
        }
        for (int i = 0; i < X; ++i) {
            const __m512 weight = _mm512_set1_ps(p[i][j]);
            for (int k = 0; k < N; ++k) sum[i][k] = _mm512_fmadd_ps(weight, value[k], sum[i][k]);
        }
    }
    for (int i = 0; i < X; ++i) {
        for (int k = 0; k < N; ++k) _mm512_mask_storeu_ps(acc[i] + c + 16 * k, lanes_of(k), sum[i][k]);
    }
}

template <class T, int X>
void weigh(const uint8_t* v, int64_t stride, int64_t n_columns, int n, const float* const p[X],
           const float factor[X], float* const acc[X]) {
    int64_t c = 0;
    for (; c + 16 * kSumVectors <= n_columns; c += 16 * kSumVectors) {
        weigh_columns<T, X, kSumVectors>(v, stride, n, p, factor, acc, c, 0xffff);
    }
    for (; c < n_columns; c += 16) {
        const int64_t rest = n_columns - c;
        weigh_columns<T, X, 1>(v, stride, n, p, factor, acc, c, first_lanes(rest < 16 ? rest : 16));
    }
}

struct Avx512Attention {
    using Single = F32;
    template <class T, int X>
    CHATGLM_INLINE void score(const AttentionTile& tile, const float* const* q, int begin, int end,
                              float (*p)[kMaxTile]) {
        avx512::score<T, X>(tile, q, begin, end, p);
    }
    CHATGLM_INLINE float softmax_step(float* p, int n, float scale, float& m, float& l) {
        return cpu::softmax_step(p, n, scale, m, l);
    }
    template <class T, int X>
    CHATGLM_INLINE void weigh(const uint8_t* v, int64_t stride, int64_t n_columns, int n,
                              const float* const p[X], const float factor[X], float* const acc[X]) {
        avx512::weigh<T, X>(v, stride, n_columns, n, p, factor, acc);
    }
    template <class F>
    CHATGLM_INLINE void by_groups(int n, const F& f) {
        for (int i = 0; i < n; i += kDotX) {
            with_count(n - i, [&](auto count) { f(i, count); });
        }
    }
    CHATGLM_INLINE void widen_block(const uint8_t* p, float* y) {
        const __m512 d = _mm512_set1_ps(_mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(load_u16(p)))));
        for (int i = 0; i < kBlockSize; i += 16) {
            const __m512i q = _mm512_cvtepi8_epi32(load16(p + 2 + i));
            _mm512_store_ps(y + i, _mm512_mul_ps(d, _mm512_cvtepi32_ps(q)));
        }
    }
};

template <class T>
void attend(const AttentionTile& tile) {
    attend_all<Avx512Attention, FloatCache<Avx512Attention, T>>(tile);
}

template <Kernels::Matmul kMatmul>
void attend_blocks(const AttentionTile& tile) {
    attend_all<Avx512Attention, BlockCache<Avx512Attention, kMatmul>>(tile);
}

}  // namespace avx512
}  // namespace
}  // namespace chatglm::cpu
