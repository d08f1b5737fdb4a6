// How a block of quantized weights is brought into vectors.
// Part of avx2_quantized.h and of no other file: see avx2.cpp why everything has internal linkage.
#pragma once

#include "backend/cpu/kernels/avx2_vector.h"
#include "backend/cpu/kernels/kernels.h"

namespace chatglm::cpu {
namespace {

// Eight rows of W at a time, one a lane. A block of eight rows is transposed in units of four bytes, so that
// vector t of a Group holds elements 4t .. 4t+3 of every row.
constexpr int kGroup = 8;    // rows of W in a vector
constexpr int kVectors = 8;  // vectors of a block: 32 elements, 4 a lane

struct Group {
    __m256i q[kVectors];
    __m256 d, m;
};

// The same block not transposed: of rows i and i + 4, in the halves of a vector, lo[i] holds elements 0 .. 15
// and hi[i] elements 16 .. 31.
constexpr int kPairs = kGroup / 2;

struct RowPairs {
    __m256i lo[kPairs], hi[kPairs];
    __m256 d, m;
};

struct RowPointers {
    const uint8_t* first;
    int64_t stride;  // 0 repeats one row in all lanes
    const uint8_t* operator[](int i) const { return first + i * stride; }
};

// out[i]: the 16 bytes at rows i's and i + 4's p + offset.
CHATGLM_INLINE void load_pairs(RowPointers p, int64_t offset, __m256i out[kPairs]) {
    for (int i = 0; i < kPairs; ++i) {
        out[i] = _mm256_inserti128_si256(_mm256_castsi128_si256(load16(p[i] + offset)),
                                         load16(p[i + kPairs] + offset), 1);
    }
}

// out[t]: bytes 4t .. 4t+3 of the 16 at each of the eight rows' p + offset.
CHATGLM_INLINE void transpose16(RowPointers p, int64_t offset, __m256i out[4]) {
    __m256i a[kPairs];
    load_pairs(p, offset, a);
    const __m256i ab_lo = _mm256_unpacklo_epi32(a[0], a[1]), ab_hi = _mm256_unpackhi_epi32(a[0], a[1]);
    const __m256i cd_lo = _mm256_unpacklo_epi32(a[2], a[3]), cd_hi = _mm256_unpackhi_epi32(a[2], a[3]);
    out[0] = _mm256_unpacklo_epi64(ab_lo, cd_lo);
    out[1] = _mm256_unpackhi_epi64(ab_lo, cd_lo);
    out[2] = _mm256_unpacklo_epi64(ab_hi, cd_hi);
    out[3] = _mm256_unpackhi_epi64(ab_hi, cd_hi);
}

// The eight rows' half floats at p + offset.
CHATGLM_INLINE __m256 load_halves(RowPointers p, int64_t offset) {
    __m128i h = _mm_cvtsi32_si128(load_u16(p[0] + offset));
    h = _mm_insert_epi16(h, load_u16(p[1] + offset), 1);
    h = _mm_insert_epi16(h, load_u16(p[2] + offset), 2);
    h = _mm_insert_epi16(h, load_u16(p[3] + offset), 3);
    h = _mm_insert_epi16(h, load_u16(p[4] + offset), 4);
    h = _mm_insert_epi16(h, load_u16(p[5] + offset), 5);
    h = _mm_insert_epi16(h, load_u16(p[6] + offset), 6);
    h = _mm_insert_epi16(h, load_u16(p[7] + offset), 7);
    return _mm256_cvtph_ps(h);
}

// The eight rows' 4 bytes at p + offset.
CHATGLM_INLINE __m256i load_words(RowPointers p, int64_t offset) {
    __m128i w[8];
    for (int i = 0; i < 8; ++i) w[i] = _mm_loadu_si32(p[i] + offset);
    const __m128i lo = _mm_unpacklo_epi64(_mm_unpacklo_epi32(w[0], w[1]), _mm_unpacklo_epi32(w[2], w[3]));
    const __m128i hi = _mm_unpacklo_epi64(_mm_unpacklo_epi32(w[4], w[5]), _mm_unpacklo_epi32(w[6], w[7]));
    return _mm256_inserti128_si256(_mm256_castsi128_si256(lo), hi, 1);
}

// The lower and the upper four bits of the bytes.
CHATGLM_INLINE void split_nibbles(const __m256i bytes[4], __m256i lo[4], __m256i hi[4]) {
    const __m256i mask = _mm256_set1_epi8(15);
    for (int i = 0; i < 4; ++i) {
        lo[i] = _mm256_and_si256(bytes[i], mask);
        hi[i] = _mm256_and_si256(_mm256_srli_epi16(bytes[i], 4), mask);
    }
}

CHATGLM_INLINE void load_nibbles(RowPointers p, int64_t offset, Group& g) {
    __m256i bytes[4];
    transpose16(p, offset, bytes);
    split_nibbles(bytes, g.q, g.q + 4);
}
CHATGLM_INLINE void load_nibbles(RowPointers p, int64_t offset, RowPairs& w) {
    __m256i bytes[kPairs];
    load_pairs(p, offset, bytes);
    split_nibbles(bytes, w.lo, w.hi);
}

// Adds 16 to element j of a row where bit j of its word is set.
CHATGLM_INLINE void add_fifth_bits(__m256i words, Group& g) {
    const __m256i sixteen = _mm256_set1_epi8(16);
    for (int byte = 0; byte < 4; ++byte) {
        const __m256i in_lane =
            _mm256_setr_epi32(0, 0x04040404, 0x08080808, 0x0c0c0c0c, 0, 0x04040404, 0x08080808, 0x0c0c0c0c);
        const __m256i spread =
            _mm256_shuffle_epi8(words, _mm256_add_epi8(in_lane, _mm256_set1_epi8(static_cast<char>(byte))));
        for (int half = 0; half < 2; ++half) {
            const __m256i bits = _mm256_set1_epi32(half ? static_cast<int>(0x80402010u) : 0x08040201);
            const __m256i set = _mm256_cmpeq_epi8(_mm256_and_si256(spread, bits), bits);
            __m256i& q = g.q[2 * byte + half];
            q = _mm256_or_si256(q, _mm256_and_si256(set, sixteen));
        }
    }
}

// kOffset: taken from each q, a power of two; kHasMin: adds m; kRun: how many products of two byte pairs fit
// one 16-bit sum, levels * 127 * 2 each: 8 * 15 * 127 * 2 = 30480 and 4 * 31 * 127 * 2 = 31496 are below
// 32768. kPairedRows: so many rows of x at most meet RowPairs; beyond, or with five bits, those are dearer.

// Of unsigned levels: a block is d, m where there is one, fifth bits where there are some, and nibbles.
template <class Block, int kBits, bool kMin>
struct Levels {
    static constexpr int kBytes = sizeof(Block), kOffset = kMin ? 0 : 1 << (kBits - 1);
    static constexpr int kRun = kBits == 4 ? 8 : 4, kPairedRows = kBits == 4 ? 1 : 0;
    static constexpr bool kHasMin = kMin, kSigned = false;
    template <class W>
    CHATGLM_INLINE void load(RowPointers p, int64_t at, W& w) {
        constexpr int kBitsAt = kMin ? 4 : 2, kNibblesAt = kBits == 4 ? kBitsAt : kBitsAt + 4;
        w.d = load_halves(p, at);
        if constexpr (kMin) w.m = load_halves(p, at + 2);
        load_nibbles(p, at + kNibblesAt, w);
        if constexpr (kBits == 5) add_fifth_bits(load_words(p, at + kBitsAt), w);
    }
};

using Q4_0 = Levels<BlockQ4_0, 4, false>;
using Q4_1 = Levels<BlockQ4_1, 4, true>;
using Q5_0 = Levels<BlockQ5_0, 5, false>;
using Q5_1 = Levels<BlockQ5_1, 5, true>;

// Signed bytes have no fast product with signed bytes. Where a block meets many rows of x, 128 is added to
// the weights, if one instruction sums products to 32 bits ...
struct ShiftedGroup : Group {};

// ... else both sides are widened to 16 bits once. q[2t] holds elements 4t and 4t + 2 of every row, q[2t + 1]
// the other two.
struct WideGroup {
    __m256i q[2 * kVectors];
    __m256 d, m;
};

CHATGLM_INLINE __m256i widen_even(__m256i v) {
    return _mm256_srai_epi16(_mm256_slli_epi16(v, 8), 8);
}
CHATGLM_INLINE __m256i widen_odd(__m256i v) {
    return _mm256_srai_epi16(v, 8);
}

struct Q8_0 {
    static constexpr int kBytes = sizeof(BlockQ8_0), kOffset = 0, kRun = 1;
    static constexpr bool kHasMin = false, kSigned = true;
    static constexpr int kPairedRows = 5;
    CHATGLM_INLINE void load(RowPointers p, int64_t at, Group& g) {
        g.d = load_halves(p, at);
        transpose16(p, at + 2, g.q);
        transpose16(p, at + 18, g.q + 4);
    }
    CHATGLM_INLINE void load(RowPointers p, int64_t at, RowPairs& w) {
        w.d = load_halves(p, at);
        load_pairs(p, at + 2, w.lo);
        load_pairs(p, at + 18, w.hi);
    }
    CHATGLM_INLINE void load(RowPointers p, int64_t at, ShiftedGroup& g) {
        load(p, at, static_cast<Group&>(g));
        for (__m256i& q : g.q) q = _mm256_xor_si256(q, _mm256_set1_epi8(-128));
    }
    CHATGLM_INLINE void load(RowPointers p, int64_t at, WideGroup& wide) {
        Group g;
        load(p, at, g);
        wide.d = g.d;
        for (int t = 0; t < kVectors; ++t) {
            wide.q[2 * t] = widen_even(g.q[t]);
            wide.q[2 * t + 1] = widen_odd(g.q[t]);
        }
    }
};

}  // namespace
}  // namespace chatglm::cpu
