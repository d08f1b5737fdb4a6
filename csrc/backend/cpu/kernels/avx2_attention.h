// Attention to a page of the cache.
// Part of avx2.cpp and avx512.cpp and of no other file: see avx2.cpp why everything has internal linkage.
#pragma once

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
CHATGLM_NOINLINE void weigh(const AttentionTile& tile, int begin, int end, const float* const p[X],
                            const float factor[X], float* const acc[X]) {
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

// Fetches parts [first, last) of what the next step reads, a few lines at a time: bursts would have to wait.
CHATGLM_INLINE void prefetch_share(const AttentionTile& tile, int first, int last, int n_parts) {
    if (!tile.next_k) return;
    constexpr int64_t kLine = 64;
    const int64_t begin = tile.next_bytes * first / n_parts / kLine * kLine;
    const int64_t end = tile.next_bytes * last / n_parts / kLine * kLine;
    prefetch(reinterpret_cast<uintptr_t>(tile.next_k) + static_cast<uintptr_t>(begin), end - begin);
    prefetch(reinterpret_cast<uintptr_t>(tile.next_v) + static_cast<uintptr_t>(begin), end - begin);
}

constexpr int kQueryBatch = 32;
constexpr int kPositions =
    32;  // of K or V, 4 KB in f16: all queries meet them while the first-level cache has them

// Queries [first, first + n). A query reads no value beyond its own n_visible, whatever the others see. Ops
// holds the instruction set's score and weigh, and by_groups, which calls f(i, Count<X>) for groups of X
// queries.
template <class Ops>
void attend_batch(const AttentionTile& tile, int first, int n) {
    alignas(64) float p[kQueryBatch][kMaxTile];
    float factor[kQueryBatch];
    const int* n_visible = tile.n_visible + first;
    const auto longest = [n_visible](int begin, int count) {
        int most = 0;
        for (int i = begin; i < begin + count; ++i) most = n_visible[i] > most ? n_visible[i] : most;
        return most;
    };
    const int n_seen = longest(0, n), n_parts = 2 * ((n_seen + kPositions - 1) / kPositions) * n;
    int part = 0;
    for (int begin = 0; begin < n_seen; begin += kPositions) {
        Ops::by_groups(n, [&](int i, auto count) {
            constexpr int X = decltype(count)::value;
            prefetch_share(tile, part, part + X, n_parts);
            part += X;
            const int most = longest(i, X), end = begin + kPositions < most ? begin + kPositions : most;
            if (begin < end) Ops::template score<X>(tile, tile.q + first + i, begin, end, p + i);
        });
    }
    for (int i = 0; i < n; ++i) {
        if (n_visible[i] > 0) {
            factor[i] = softmax_step(p[i], n_visible[i], tile.scale, tile.m[first + i], tile.l[first + i]);
        }
    }
    for (int begin = 0; begin < n_seen; begin += kPositions) {
        Ops::by_groups(n, [&](int i, auto count) {
            constexpr int X = decltype(count)::value;
            prefetch_share(tile, part, part + X, n_parts);
            part += X;
            // The positions of this part that each of the group sees, then those that only some do.
            int common = kMaxTile;
            for (int k = i; k < i + X; ++k) common = n_visible[k] < common ? n_visible[k] : common;
            if (common > begin + kPositions) common = begin + kPositions;
            const float* weights[X];
            float by[X];
            for (int k = 0; k < X; ++k) {
                weights[k] = p[i + k];
                by[k] = begin == 0 ? factor[i + k] : 1.0f;
            }
            if (common > begin) {
                Ops::template weigh<X>(tile, begin, common, weights, by, tile.acc + first + i);
            }
            for (int k = 0; k < X; ++k) {
                const int seen = n_visible[i + k];
                const int end = seen < begin + kPositions ? seen : begin + kPositions;
                const int start = common > begin ? common : begin;
                if (end <= start) continue;
                const float rest = common > begin ? 1.0f : by[k];
                Ops::template weigh<1>(tile, start, end, weights + k, &rest, tile.acc + first + i + k);
            }
        });
    }
}

template <class Ops>
void attend_all(const AttentionTile& tile) {
    for (int first = 0; first < tile.n_queries; first += kQueryBatch) {
        const int left = tile.n_queries - first;
        attend_batch<Ops>(tile, first, left < kQueryBatch ? left : kQueryBatch);
    }
}

template <class T>
struct AttentionOps {
    template <int X>
    CHATGLM_INLINE void score(const AttentionTile& tile, const float* const* q, int begin, int end,
                              float (*p)[kMaxTile]) {
        cpu::score<T, X>(tile, q, begin, end, p);
    }
    template <int X>
    CHATGLM_INLINE void weigh(const AttentionTile& tile, int begin, int end, const float* const p[X],
                              const float factor[X], float* const acc[X]) {
        cpu::weigh<T, X>(tile, begin, end, p, factor, acc);
    }
    // Sixteen queries, as many as share a head in most of the family, are four times three and two times two.
    template <class F>
    CHATGLM_INLINE void by_groups(int n, const F& f) {
        int i = 0;
        for (; n - i >= 3 && n - i != 4; i += 3) f(i, Count<3>{});
        for (; n - i >= 2; i += 2) f(i, Count<2>{});
        if (n - i == 1) f(i, Count<1>{});
    }
};

template <class T>
void attend(const AttentionTile& tile) {
    attend_all<AttentionOps<T>>(tile);
}

}  // namespace
}  // namespace chatglm::cpu
