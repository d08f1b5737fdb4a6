// Four products of bytes added to 32 bits at once (SDOT), which does the work of dotprod.cpp and the decoding
// of i8mm.cpp. Compiled with the dotprod extension: part of these two files and of no other.
#pragma once

#include "backend/cpu/kernels/neon_quantized.h"

namespace chatglm::cpu {
namespace {

// The dot products of four rows of levels less Q's offset with a row of x, each as they lie. A row's sum
// starts at minus the offset times x, in four parts like its products.
template <class Q>
CHATGLM_INLINE int32x4_t sdot_rows(const int8x16_t w[kGroup][2], const int8x16_t x[2]) {
    int32x4_t start = vdupq_n_s32(0);
    if constexpr (Q::kOffset != 0) {
        const int8x16_t taken = vdupq_n_s8(-Q::kOffset);
        start = vdotq_s32(vdotq_s32(start, taken, x[0]), taken, x[1]);
    }
    int32x4_t sum[kGroup];
    for (int i = 0; i < kGroup; ++i) sum[i] = vdotq_s32(vdotq_s32(start, w[i][0], x[0]), w[i][1], x[1]);
    return vpaddq_s32(vpaddq_s32(sum[0], sum[1]), vpaddq_s32(sum[2], sum[3]));
}

}  // namespace
}  // namespace chatglm::cpu
