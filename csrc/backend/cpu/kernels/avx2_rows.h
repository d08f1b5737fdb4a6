// Kernels of one row of floats: conversions, norms, activation functions.
// Part of avx2.cpp and avx512.cpp and of no other file: see avx2.cpp why everything has internal linkage.
#pragma once

#include "backend/cpu/kernels/avx2_float.h"
#include "backend/cpu/kernels/avx2_vector.h"

namespace chatglm::cpu {
namespace {

void f32_to_f16(const float* x, uint16_t* y, int64_t n) {
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(y + i),
                         _mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT));
    }
    if (i == n) return;
    alignas(16) uint16_t rest[8];
    _mm_store_si128(reinterpret_cast<__m128i*>(rest),
                    _mm256_cvtps_ph(load_tail(x + i, n - i), _MM_FROUND_TO_NEAREST_INT));
    for (int k = 0; i < n; ++i, ++k) y[i] = rest[k];
}

void f16_to_f32(const uint16_t* x, float* y, int64_t n) {
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) _mm256_storeu_ps(y + i, F16::load(reinterpret_cast<const uint8_t*>(x + i)));
    if (i < n) store_tail(y + i, F16::load_first(reinterpret_cast<const uint8_t*>(x + i), n - i), n - i);
}

// Sum of f(x_i) over vectors of x, in four accumulators; the lanes of the tail hold zeros, so f(0) must be 0
// there.
template <class F>
CHATGLM_INLINE float sum_vectors(const float* x, int64_t n, F f) {
    __m256 a[4];
    for (int k = 0; k < 4; ++k) a[k] = _mm256_setzero_ps();
    int64_t i = 0;
    for (; i + 32 <= n; i += 32) {
        for (int k = 0; k < 4; ++k) a[k] = f(a[k], _mm256_loadu_ps(x + i + 8 * k), first_lanes(8));
    }
    for (; i + 8 <= n; i += 8) a[0] = f(a[0], _mm256_loadu_ps(x + i), first_lanes(8));
    if (i < n) a[1] = f(a[1], load_tail(x + i, n - i), first_lanes(n - i));
    return sum_lanes(_mm256_add_ps(_mm256_add_ps(a[0], a[1]), _mm256_add_ps(a[2], a[3])));
}

// Calls f(i, load, store) for each vector of eight and for the tail.
template <class F>
CHATGLM_INLINE void for_vectors(int64_t n, F f) {
    const auto load = [](const float* p) { return _mm256_loadu_ps(p); };
    const auto store = [](float* p, __m256 v) { _mm256_storeu_ps(p, v); };
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) f(i, load, store);
    if (i < n) {
        const int64_t rest = n - i;
        f(
            i, [rest](const float* p) { return load_tail(p, rest); },
            [rest](float* p, __m256 v) { store_tail(p, v, rest); });
    }
}

void rms_norm(const float* x, const float* weight, float eps, float* y, int64_t n) {
    const float squares =
        sum_vectors(x, n, [](__m256 a, __m256 v, __m256i) { return _mm256_fmadd_ps(v, v, a); });
    const __m256 scale = _mm256_set1_ps(1.0f / square_root(squares / static_cast<float>(n) + eps));
    for_vectors(n, [&](int64_t i, auto load, auto store) {
        store(y + i, _mm256_mul_ps(_mm256_mul_ps(load(x + i), scale), load(weight + i)));
    });
}

void layer_norm(const float* x, const float* weight, const float* bias, float eps, float* y, int64_t n) {
    const float sum = sum_vectors(x, n, [](__m256 a, __m256 v, __m256i) { return _mm256_add_ps(a, v); });
    const __m256 mean = _mm256_set1_ps(sum / static_cast<float>(n));
    const float squares = sum_vectors(x, n, [&](__m256 a, __m256 v, __m256i lanes) {
        const __m256 centred = _mm256_and_ps(_mm256_sub_ps(v, mean), _mm256_castsi256_ps(lanes));
        return _mm256_fmadd_ps(centred, centred, a);
    });
    const __m256 scale = _mm256_set1_ps(1.0f / square_root(squares / static_cast<float>(n) + eps));
    for_vectors(n, [&](int64_t i, auto load, auto store) {
        const __m256 normal = _mm256_mul_ps(_mm256_sub_ps(load(x + i), mean), scale);
        store(y + i, _mm256_fmadd_ps(normal, load(weight + i), load(bias + i)));
    });
}

CHATGLM_INLINE __m256 negate(__m256 v) {
    return _mm256_xor_ps(v, _mm256_set1_ps(-0.0f));
}

void swiglu(const float* gate, const float* up, float* y, int64_t n) {
    const __m256 one = _mm256_set1_ps(1.0f);
    for_vectors(n, [&](int64_t i, auto load, auto store) {
        const __m256 g = load(gate + i);
        const __m256 silu = _mm256_div_ps(g, _mm256_add_ps(one, exp8(negate(g))));
        store(y + i, _mm256_mul_ps(silu, load(up + i)));
    });
}

void gelu(const float* x, float* y, int64_t n) {
    // 0.5 (1 + tanh(u)) = 1 / (1 + exp(-2u)), which keeps its relative precision in the left tail.
    const __m256 minus_two_sqrt2_over_pi = _mm256_set1_ps(-1.5957691216f);
    const __m256 one = _mm256_set1_ps(1.0f), cubic = _mm256_set1_ps(0.044715f);
    for_vectors(n, [&](int64_t i, auto load, auto store) {
        const __m256 v = load(x + i);
        const __m256 u = _mm256_mul_ps(v, _mm256_fmadd_ps(_mm256_mul_ps(cubic, v), v, one));
        store(y + i, _mm256_div_ps(v, _mm256_add_ps(one, exp8(_mm256_mul_ps(minus_two_sqrt2_over_pi, u)))));
    });
}

void add_scaled(const float* x, float scale, float* y, int64_t n) {
    const __m256 factor = _mm256_set1_ps(scale);
    for_vectors(n, [&](int64_t i, auto load, auto store) {
        store(y + i, _mm256_fmadd_ps(factor, load(x + i), load(y + i)));
    });
}

}  // namespace
}  // namespace chatglm::cpu
