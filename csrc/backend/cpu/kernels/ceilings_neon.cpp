// Every 64-bit ARM processor: products of bytes are added in 16 bits, sums of these in 32.
#include "backend/cpu/kernels/ceilings.h"

#if defined(__aarch64__) || defined(_M_ARM64)

#include "backend/cpu/kernels/ceilings_neon.h"

namespace chatglm::cpu {
namespace {

// Eight sums, each of two products a lane in 16 bits for every one that is summed; then pairs in 32.
constexpr int kWide = 8;

template <int kSummed>
uint64_t multiply_int8(int64_t rounds) {
    const Numbers<kWide * kSummed> numbers;
    const int8x16_t weight = vdupq_n_s8(static_cast<int8_t>(1 + rounds % 2));
    int32x4_t sums[kWide];
    for (int32x4_t& sum : sums) sum = vdupq_n_s32(0);
    for (int64_t round = 0; round < rounds; ++round) {
        const int8_t* x = numbers.round(round);
        for (int i = 0; i < kWide; ++i) {
            int16x8_t pairs = vdupq_n_s16(0);
            for (int k = 0; k < kSummed; ++k) {
                const int8x16_t v = vld1q_s8(x + 16 * (i * kSummed + k));
                const int8x8_t low = vget_low_s8(v);
                pairs =
                    k == 0 ? vmull_s8(vget_low_s8(weight), low) : vmlal_s8(pairs, vget_low_s8(weight), low);
                pairs = vmlal_high_s8(pairs, weight, v);
            }
            sums[i] = vpadalq_s16(sums[i], pairs);
        }
    }
    return combine_integers(sums, kWide);
}

constexpr Ceilings::Products kInt8[] = {{1, kWide * 1 * 16, multiply_int8<1>},
                                        {2, kWide * 2 * 16, multiply_int8<2>},
                                        {4, kWide * 4 * 16, multiply_int8<4>},
                                        {8, kWide * 8 * 16, multiply_int8<8>}};

}  // namespace

const Ceilings* neon_ceilings() {
    static constexpr Ceilings table{"neon", kReads, kInt8, kF32};
    return &table;
}

}  // namespace chatglm::cpu

#else

namespace chatglm::cpu {

const Ceilings* neon_ceilings() {
    return nullptr;
}

}  // namespace chatglm::cpu

#endif
