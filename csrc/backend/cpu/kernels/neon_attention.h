// Attention to a page of the cache.
// Part of neon.cpp, dotprod.cpp and i8mm.cpp and of no other file: see avx2.cpp why everything has internal
// linkage.
#pragma once

#include "backend/cpu/kernels/attention_driver.h"
#include "backend/cpu/kernels/kernels.h"
#include "backend/cpu/kernels/neon_float.h"
#include "backend/cpu/kernels/neon_vector.h"

namespace chatglm::cpu {
namespace {

constexpr int kSumVectors = 4;  // 3 queries * 4 vectors of the head are 12 accumulators

// p[i][j] = q_i . k_j for X queries and begin <= j < end, and maybe some up to n_positions beyond.
template <class T, int X>
void score(const AttentionTile& tile, const float* const* q, int begin, int end, float (*p)[kMaxTile]) {
    const int64_t stride = tile.head_dim * T::kBytes;
    const auto* k = static_cast<const uint8_t*>(tile.k);
    int j = begin;
    for (; j < end && j + kDotRows <= tile.n_positions; j += kDotRows) {
        Floats acc[X][kDotRows];
        dot_tile<T, kDotRows, X>(k + j * stride, stride, q, tile.head_dim, acc);
        CHATGLM_UNROLL
        for (int i = 0; i < X; ++i)
            vst1q_f32(p[i] + j, sum_lanes(acc[i][0], acc[i][1], acc[i][2], acc[i][3]));
    }
    for (; j < end; ++j) {
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

// acc = acc * factor + sum of p_j v_j over n positions from v on, for X queries and N vectors of columns.
template <class T, int X, int N>
CHATGLM_INLINE void weigh_columns(const uint8_t* v, int64_t stride, int n, const float* const p[X],
                                  const float factor[X], float* const acc[X], int64_t c) {
    Floats sum[X][N];
    CHATGLM_UNROLL
    for (int i = 0; i < X; ++i) {
        CHATGLM_UNROLL
        for (int k = 0; k < N; ++k) sum[i][k] = multiply(load(acc[i] + c + 8 * k), factor[i]);
    }
    for (int j = 0; j < n; ++j) {
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
void weigh(const uint8_t* v, int64_t stride, int64_t n_columns, int n, const float* const p[X],
           const float factor[X], float* const acc[X]) {
    int64_t c = 0;
    for (; c + 8 * kSumVectors <= n_columns; c += 8 * kSumVectors) {
        weigh_columns<T, X, kSumVectors>(v, stride, n, p, factor, acc, c);
    }
    for (; c + 8 <= n_columns; c += 8) weigh_columns<T, X, 1>(v, stride, n, p, factor, acc, c);
    const int64_t rest = n_columns - c;
    if (rest == 0) return;
    CHATGLM_UNROLL
    for (int i = 0; i < X; ++i) {
        Floats sum = multiply(load_tail(acc[i] + c, rest), factor[i]);
        for (int j = 0; j < n; ++j) {
            sum = fma(sum, T::load_first(v + j * stride + c * T::kBytes, rest), p[i][j]);
        }
        store_tail(acc[i] + c, sum, rest);
    }
}

struct NeonAttention {
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
        const float d = vgetq_lane_f32(vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(load_u16(p)))), 0);
        for (int i = 0; i < kBlockSize; i += 8) {
            const int16x8_t q = vmovl_s8(vreinterpret_s8_u8(vld1_u8(p + 2 + i)));
            store(y + i,
                  multiply({vcvtq_f32_s32(vmovl_s16(vget_low_s16(q))), vcvtq_f32_s32(vmovl_high_s16(q))}, d));
        }
    }
};

template <class T>
void attend(const AttentionTile& tile) {
    attend_all<NeonAttention, FloatCache<NeonAttention, T>>(tile);
}

template <Kernels::Matmul kMatmul>
void attend_blocks(const AttentionTile& tile) {
    attend_all<NeonAttention, BlockCache<NeonAttention, kMatmul>>(tile);
}

}  // namespace
}  // namespace chatglm::cpu
