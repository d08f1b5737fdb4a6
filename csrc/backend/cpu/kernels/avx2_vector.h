// Eight floats at a time: tails, horizontal sums, exp, prefetching.
// Part of avx2.cpp and avx512.cpp and of no other file: see avx2.cpp why everything has internal linkage.
#pragma once

#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(_MSC_VER)
#define CHATGLM_INLINE static __forceinline
#define CHATGLM_NOINLINE __declspec(noinline)
#define CHATGLM_UNROLL
#define CHATGLM_PIN(v)
#define CHATGLM_OPAQUE(v)
#else
#define CHATGLM_INLINE static inline __attribute__((always_inline))
#define CHATGLM_NOINLINE __attribute__((noinline))
// Holds v in a register at this point. GCC would otherwise move the additions of an integer sum behind all of
// its products, which then go through the stack.
#define CHATGLM_PIN(v) __asm__("" : "+x"(v))
// Hides where a number or a pointer comes from. GCC would otherwise compute addresses anew that registers and
// addressing modes already hold.
#define CHATGLM_OPAQUE(v) __asm__("" : "+r"(v))
#if defined(__clang__)
#define CHATGLM_UNROLL _Pragma("unroll")
#else
#define CHATGLM_UNROLL _Pragma("GCC unroll 8")
#endif
#endif

namespace chatglm::cpu {
namespace {

// A number that is known to the compiler, as an argument.
template <int N>
struct Count {
    static constexpr int value = N;
};

alignas(32) constexpr int32_t kMasks[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};

// All bits set in the first n of 8 lanes.
CHATGLM_INLINE __m256i first_lanes(int64_t n) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(kMasks + 8 - n));
}

CHATGLM_INLINE __m256 load_tail(const float* p, int64_t n) {
    return _mm256_maskload_ps(p, first_lanes(n));
}
CHATGLM_INLINE void store_tail(float* p, __m256 v, int64_t n) {
    _mm256_maskstore_ps(p, first_lanes(n), v);
}

// Sums of neighbours.
CHATGLM_INLINE __m256i widen_pairs(__m256i sums) {
    return _mm256_madd_epi16(sums, _mm256_set1_epi16(1));
}

CHATGLM_INLINE __m128i load16(const uint8_t* p) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
}

CHATGLM_INLINE int load_u16(const uint8_t* p) {
    uint16_t v;
    std::memcpy(&v, p, 2);
    return v;
}

// The sums of the lanes of a, b, c, d. Every horizontal sum of these kernels is this tree:
// ((0 + 1) + (2 + 3)) + ((4 + 5) + (6 + 7)).
CHATGLM_INLINE __m128 sum_lanes(__m256 a, __m256 b, __m256 c, __m256 d) {
    const __m256 sums = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    return _mm_add_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps(sums, 1));
}

CHATGLM_INLINE float sum_lanes(__m256 a) {
    return _mm_cvtss_f32(sum_lanes(a, a, a, a));
}

CHATGLM_INLINE float max_lanes(__m256 a) {
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}

CHATGLM_INLINE float square_root(float v) {
    return _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(v)));
}

// e^x with a relative error below 2e-7; 0 where the result would be denormal, infinity above 88.72; NaN stays
// NaN.
CHATGLM_INLINE __m256 exp8(__m256 x) {
    const __m256 lowest = _mm256_set1_ps(-87.3365f), highest = _mm256_set1_ps(88.8f);
    const __m256 v = _mm256_min_ps(highest, _mm256_max_ps(lowest, x));  // this operand order keeps NaN
    const __m256 n = _mm256_round_ps(_mm256_mul_ps(v, _mm256_set1_ps(1.44269504f)),
                                     _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0x1.62e4p-1f), v);  // ln 2 in two parts, the first short:
    r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0x1.7f7d1cp-20f), r);      // n times it is exact
    // Taylor's series: the first term left out is below 0.3466^8 / 8! = 5e-9.
    __m256 p = _mm256_set1_ps(1.0f / 5040);
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 720));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 120));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 24));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 6));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(0.5f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f));
    // 2^n in two factors, because n may be 128.
    const __m256i exponent = _mm256_cvtps_epi32(n), bias = _mm256_set1_epi32(127);
    const __m256i half = _mm256_srai_epi32(exponent, 1);
    const __m256i rest = _mm256_sub_epi32(exponent, half);
    p = _mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23)));
    p = _mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23)));
    return _mm256_andnot_ps(_mm256_cmp_ps(x, lowest, _CMP_LT_OQ), p);
}

// Decode reads several rows of W side by side, which the hardware's prefetchers follow badly. Those rows are
// one run of memory, so while one run is computed a later one is fetched to the second-level cache from end
// to end. Measured on Zen 4 with q4_0 beside a read bandwidth of 26 GB/s: 10 GB/s without, 23 with; 19 when
// fetched one run ahead, 13 to the first-level cache. Past the end of W a prefetch does nothing.
constexpr int64_t kPrefetchAhead = 32768;  // bytes beyond the next run

CHATGLM_INLINE uintptr_t prefetch_start(const uint8_t* run, int64_t run_bytes) {
    const int64_t ahead = run_bytes + (run_bytes < kPrefetchAhead ? run_bytes : kPrefetchAhead);
    return reinterpret_cast<uintptr_t>(run) + static_cast<uintptr_t>(ahead);
}

CHATGLM_INLINE void prefetch(uintptr_t begin, int64_t bytes) {
    for (int64_t i = 0; i < bytes; i += 64) {
        _mm_prefetch(reinterpret_cast<const char*>(begin + static_cast<uintptr_t>(i)), _MM_HINT_T1);
    }
}

}  // namespace
}  // namespace chatglm::cpu
