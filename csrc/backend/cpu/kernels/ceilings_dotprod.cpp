// Compiled with the dotprod extension, as dotprod.cpp is: four products are added to each of four sums at
// once.
#include "backend/cpu/kernels/ceilings.h"

#if defined(__aarch64__) || defined(_M_ARM64)

#include "backend/cpu/kernels/ceilings_neon.h"

namespace chatglm::cpu {
namespace {

uint64_t multiply_int8(int64_t rounds) {
    const Numbers<kSums> numbers;
    const int8x16_t weight = vdupq_n_s8(static_cast<int8_t>(1 + rounds % 2));
    int32x4_t sums[kSums];
    for (int32x4_t& sum : sums) sum = vdupq_n_s32(0);
    for (int64_t round = 0; round < rounds; ++round) {
        const int8_t* x = numbers.round(round);
        for (int i = 0; i < kSums; ++i) sums[i] = vdotq_s32(sums[i], weight, vld1q_s8(x + 16 * i));
    }
    return combine_integers(sums, kSums);
}

constexpr Ceilings::Products kInt8[] = {{1, kSums * 16, multiply_int8}};

}  // namespace

const Ceilings* dotprod_ceilings() {
    static constexpr Ceilings table{"dotprod", kReads, kInt8, kF32};
    return &table;
}

}  // namespace chatglm::cpu

#else

namespace chatglm::cpu {

const Ceilings* dotprod_ceilings() {
    return nullptr;
}

}  // namespace chatglm::cpu

#endif
