// ARMv8.2 with the dotprod extension: Apple M1, Cortex-A55 and -A76, Neoverse N1 and newer. Everything has
// internal linkage, as avx2.cpp explains.
#include "backend/cpu/kernels/kernels.h"

#if defined(__aarch64__) || defined(_M_ARM64)

#include "backend/cpu/kernels/neon_sdot.h"
#include "backend/cpu/kernels/neon_table.h"

namespace chatglm::cpu {
namespace {

// Tiles: packed vector t holds elements 4t .. 4t+3 of four rows of W, a row a lane, which SDOT multiplies by
// four bytes of x out of any lane: no broadcasts, no horizontal sums. A block of a tile of 8 rows of W and 4
// of x is 1024 products: 64 SDOT, which is the ideal, and 75 other instructions. 24 turn 8 vectors of sums
// into floats and scale them, 33 load 320 bytes of W, 128 of x and the scales, 8 clear sums, the rest are
// spills, addresses and the loop.
struct Sdot {
    static constexpr int kStreamRows = 3;  // four rows cost 3 additions each without packing, 16 moves with

    template <class Q>
    CHATGLM_INLINE int32x4_t dot_rows(const int8x16_t w[kGroup][2], const int8x16_t x[2]) {
        return sdot_rows<Q>(w, x);
    }

    CHATGLM_INLINE void pack(const int8x16_t w[kGroup][2], int8x16_t out[2 * kGroup]) {
        for (int half = 0; half < 2; ++half) {
            int32x4_t row[kGroup];
            for (int i = 0; i < kGroup; ++i) row[i] = vreinterpretq_s32_s8(w[i][half]);
            const int64x2_t ab_even = vreinterpretq_s64_s32(vtrn1q_s32(row[0], row[1]));
            const int64x2_t ab_odd = vreinterpretq_s64_s32(vtrn2q_s32(row[0], row[1]));
            const int64x2_t cd_even = vreinterpretq_s64_s32(vtrn1q_s32(row[2], row[3]));
            const int64x2_t cd_odd = vreinterpretq_s64_s32(vtrn2q_s32(row[2], row[3]));
            out[4 * half + 0] = vreinterpretq_s8_s64(vtrn1q_s64(ab_even, cd_even));
            out[4 * half + 1] = vreinterpretq_s8_s64(vtrn1q_s64(ab_odd, cd_odd));
            out[4 * half + 2] = vreinterpretq_s8_s64(vtrn2q_s64(ab_even, cd_even));
            out[4 * half + 3] = vreinterpretq_s8_s64(vtrn2q_s64(ab_odd, cd_odd));
        }
    }

    template <class Q, int G, int R>
    CHATGLM_INLINE void dot_tile(const int8x16_t* const q[G], const int8_t* x, int64_t x_stride,
                                 int32x4_t dots[G][R]) {
        for (int g = 0; g < G; ++g) {
            for (int r = 0; r < R; ++r) dots[g][r] = vdupq_n_s32(0);
        }
        for (int half = 0; half < 2; ++half) {
            int8x16_t v[R];
            for (int r = 0; r < R; ++r) v[r] = vld1q_s8(x + r * x_stride + 16 * half);
            for (int g = 0; g < G; ++g) {
                const int8x16_t* w = q[g] + 4 * half;
                for (int r = 0; r < R; ++r) dots[g][r] = vdotq_laneq_s32(dots[g][r], w[0], v[r], 0);
                for (int r = 0; r < R; ++r) dots[g][r] = vdotq_laneq_s32(dots[g][r], w[1], v[r], 1);
                for (int r = 0; r < R; ++r) dots[g][r] = vdotq_laneq_s32(dots[g][r], w[2], v[r], 2);
                for (int r = 0; r < R; ++r) dots[g][r] = vdotq_laneq_s32(dots[g][r], w[3], v[r], 3);
            }
        }
    }
};

constexpr Kernels kDotprod = neon_table<Sdot>("dotprod");

}  // namespace

const Kernels* dotprod_kernels() {
    return &kDotprod;
}

}  // namespace chatglm::cpu

#else

namespace chatglm::cpu {
const Kernels* dotprod_kernels() {
    return nullptr;
}
}  // namespace chatglm::cpu

#endif
