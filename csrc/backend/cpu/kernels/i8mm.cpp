// ARMv8.6, or ARMv8.2 with the i8mm extension: Apple M2, Cortex-A510 and -A710, Neoverse V1, N2 and newer.
// Everything has internal linkage, as avx2.cpp explains.
#include "backend/cpu/kernels/kernels.h"

#if defined(__aarch64__) || (defined(_M_ARM64) && defined(__clang__))

#include "backend/cpu/kernels/neon_sdot.h"
#include "backend/cpu/kernels/neon_table.h"

namespace chatglm::cpu {
namespace {

// SMMLA multiplies eight bytes of two rows by eight bytes of two others: four sums, twice the products of an
// SDOT. Packed vector 2j + p holds elements 8j .. 8j+7 of rows 2p and 2p + 1 of W; x is paired as it is read.
// A block of a tile of 8 rows of W and 4 of x is 1024 products: 32 SMMLA, which is the ideal, and 80 other
// instructions. 24 turn 8 vectors of sums into floats and scale them, 24 load 320 bytes of W, 128 of x and
// the scales, 8 pair x, 8 clear sums, 8 put them in the order of y, 8 are addresses and the loop.
struct Smmla {
    static constexpr int kStreamRows = 1;  // pairs of rows of x need pairs of rows of W

    template <class Q>
    CHATGLM_INLINE int32x4_t dot_rows(const int8x16_t w[kGroup][2], const int8x16_t x[2]) {
        return sdot_rows<Q>(w, x);
    }

    // Bytes 0..7 and 8..15 of both rows.
    CHATGLM_INLINE void pair(int8x16_t a, int8x16_t b, int8x16_t& first, int8x16_t& second) {
        const int64x2_t wide_a = vreinterpretq_s64_s8(a), wide_b = vreinterpretq_s64_s8(b);
        first = vreinterpretq_s8_s64(vtrn1q_s64(wide_a, wide_b));
        second = vreinterpretq_s8_s64(vtrn2q_s64(wide_a, wide_b));
    }

    CHATGLM_INLINE void pack(const int8x16_t w[kGroup][2], int8x16_t out[2 * kGroup]) {
        for (int half = 0; half < 2; ++half) {
            for (int p = 0; p < 2; ++p) {
                pair(w[2 * p][half], w[2 * p + 1][half], out[4 * half + p], out[4 * half + 2 + p]);
            }
        }
    }

    template <class Q, int G, int R>
    CHATGLM_INLINE void dot_tile(const int8x16_t* const q[G], const int8_t* x, int64_t x_stride,
                                 int32x4_t dots[G][R]) {
        constexpr int kPairs = (R + 1) / 2;
        int32x4_t sums[G][kPairs][2];  // rows 2k, 2k + 1 of x times rows 2p, 2p + 1 of W
        for (int g = 0; g < G; ++g) {
            for (int k = 0; k < kPairs; ++k) sums[g][k][0] = sums[g][k][1] = vdupq_n_s32(0);
        }
        for (int half = 0; half < 2; ++half) {
            int8x16_t v[kPairs][2];
            for (int k = 0; k < kPairs; ++k) {
                const int8_t* a = x + 2 * k * x_stride + 16 * half;
                const int8_t* b = 2 * k + 1 < R ? a + x_stride : a;
                pair(vld1q_s8(a), vld1q_s8(b), v[k][0], v[k][1]);
            }
            for (int g = 0; g < G; ++g) {
                for (int j = 0; j < 2; ++j) {
                    for (int p = 0; p < 2; ++p) {
                        const int8x16_t w = q[g][4 * half + 2 * j + p];
                        for (int k = 0; k < kPairs; ++k)
                            sums[g][k][p] = vmmlaq_s32(sums[g][k][p], v[k][j], w);
                    }
                }
            }
        }
        for (int g = 0; g < G; ++g) {
            for (int r = 0; r < R; ++r) {
                const int64x2_t ab = vreinterpretq_s64_s32(sums[g][r / 2][0]);
                const int64x2_t cd = vreinterpretq_s64_s32(sums[g][r / 2][1]);
                dots[g][r] = vreinterpretq_s32_s64(r % 2 ? vtrn2q_s64(ab, cd) : vtrn1q_s64(ab, cd));
            }
        }
    }
};

constexpr Kernels kI8mm = neon_table<Smmla>("i8mm");

}  // namespace

const Kernels* i8mm_kernels() {
    return &kI8mm;
}

}  // namespace chatglm::cpu

#else

namespace chatglm::cpu {
const Kernels* i8mm_kernels() {
    return nullptr;
}
}  // namespace chatglm::cpu

#endif
