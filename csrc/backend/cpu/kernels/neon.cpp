// What every 64-bit ARM processor has (ARMv8.0): products of bytes go to 16 bits. Everything here and in the
// neon_*.h headers has internal linkage, as avx2.cpp explains: dotprod.cpp and i8mm.cpp compile the same
// headers for newer processors.
#include "backend/cpu/kernels/kernels.h"

#if defined(__aarch64__) || defined(_M_ARM64)

#include "backend/cpu/kernels/neon_table.h"

namespace chatglm::cpu {
namespace {

// A row of W and of x as they lie. A block's products are added in eight sums of 16 bits, four each, and
// these with their neighbours, as long as Q::kRun allows; the rest is added in 32 bits.
struct Widening {
    static constexpr int kStreamRows = 3;

    // start + eight sums of four products: columns i, i + 8, i + 16 and i + 24.
    CHATGLM_INLINE int16x8_t add_products(int16x8_t start, const int8x16_t w[2], const int8x16_t x[2]) {
        int16x8_t sum = vmlal_s8(start, vget_low_s8(w[0]), vget_low_s8(x[0]));
        sum = vmlal_high_s8(sum, w[0], x[0]);
        sum = vmlal_s8(sum, vget_low_s8(w[1]), vget_low_s8(x[1]));
        return vmlal_high_s8(sum, w[1], x[1]);
    }

    // Four sums of eight products, widened every two.
    CHATGLM_INLINE int32x4_t wide_sums(const int8x16_t w[2], const int8x16_t x[2]) {
        int16x8_t pairs = vmull_s8(vget_low_s8(w[0]), vget_low_s8(x[0]));
        const int32x4_t sum = vpaddlq_s16(vmlal_high_s8(pairs, w[0], x[0]));
        pairs = vmull_s8(vget_low_s8(w[1]), vget_low_s8(x[1]));
        return vpadalq_s16(sum, vmlal_high_s8(pairs, w[1], x[1]));
    }

    // Four rows of levels less kTaken: every row's sums start at minus that times x.
    template <class Q, int kTaken>
    CHATGLM_INLINE int32x4_t dot(const int8x16_t (*w)[2], const int8x16_t x[2]) {
        if constexpr (Q::kRun == 2) {
            static_assert(kTaken == 0);
            return vpaddq_s32(vpaddq_s32(wide_sums(w[0], x), wide_sums(w[1], x)),
                              vpaddq_s32(wide_sums(w[2], x), wide_sums(w[3], x)));
        } else {
            int16x8_t start = vdupq_n_s16(0);
            if constexpr (kTaken != 0) {
                const int8x16_t taken[2] = {vdupq_n_s8(-kTaken), vdupq_n_s8(-kTaken)};
                start = add_products(start, taken, x);
            }
            const int16x8_t rows01 = vpaddq_s16(add_products(start, w[0], x), add_products(start, w[1], x));
            const int16x8_t rows23 = vpaddq_s16(add_products(start, w[2], x), add_products(start, w[3], x));
            if constexpr (Q::kRun == 8) return vpaddq_s32(vpaddlq_s16(rows01), vpaddlq_s16(rows23));
            return vpaddlq_s16(vpaddq_s16(rows01, rows23));
        }
    }

    template <class Q>
    CHATGLM_INLINE int32x4_t dot_rows(const int8x16_t w[kGroup][2], const int8x16_t x[2]) {
        return dot<Q, Q::kOffset>(w, x);
    }

    CHATGLM_INLINE void pack(const int8x16_t w[kGroup][2], int8x16_t out[2 * kGroup]) {
        for (int i = 0; i < kGroup; ++i) {
            out[2 * i] = w[i][0];
            out[2 * i + 1] = w[i][1];
        }
    }

    template <class Q, int G, int R>
    CHATGLM_INLINE void dot_tile(const int8x16_t* const q[G], const int8_t* x, int64_t x_stride,
                                 int32x4_t dots[G][R]) {
        for (int g = 0; g < G; ++g) {
            const int8x16_t w[kGroup][2] = {
                {q[g][0], q[g][1]}, {q[g][2], q[g][3]}, {q[g][4], q[g][5]}, {q[g][6], q[g][7]}};
            for (int r = 0; r < R; ++r) {
                const int8x16_t block[2] = {vld1q_s8(x + r * x_stride), vld1q_s8(x + r * x_stride + 16)};
                dots[g][r] = dot<Q, 0>(w, block);
            }
        }
    }
};

constexpr Kernels kNeon = neon_table<Widening>("neon");

}  // namespace

const Kernels* neon_kernels() {
    return &kNeon;
}

}  // namespace chatglm::cpu

#else

namespace chatglm::cpu {
const Kernels* neon_kernels() {
    return nullptr;
}
}  // namespace chatglm::cpu

#endif
