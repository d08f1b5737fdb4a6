// Reading memory and multiplying floats with NEON, which every level of the ARM architecture does alike. Part
// of ceilings_neon.cpp, ceilings_dotprod.cpp and ceilings_i8mm.cpp and of no other file; everything has
// internal linkage, as in avx2.cpp.
#pragma once

#include <arm_neon.h>

#include "backend/cpu/kernels/ceilings.h"

namespace chatglm::cpu {
namespace {

inline uint64_t combine(const uint64x2_t* sums, int count) {
    uint64x2_t all = sums[0];
    for (int i = 1; i < count; ++i) all = veorq_u64(all, sums[i]);
    return vgetq_lane_u64(all, 0) ^ vgetq_lane_u64(all, 1);
}

inline uint64x2_t load_words(const uint8_t* p) {
    return vreinterpretq_u64_u8(vld1q_u8(p));
}

// 0 leaves fetching to the hardware.
template <int kPrefetchBytes>
uint64_t read_forward(const uint8_t* data, int64_t bytes) {
    uint64x2_t sums[16];
    for (uint64x2_t& sum : sums) sum = vdupq_n_u64(0);
    for (int64_t i = 0; i < bytes; i += 256) {
#if !defined(_MSC_VER) || defined(__clang__)
        if constexpr (kPrefetchBytes != 0) {
            // Past the end a prefetch does nothing; the address is computed as a number for that.
            const auto ahead = reinterpret_cast<uintptr_t>(data) + static_cast<uintptr_t>(i + kPrefetchBytes);
            for (uintptr_t line = 0; line < 256; line += 64) {
                __builtin_prefetch(reinterpret_cast<const void*>(ahead + line));
            }
        }
#endif
        for (int k = 0; k < 16; ++k) sums[k] = veorq_u64(sums[k], load_words(data + i + 16 * k));
    }
    return combine(sums, 16);
}

inline uint64_t read_four_streams(const uint8_t* data, int64_t bytes) {
    const int64_t part = bytes / 4;
    uint64x2_t sums[16];
    for (uint64x2_t& sum : sums) sum = vdupq_n_u64(0);
    for (int64_t i = 0; i < part; i += 64) {
        for (int s = 0; s < 4; ++s) {
            const uint8_t* p = data + s * part + i;
            for (int k = 0; k < 4; ++k) sums[4 * s + k] = veorq_u64(sums[4 * s + k], load_words(p + 16 * k));
        }
    }
    return combine(sums, 16);
}

// Up to four a cycle with a latency of four: sixteen sums keep them busy, and leave half of the registers. No
// product of bytes is of the numbers of the round before: see kShifts.
constexpr int kSums = 16;
constexpr int kShifts = 16;

// Bytes for a round: `count` vectors that begin at another place of the table than those of the round before,
// so that no compiler can take one for a repetition of the last.
template <int kCount>
struct Numbers {
    int8_t values[16 * (kCount + kShifts)];
    Numbers() {
        for (int i = 0; i < 16 * (kCount + kShifts); ++i) values[i] = static_cast<int8_t>(i % 13 - 6);
    }
    const int8_t* round(int64_t number) const { return values + 16 * (number % kShifts); }
};

inline uint64_t multiply_f32(int64_t rounds) {
    const float32x4_t x = vdupq_n_f32(0.999f + 1e-9f * static_cast<float>(rounds % 2));
    const float32x4_t y = vdupq_n_f32(0.5f);
    float32x4_t sums[kSums];
    for (int i = 0; i < kSums; ++i) sums[i] = vdupq_n_f32(static_cast<float>(i));
    for (int64_t round = 0; round < rounds; ++round) {
        for (float32x4_t& sum : sums) sum = vfmaq_f32(y, sum, x);
    }
    uint64x2_t bits[kSums];
    for (int i = 0; i < kSums; ++i) bits[i] = vreinterpretq_u64_f32(sums[i]);
    return combine(bits, kSums);
}

inline uint64_t combine_integers(const int32x4_t* sums, int count) {
    int32x4_t all = sums[0];
    for (int i = 1; i < count; ++i) all = veorq_s32(all, sums[i]);
    const uint64x2_t bits = vreinterpretq_u64_s32(all);
    return vgetq_lane_u64(bits, 0) ^ vgetq_lane_u64(bits, 1);
}

constexpr Ceilings::Read kReads[] = {{"one stream", read_forward<0>},
                                     {"one stream, fetched 1 KB ahead", read_forward<1024>},
                                     {"one stream, fetched 4 KB ahead", read_forward<4096>},
                                     {"four streams", read_four_streams}};
constexpr Ceilings::Products kF32{1, kSums * 4, multiply_f32};

}  // namespace
}  // namespace chatglm::cpu
