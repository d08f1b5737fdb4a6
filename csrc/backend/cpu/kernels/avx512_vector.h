// Sixteen floats at a time: tails, horizontal sums; row counts as constants.
// Part of avx512.cpp and of no other file: see avx2.cpp why everything has internal linkage.
#pragma once

#include "backend/cpu/kernels/avx2_vector.h"

#if defined(_MSC_VER)
#define CHATGLM_MEMBER __forceinline
#define CHATGLM_PIN_ZMM(v)
#define CHATGLM_PIN_POINTER(p)
#else
#define CHATGLM_MEMBER inline __attribute__((always_inline))
// Hold a value in a register at this point.
#define CHATGLM_PIN_ZMM(v) __asm__("" : "+v"(v))
#define CHATGLM_PIN_POINTER(p) __asm__("" : "+r"(p))
#endif

namespace chatglm::cpu {
namespace {
namespace avx512 {

// The first n of 16 lanes.
CHATGLM_INLINE __mmask16 first_lanes(int64_t n) {
    return static_cast<__mmask16>((1u << n) - 1u);
}

CHATGLM_INLINE __m256 add_halves(__m512 v) {
    const __m256 high = _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(v), 1));
    return _mm256_add_ps(_mm512_castps512_ps256(v), high);
}

// The sums of the lanes of a, b, c, d: the halves added, then the tree of eight lanes.
CHATGLM_INLINE __m128 sum_lanes(__m512 a, __m512 b, __m512 c, __m512 d) {
    return cpu::sum_lanes(add_halves(a), add_halves(b), add_halves(c), add_halves(d));
}

CHATGLM_INLINE float sum_lanes(__m512 a) {
    return cpu::sum_lanes(add_halves(a));
}

// Calls f with the smaller of n and kMax, as a constant. Nothing for n = 0.
constexpr int kMaxCount = 6;

template <int kMax = kMaxCount, class F>
CHATGLM_INLINE void with_count(int64_t n, F f) {
    if constexpr (kMax > 0) {
        if (n >= kMax) return f(Count<kMax>{});
        with_count<kMax - 1>(n, f);
    }
}

}  // namespace avx512
}  // namespace
}  // namespace chatglm::cpu
