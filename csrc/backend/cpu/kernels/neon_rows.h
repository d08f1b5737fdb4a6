// Kernels of one row of floats: conversions, norms, activation functions, quantization.
// Part of neon.cpp, dotprod.cpp and i8mm.cpp and of no other file: see avx2.cpp why everything has internal
// linkage.
#pragma once

#include "backend/cpu/kernels/neon_float.h"
#include "backend/cpu/kernels/neon_vector.h"

namespace chatglm::cpu {
namespace {

CHATGLM_INLINE uint16x8_t to_halves(Floats v) {
    return vreinterpretq_u16_f16(vcombine_f16(vcvt_f16_f32(v.lo), vcvt_f16_f32(v.hi)));
}

void f32_to_f16(const float* x, uint16_t* y, int64_t n) {
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) vst1q_u16(y + i, to_halves(load(x + i)));
    if (i == n) return;
    uint16_t rest[8];
    vst1q_u16(rest, to_halves(load_tail(x + i, n - i)));
    for (int k = 0; i < n; ++i, ++k) y[i] = rest[k];
}

void f16_to_f32(const uint16_t* x, float* y, int64_t n) {
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) store(y + i, F16::load(reinterpret_cast<const uint8_t*>(x + i)));
    if (i < n) store_tail(y + i, F16::load_first(reinterpret_cast<const uint8_t*>(x + i), n - i), n - i);
}

// Sum of f(x_i) over vectors of x, in four accumulators; f(sum, v, n) counts the first n of 8 lanes.
template <class F>
CHATGLM_INLINE float sum_vectors(const float* x, int64_t n, F f) {
    Floats a[4] = {zeros(), zeros(), zeros(), zeros()};
    int64_t i = 0;
    for (; i + 32 <= n; i += 32) {
        for (int k = 0; k < 4; ++k) a[k] = f(a[k], load(x + i + 8 * k), int64_t{8});
    }
    for (; i + 8 <= n; i += 8) a[0] = f(a[0], load(x + i), int64_t{8});
    if (i < n) a[1] = f(a[1], load_tail(x + i, n - i), n - i);
    return sum_lanes(add(add(a[0], a[1]), add(a[2], a[3])));
}

// Calls f(i, read, write) for each vector of eight and for the tail.
template <class F>
CHATGLM_INLINE void for_vectors(int64_t n, F f) {
    const auto read = [](const float* p) { return load(p); };
    const auto write = [](float* p, Floats v) { store(p, v); };
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) f(i, read, write);
    if (i < n) {
        const int64_t rest = n - i;
        f(
            i, [rest](const float* p) { return load_tail(p, rest); },
            [rest](float* p, Floats v) { store_tail(p, v, rest); });
    }
}

void rms_norm(const float* x, const float* weight, float eps, float* y, int64_t n) {
    const float squares = sum_vectors(x, n, [](Floats a, Floats v, int64_t) { return fma(a, v, v); });
    const float scale = 1.0f / square_root(squares / static_cast<float>(n) + eps);
    for_vectors(n, [&](int64_t i, auto read, auto write) {
        write(y + i, multiply(multiply(read(x + i), scale), read(weight + i)));
    });
}

void layer_norm(const float* x, const float* weight, const float* bias, float eps, float* y, int64_t n) {
    const float sum = sum_vectors(x, n, [](Floats a, Floats v, int64_t) { return add(a, v); });
    const Floats mean = all(sum / static_cast<float>(n));
    const float squares = sum_vectors(x, n, [&](Floats a, Floats v, int64_t count) {
        Floats centred = subtract(v, mean);
        if (count < 8) centred = first_lanes(centred, count);
        return fma(a, centred, centred);
    });
    const float scale = 1.0f / square_root(squares / static_cast<float>(n) + eps);
    for_vectors(n, [&](int64_t i, auto read, auto write) {
        const Floats normal = multiply(subtract(read(x + i), mean), scale);
        write(y + i, fma(read(bias + i), normal, read(weight + i)));
    });
}

void swiglu(const float* gate, const float* up, float* y, int64_t n) {
    for_vectors(n, [&](int64_t i, auto read, auto write) {
        const Floats g = read(gate + i);
        const Floats silu = divide(g, add(all(1.0f), exp8(negate(g))));
        write(y + i, multiply(silu, read(up + i)));
    });
}

void gelu(const float* x, float* y, int64_t n) {
    // 0.5 (1 + tanh(u)) = 1 / (1 + exp(-2u)), which keeps its relative precision in the left tail.
    constexpr float kMinusTwoSqrt2OverPi = -1.5957691216f;
    for_vectors(n, [&](int64_t i, auto read, auto write) {
        const Floats v = read(x + i);
        const Floats u = multiply(v, fma(all(1.0f), multiply(v, 0.044715f), v));
        write(y + i, divide(v, add(all(1.0f), exp8(multiply(u, kMinusTwoSqrt2OverPi)))));
    });
}

void add_scaled(const float* x, float scale, float* y, int64_t n) {
    for_vectors(
        n, [&](int64_t i, auto read, auto write) { write(y + i, fma(read(y + i), read(x + i), scale)); });
}

// The rule is that of generic.cpp, to the bit.
void quantize_row(const float* x, int64_t n, int8_t* q, float* d, float* s) {
    for (int64_t b = 0; b < n / kBlockSize; ++b, x += kBlockSize, q += kBlockSize) {
        float32x4_t v[8];
        uint32x4_t top = vdupq_n_u32(0);
        for (int i = 0; i < 8; ++i) {
            v[i] = vld1q_f32(x + 4 * i);
            top = vmaxq_u32(top, vreinterpretq_u32_f32(vabsq_f32(v[i])));
        }
        const uint32_t bits = vmaxvq_u32(top);
        float absmax;
        std::memcpy(&absmax, &bits, sizeof(absmax));
        if (!(absmax >= 0x1p-119f && absmax < 0x1p118f)) {
            vst1q_s8(q, vdupq_n_s8(0));
            vst1q_s8(q + 16, vdupq_n_s8(0));
            d[b] = s[b] = absmax < 0x1p-119f ? 0.0f : NAN;
            continue;
        }
        d[b] = absmax / 127.0f;
        const float id = 1.0f / d[b];
        int16x8_t r[4];
        for (int i = 0; i < 4; ++i) {
            const int32x4_t lo = vcvtnq_s32_f32(vmulq_n_f32(v[2 * i], id));  // ties to even
            const int32x4_t hi = vcvtnq_s32_f32(vmulq_n_f32(v[2 * i + 1], id));
            r[i] = vcombine_s16(vmovn_s32(lo), vmovn_s32(hi));
        }
        vst1q_s8(q, vcombine_s8(vmovn_s16(r[0]), vmovn_s16(r[1])));
        vst1q_s8(q + 16, vcombine_s8(vmovn_s16(r[2]), vmovn_s16(r[3])));
        const int sum = vaddlvq_s16(vaddq_s16(vaddq_s16(r[0], r[1]), vaddq_s16(r[2], r[3])));
        s[b] = d[b] * static_cast<float>(sum);
    }
}

}  // namespace
}  // namespace chatglm::cpu
