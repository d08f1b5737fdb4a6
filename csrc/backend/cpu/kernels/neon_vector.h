// Eight floats at a time, in two registers: tails, horizontal sums, exp, prefetching.
// Part of neon.cpp, dotprod.cpp and i8mm.cpp and of no other file: see avx2.cpp why everything has internal
// linkage.
#pragma once

#include <arm_neon.h>

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(_MSC_VER) && !defined(__clang__)
#include <intrin.h>
#define CHATGLM_INLINE static __forceinline
#define CHATGLM_NOINLINE __declspec(noinline)
#define CHATGLM_UNROLL
#else
#define CHATGLM_INLINE static inline __attribute__((always_inline))
#define CHATGLM_NOINLINE __attribute__((noinline))
// For loops over an array of sums: GCC unrolls them too late to see that the array can stay in registers, and
// stores it in every round of the loop around them.
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

struct Floats {
    float32x4_t lo, hi;
};

CHATGLM_INLINE Floats zeros() {
    return {vdupq_n_f32(0.0f), vdupq_n_f32(0.0f)};
}
CHATGLM_INLINE Floats all(float v) {
    return {vdupq_n_f32(v), vdupq_n_f32(v)};
}
CHATGLM_INLINE Floats load(const float* p) {
    return {vld1q_f32(p), vld1q_f32(p + 4)};
}
CHATGLM_INLINE void store(float* p, Floats v) {
    vst1q_f32(p, v.lo);
    vst1q_f32(p + 4, v.hi);
}

// The first n of 8 floats, then zeros.
CHATGLM_INLINE Floats load_tail(const float* p, int64_t n) {
    float v[8] = {};
    for (int64_t i = 0; i < n; ++i) v[i] = p[i];
    return load(v);
}
CHATGLM_INLINE void store_tail(float* p, Floats v, int64_t n) {
    float rest[8];
    store(rest, v);
    for (int64_t i = 0; i < n; ++i) p[i] = rest[i];
}

CHATGLM_INLINE Floats add(Floats a, Floats b) {
    return {vaddq_f32(a.lo, b.lo), vaddq_f32(a.hi, b.hi)};
}
CHATGLM_INLINE Floats subtract(Floats a, Floats b) {
    return {vsubq_f32(a.lo, b.lo), vsubq_f32(a.hi, b.hi)};
}
CHATGLM_INLINE Floats multiply(Floats a, Floats b) {
    return {vmulq_f32(a.lo, b.lo), vmulq_f32(a.hi, b.hi)};
}
CHATGLM_INLINE Floats multiply(Floats a, float b) {
    return {vmulq_n_f32(a.lo, b), vmulq_n_f32(a.hi, b)};
}
CHATGLM_INLINE Floats divide(Floats a, Floats b) {
    return {vdivq_f32(a.lo, b.lo), vdivq_f32(a.hi, b.hi)};
}
CHATGLM_INLINE Floats negate(Floats a) {
    return {vnegq_f32(a.lo), vnegq_f32(a.hi)};
}

// sum + a * b, rounded once.
CHATGLM_INLINE Floats fma(Floats sum, Floats a, Floats b) {
    return {vfmaq_f32(sum.lo, a.lo, b.lo), vfmaq_f32(sum.hi, a.hi, b.hi)};
}
CHATGLM_INLINE Floats fma(Floats sum, Floats a, float b) {
    return {vfmaq_n_f32(sum.lo, a.lo, b), vfmaq_n_f32(sum.hi, a.hi, b)};
}

// Zeros but for the first n of 8 lanes.
CHATGLM_INLINE Floats first_lanes(Floats v, int64_t n) {
    float lanes[8];
    store(lanes, v);
    for (int64_t i = n; i < 8; ++i) lanes[i] = 0.0f;
    return load(lanes);
}

// The sums of the lanes of a, b, c, d. Every horizontal sum of these kernels is this tree:
// ((0 + 4) + (1 + 5)) + ((2 + 6) + (3 + 7)).
CHATGLM_INLINE float32x4_t sum_lanes(Floats a, Floats b, Floats c, Floats d) {
    const float32x4_t ab = vpaddq_f32(vaddq_f32(a.lo, a.hi), vaddq_f32(b.lo, b.hi));
    const float32x4_t cd = vpaddq_f32(vaddq_f32(c.lo, c.hi), vaddq_f32(d.lo, d.hi));
    return vpaddq_f32(ab, cd);
}

CHATGLM_INLINE float sum_lanes(Floats a) {
    return vgetq_lane_f32(sum_lanes(a, a, a, a), 0);
}

CHATGLM_INLINE float square_root(float v) {
    return vget_lane_f32(vsqrt_f32(vdup_n_f32(v)), 0);
}

// e^x with a relative error below 2e-7; 0 where the result would be denormal, infinity above 88.72; NaN stays
// NaN.
CHATGLM_INLINE float32x4_t exp4(float32x4_t x) {
    const float32x4_t lowest = vdupq_n_f32(-87.3365f), highest = vdupq_n_f32(88.8f);
    const float32x4_t v = vminq_f32(highest, vmaxq_f32(lowest, x));
    const float32x4_t n = vrndnq_f32(vmulq_n_f32(v, 1.44269504f));
    float32x4_t r = vfmsq_f32(v, n, vdupq_n_f32(0x1.62e4p-1f));  // ln 2 in two parts, the first short:
    r = vfmsq_f32(r, n, vdupq_n_f32(0x1.7f7d1cp-20f));           // n times it is exact
    // Taylor's series: the first term left out is below 0.3466^8 / 8! = 5e-9.
    float32x4_t p = vdupq_n_f32(1.0f / 5040);
    p = vfmaq_f32(vdupq_n_f32(1.0f / 720), p, r);
    p = vfmaq_f32(vdupq_n_f32(1.0f / 120), p, r);
    p = vfmaq_f32(vdupq_n_f32(1.0f / 24), p, r);
    p = vfmaq_f32(vdupq_n_f32(1.0f / 6), p, r);
    p = vfmaq_f32(vdupq_n_f32(0.5f), p, r);
    p = vfmaq_f32(vdupq_n_f32(1.0f), p, r);
    p = vfmaq_f32(vdupq_n_f32(1.0f), p, r);
    // 2^n in two factors, because n may be 128.
    const int32x4_t exponent = vcvtq_s32_f32(n), bias = vdupq_n_s32(127);
    const int32x4_t half = vshrq_n_s32(exponent, 1);
    const int32x4_t rest = vsubq_s32(exponent, half);
    p = vmulq_f32(p, vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(half, bias), 23)));
    p = vmulq_f32(p, vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(rest, bias), 23)));
    return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(p), vcltq_f32(x, lowest)));
}

CHATGLM_INLINE Floats exp8(Floats x) {
    return {exp4(x.lo), exp4(x.hi)};
}

CHATGLM_INLINE uint16_t load_u16(const uint8_t* p) {
    uint16_t v;
    std::memcpy(&v, p, 2);
    return v;
}

// Decode reads several rows of W side by side. Those rows are one run of memory, so while one run is computed
// a later one is fetched to the second-level cache from end to end. Past the end of W a prefetch does
// nothing.
constexpr int64_t kPrefetchAhead = 32768;  // bytes beyond the next run, as measured for AVX2

CHATGLM_INLINE uintptr_t prefetch_start(const uint8_t* run, int64_t run_bytes) {
    const int64_t ahead = run_bytes + (run_bytes < kPrefetchAhead ? run_bytes : kPrefetchAhead);
    return reinterpret_cast<uintptr_t>(run) + static_cast<uintptr_t>(ahead);
}

CHATGLM_INLINE void prefetch(uintptr_t begin, int64_t bytes) {
    for (int64_t i = 0; i < bytes; i += 64) {
        const auto* line = reinterpret_cast<const void*>(begin + static_cast<uintptr_t>(i));
#if defined(_MSC_VER) && !defined(__clang__)
        __prefetch2(line, 2);  // PLDL2KEEP
#else
        __builtin_prefetch(line, 0, 2);
#endif
    }
}

}  // namespace
}  // namespace chatglm::cpu
