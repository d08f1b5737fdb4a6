// Products with quantized weights.
// Part of avx2.cpp, avxvnni.cpp and avx512.cpp and of no other file: see avx2.cpp why everything has internal
// linkage. Where CHATGLM_DPBUSD(sum, q, x) is defined it adds the products of four unsigned bytes with four
// signed ones to a lane's sum; the integers, and so the results, are the same without it.
#pragma once

#include "backend/cpu/kernels/avx2_vector.h"
#include "backend/cpu/kernels/kernels.h"

namespace chatglm::cpu {
namespace {

// Eight rows of W at a time, one a lane. A block of eight rows is transposed in units of four bytes, so that
// vector t holds elements 4t .. 4t+3 of every row; four bytes of x broadcast to all lanes meet it in one
// multiply. There are no horizontal sums, the result is eight neighbours of y, and each lane adds its row's
// blocks one after another:
//     acc += d * (dx * dot(q, qx) - offset * sx)  or  acc += d * (dx * dot(q, qx)); acc += m * sx.
// A lane knows nothing of the others, so an element is the same in any tile.

constexpr int kGroup = 8;    // rows of W in a vector
constexpr int kVectors = 8;  // vectors of a block: 32 elements, 4 a lane

struct Group {
    __m256i q[kVectors];
    __m256 d, m;
};

struct RowPointers {
    const uint8_t* first;
    int64_t stride;  // 0 repeats one row in all lanes
    const uint8_t* operator[](int i) const { return first + i * stride; }
};

// out[t]: bytes 4t .. 4t+3 of the 16 at each of the eight rows' p + offset.
CHATGLM_INLINE void transpose16(RowPointers p, int64_t offset, __m256i out[4]) {
    __m256i a[4];
    for (int i = 0; i < 4; ++i) {
        a[i] = _mm256_inserti128_si256(_mm256_castsi128_si256(load16(p[i] + offset)),
                                       load16(p[i + 4] + offset), 1);
    }
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

CHATGLM_INLINE void load_nibbles(RowPointers p, int64_t offset, __m256i q[kVectors]) {
    const __m256i mask = _mm256_set1_epi8(15);
    __m256i bytes[4];
    transpose16(p, offset, bytes);
    for (int t = 0; t < 4; ++t) {
        q[t] = _mm256_and_si256(bytes[t], mask);
        q[t + 4] = _mm256_and_si256(_mm256_srli_epi16(bytes[t], 4), mask);
    }
}

// Adds 16 to element j of q where bit j of the row's word is set.
CHATGLM_INLINE void add_fifth_bits(__m256i words, __m256i q[kVectors]) {
    const __m256i sixteen = _mm256_set1_epi8(16);
    for (int byte = 0; byte < 4; ++byte) {
        const __m256i in_lane =
            _mm256_setr_epi32(0, 0x04040404, 0x08080808, 0x0c0c0c0c, 0, 0x04040404, 0x08080808, 0x0c0c0c0c);
        const __m256i spread =
            _mm256_shuffle_epi8(words, _mm256_add_epi8(in_lane, _mm256_set1_epi8(static_cast<char>(byte))));
        for (int half = 0; half < 2; ++half) {
            const __m256i bits = _mm256_set1_epi32(half ? static_cast<int>(0x80402010u) : 0x08040201);
            const __m256i set = _mm256_cmpeq_epi8(_mm256_and_si256(spread, bits), bits);
            __m256i& v = q[2 * byte + half];
            v = _mm256_or_si256(v, _mm256_and_si256(set, sixteen));
        }
    }
}

// kOffset: taken from each q; kHasMin: adds m; kRun: how many products of two byte pairs fit one 16-bit sum,
// levels * 127 * 2 each: 8 * 15 * 127 * 2 = 30480 and 4 * 31 * 127 * 2 = 31496 are below 32768.
struct Q4_0 {
    static constexpr int kBytes = sizeof(BlockQ4_0), kOffset = 8, kRun = 8;
    static constexpr bool kHasMin = false, kSigned = false;
    CHATGLM_INLINE void load(RowPointers p, int64_t at, Group& g) {
        g.d = load_halves(p, at);
        load_nibbles(p, at + 2, g.q);
    }
};

struct Q4_1 {
    static constexpr int kBytes = sizeof(BlockQ4_1), kOffset = 0, kRun = 8;
    static constexpr bool kHasMin = true, kSigned = false;
    CHATGLM_INLINE void load(RowPointers p, int64_t at, Group& g) {
        g.d = load_halves(p, at);
        g.m = load_halves(p, at + 2);
        load_nibbles(p, at + 4, g.q);
    }
};

struct Q5_0 {
    static constexpr int kBytes = sizeof(BlockQ5_0), kOffset = 16, kRun = 4;
    static constexpr bool kHasMin = false, kSigned = false;
    CHATGLM_INLINE void load(RowPointers p, int64_t at, Group& g) {
        g.d = load_halves(p, at);
        load_nibbles(p, at + 6, g.q);
        add_fifth_bits(load_words(p, at + 2), g.q);
    }
};

struct Q5_1 {
    static constexpr int kBytes = sizeof(BlockQ5_1), kOffset = 0, kRun = 4;
    static constexpr bool kHasMin = true, kSigned = false;
    CHATGLM_INLINE void load(RowPointers p, int64_t at, Group& g) {
        g.d = load_halves(p, at);
        g.m = load_halves(p, at + 2);
        load_nibbles(p, at + 8, g.q);
        add_fifth_bits(load_words(p, at + 4), g.q);
    }
};

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
    CHATGLM_INLINE void load(RowPointers p, int64_t at, Group& g) {
        g.d = load_halves(p, at);
        transpose16(p, at + 2, g.q);
        transpose16(p, at + 18, g.q + 4);
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

CHATGLM_INLINE __m256i broadcast4(const int8_t* p) {
    int32_t v;
    std::memcpy(&v, p, 4);
    return _mm256_set1_epi32(v);
}

// Sums of two neighbouring products in 16 bits. Signed weights give their sign to x, as the instruction wants
// one unsigned side; x is never -128.
template <class Q>
CHATGLM_INLINE __m256i multiply(__m256i q, __m256i x) {
    if constexpr (Q::kSigned) return _mm256_maddubs_epi16(_mm256_abs_epi8(q), _mm256_sign_epi8(x, q));
    return _mm256_maddubs_epi16(q, x);
}

// One block's contribution to acc, given its integer dot products.
template <class Q>
CHATGLM_INLINE __m256 add_block(__m256 acc, __m256i dot, __m256 d, __m256 m, const float* dx,
                                const float* sx) {
    __m256 v = _mm256_mul_ps(_mm256_broadcast_ss(dx), _mm256_cvtepi32_ps(dot));
    if constexpr (Q::kOffset != 0) {
        v = _mm256_fnmadd_ps(_mm256_broadcast_ss(sx), _mm256_set1_ps(static_cast<float>(Q::kOffset)), v);
    }
    acc = _mm256_fmadd_ps(d, v, acc);
    if constexpr (Q::kHasMin) acc = _mm256_fmadd_ps(m, _mm256_broadcast_ss(sx), acc);
    return acc;
}

// dot[g][r]: a block of G groups times R rows of x; x + r * x_stride is the block's first element.
#ifdef CHATGLM_DPBUSD
// The products are added to dot.
template <class Q, int G, int R>
CHATGLM_INLINE void add_products(const __m256i* const q[G], const int8_t* x, int64_t x_stride,
                                 __m256i dot[G][R]) {
    CHATGLM_UNROLL
    for (int t = 0; t < kVectors; ++t) {
        __m256i w[G], magnitude[G];
        for (int g = 0; g < G; ++g) {
            w[g] = q[g][t];
            magnitude[g] = Q::kSigned ? _mm256_abs_epi8(w[g]) : w[g];
        }
        for (int r = 0; r < R; ++r) {
            const __m256i v = broadcast4(x + r * x_stride + 4 * t);
            for (int g = 0; g < G; ++g) {
                const __m256i signed_x = Q::kSigned ? _mm256_sign_epi8(v, w[g]) : v;  // x is never -128
                dot[g][r] = CHATGLM_DPBUSD(dot[g][r], magnitude[g], signed_x);
                CHATGLM_PIN(dot[g][r]);
            }
        }
    }
}

template <class Q, int G, int R>
CHATGLM_INLINE void dot_block(const __m256i* const q[G], const int8_t* x, int64_t x_stride,
                              __m256i dot[G][R]) {
    for (int g = 0; g < G; ++g) {
        for (int r = 0; r < R; ++r) dot[g][r] = _mm256_setzero_si256();
    }
    add_products<Q, G, R>(q, x, x_stride, dot);
}
#else
template <class Q, int G, int R>
CHATGLM_INLINE void dot_block(const __m256i* const q[G], const int8_t* x, int64_t x_stride,
                              __m256i dot[G][R]) {
    for (int run = 0; run < kVectors; run += Q::kRun) {
        __m256i sums[G][R];
        CHATGLM_UNROLL
        for (int t = run; t < run + Q::kRun; ++t) {
            __m256i w[G];
            for (int g = 0; g < G; ++g) w[g] = q[g][t];
            for (int r = 0; r < R; ++r) {
                const __m256i v = broadcast4(x + r * x_stride + 4 * t);
                for (int g = 0; g < G; ++g) {
                    const __m256i product = multiply<Q>(w[g], v);
                    sums[g][r] = t == run ? product : _mm256_add_epi16(sums[g][r], product);
                    CHATGLM_PIN(sums[g][r]);
                }
            }
        }
        for (int g = 0; g < G; ++g) {
            for (int r = 0; r < R; ++r) {
                const __m256i wide = widen_pairs(sums[g][r]);
                dot[g][r] = run == 0 ? wide : _mm256_add_epi32(dot[g][r], wide);
            }
        }
    }
}
#endif

// Up to kStreamRows rows of x: the weights are unpacked in registers and used at once, R times. acc[r] are
// eight neighbours of y in row `row` + r.
constexpr int kStreamRows = 3;

template <class Q, int R>
CHATGLM_INLINE void stream_group(const MatmulArgs& args, RowPointers p, int64_t row, __m256 acc[R]) {
    const int64_t n_blocks = args.n_cols / kBlockSize;
    const int8_t* x = args.xq.q + row * args.n_cols;
    const float* dx = args.xq.d + row * n_blocks;
    const float* sx = args.xq.s + row * n_blocks;
    const uintptr_t ahead = prefetch_start(p.first, kGroup * p.stride);
    for (int r = 0; r < R; ++r) acc[r] = _mm256_setzero_ps();
    for (int64_t b = 0; b < n_blocks; ++b) {
        prefetch(ahead + static_cast<uintptr_t>(b * kGroup * Q::kBytes), kGroup * Q::kBytes);
        Group group;
        Q::load(p, b * Q::kBytes, group);
        const __m256i* q = group.q;
        __m256i dot[1][R];
        dot_block<Q, 1, R>(&q, x + b * kBlockSize, args.n_cols, dot);
        for (int r = 0; r < R; ++r) {
            acc[r] = add_block<Q>(acc[r], dot[0][r], group.d, group.m, dx + r * n_blocks + b,
                                  sx + r * n_blocks + b);
        }
    }
}

// Whole groups of the range [begin, end), then its last rows one by one, each in all lanes.
template <class Q, int R>
CHATGLM_NOINLINE void stream(const MatmulArgs& args, int64_t begin, int64_t end, int64_t row) {
    const auto* weight = static_cast<const uint8_t*>(args.weight);
    float* y = args.y + row * args.y_stride;
    __m256 acc[R];
    int64_t n = begin;
    for (; n + kGroup <= end; n += kGroup) {
        stream_group<Q, R>(args, {weight + n * args.weight_stride, args.weight_stride}, row, acc);
        for (int r = 0; r < R; ++r) _mm256_storeu_ps(y + r * args.y_stride + n, acc[r]);
    }
    for (; n < end; ++n) {
        stream_group<Q, R>(args, {weight + n * args.weight_stride, 0}, row, acc);
        for (int r = 0; r < R; ++r) y[r * args.y_stride + n] = _mm256_cvtss_f32(acc[r]);
    }
}

template <class Q>
void stream_rows(const MatmulArgs& args, int64_t begin, int64_t end) {
    int64_t row = 0;
    for (; row + kStreamRows <= args.n_rows; row += kStreamRows)
        stream<Q, kStreamRows>(args, begin, end, row);
    if (args.n_rows - row == 2) return stream<Q, 2>(args, begin, end, row);
    if (args.n_rows - row == 1) return stream<Q, 1>(args, begin, end, row);
}

// Several rows of x: a chunk of blocks of kTileGroups groups is unpacked once into the first-level cache and
// meets every row of x. y carries the sums from chunk to chunk.
constexpr int kTileGroups = 2;
constexpr int kTileRows = 4;  // 2 * 4 sums of integers leave 8 of 16 registers; y is touched once a block

// How the tiles of a type hold W and x, and a block's dot products of G groups times R rows of x.
template <class Q, bool kSigned = Q::kSigned>
struct Tiles {
    static constexpr int kChunk = 32;  // 32 blocks * 2 groups * 320 bytes = 20 KB
    using W = Group;
    struct X {};  // as it is
    template <int R>
    CHATGLM_INLINE void load(X&, const int8_t*, const float*, const float*, int64_t, int) {}
    template <int G, int R>
    CHATGLM_INLINE void dot(const W* const w[G], const X&, const int8_t* x, int64_t x_stride, int b,
                            __m256i sums[G][R]) {
        const __m256i* q[G];
        for (int g = 0; g < G; ++g) q[g] = w[g]->q;
        dot_block<Q, G, R>(q, x + b * kBlockSize, x_stride, sums);
    }
};

#ifdef CHATGLM_DPBUSD
template <class Q>
struct Tiles<Q, true> {
    static constexpr int kChunk = 32;
    using W = ShiftedGroup;
    struct Unsigned {
        static constexpr bool kSigned = false;
    };
    // What 128 times the block's x adds too much, negative: (R, kChunk).
    struct X {
        alignas(32) int32_t start[kTileRows][kChunk];
    };
    template <int R>
    CHATGLM_INLINE void load(X& x, const int8_t*, const float* dx, const float* sx, int64_t n_blocks,
                             int n_chunk) {
        for (int r = 0; r < R; ++r) {
            for (int b = 0; b < n_chunk; b += 8) {
                const int n = n_chunk - b < 8 ? n_chunk - b : 8;
                // s is d times the sum, which is below 2^13, with one rounding: their quotient rounds to the
                // sum. Where d is 0 or no number the sum does not matter.
                const __m256 quotient =
                    _mm256_div_ps(load_tail(sx + r * n_blocks + b, n), load_tail(dx + r * n_blocks + b, n));
                const __m256i start = _mm256_slli_epi32(_mm256_cvtps_epi32(quotient), 7);
                _mm256_store_si256(reinterpret_cast<__m256i*>(x.start[r] + b),
                                   _mm256_sub_epi32(_mm256_setzero_si256(), start));
            }
        }
    }
    template <int G, int R>
    CHATGLM_INLINE void dot(const W* const w[G], const X& x, const int8_t* xq, int64_t x_stride, int b,
                            __m256i sums[G][R]) {
        const __m256i* q[G];
        for (int g = 0; g < G; ++g) {
            q[g] = w[g]->q;
            for (int r = 0; r < R; ++r) sums[g][r] = _mm256_set1_epi32(x.start[r][b]);
        }
        add_products<Unsigned, G, R>(q, xq + b * kBlockSize, x_stride, sums);
    }
};
#else
template <class Q>
struct Tiles<Q, true> {
    static constexpr int kChunk = 16;  // 16 blocks * 2 groups * 576 bytes = 18 KB, and 4 KB of x
    using W = WideGroup;
    // (R, kChunk, 2, 16 elements): of each block what meets q[0], q[2], ..., then what meets q[1], q[3], ...
    struct X {
        alignas(32) int32_t pairs[kTileRows][kChunk][2][kVectors];
    };
    template <int R>
    CHATGLM_INLINE void load(X& wide, const int8_t* x, const float*, const float*, int64_t n_blocks,
                             int n_chunk) {
        const int64_t x_stride = n_blocks * kBlockSize;
        for (int r = 0; r < R; ++r) {
            for (int b = 0; b < n_chunk; ++b) {
                const auto* source = reinterpret_cast<const __m256i*>(x + r * x_stride + b * kBlockSize);
                const __m256i v = _mm256_loadu_si256(source);
                auto* pairs = reinterpret_cast<__m256i*>(wide.pairs[r][b]);
                _mm256_store_si256(pairs, widen_even(v));
                _mm256_store_si256(pairs + 1, widen_odd(v));
            }
        }
    }
    template <int G, int R>
    CHATGLM_INLINE void dot(const W* const w[G], const X& x, const int8_t*, int64_t, int b,
                            __m256i sums[G][R]) {
        for (int g = 0; g < G; ++g) {
            for (int r = 0; r < R; ++r) sums[g][r] = _mm256_setzero_si256();
        }
        CHATGLM_UNROLL
        for (int t = 0; t < kVectors; ++t) {
            for (int odd = 0; odd < 2; ++odd) {
                __m256i q[G];
                for (int g = 0; g < G; ++g) q[g] = w[g]->q[2 * t + odd];
                for (int r = 0; r < R; ++r) {
                    const __m256i v = _mm256_set1_epi32(x.pairs[r][b][odd][t]);
                    for (int g = 0; g < G; ++g) {
                        sums[g][r] = _mm256_add_epi32(sums[g][r], _mm256_madd_epi16(q[g], v));
                        CHATGLM_PIN(sums[g][r]);
                    }
                }
            }
        }
    }
};
#endif

template <class Q, int G, int R>
void tile(const MatmulArgs& args, const typename Tiles<Q>::W (*w)[Tiles<Q>::kChunk], int64_t block,
          int n_chunk, int64_t n, int64_t row) {
    const int64_t n_blocks = args.n_cols / kBlockSize;
    const int8_t* x = args.xq.q + row * args.n_cols + block * kBlockSize;
    const float* dx = args.xq.d + row * n_blocks + block;
    const float* sx = args.xq.s + row * n_blocks + block;
    float* y = args.y + row * args.y_stride + n;
    typename Tiles<Q>::X x_wide;
    Tiles<Q>::template load<R>(x_wide, x, dx, sx, n_blocks, n_chunk);
    __m256 acc[G][R];
    for (int g = 0; g < G; ++g) {
        for (int r = 0; r < R; ++r) {
            acc[g][r] =
                block == 0 ? _mm256_setzero_ps() : _mm256_loadu_ps(y + r * args.y_stride + g * kGroup);
        }
    }
    for (int b = 0; b < n_chunk; ++b) {
        const typename Tiles<Q>::W* q[G];
        for (int g = 0; g < G; ++g) q[g] = &w[g][b];
        __m256i dot[G][R];
        Tiles<Q>::template dot<G, R>(q, x_wide, x, args.n_cols, b, dot);
        for (int g = 0; g < G; ++g) {
            for (int r = 0; r < R; ++r) {
                acc[g][r] = add_block<Q>(acc[g][r], dot[g][r], w[g][b].d, w[g][b].m, dx + r * n_blocks + b,
                                         sx + r * n_blocks + b);
            }
        }
    }
    for (int g = 0; g < G; ++g) {
        for (int r = 0; r < R; ++r) _mm256_storeu_ps(y + r * args.y_stride + g * kGroup, acc[g][r]);
    }
}

template <class Q, int G>
void tile_groups(const MatmulArgs& args, int64_t block, int n_chunk, int64_t n, bool stream) {
    typename Tiles<Q>::W groups[G][Tiles<Q>::kChunk];
    const auto* weight = static_cast<const uint8_t*>(args.weight);
    const uint8_t* first = weight + n * args.weight_stride;
    const int64_t piece = G * kGroup * Q::kBytes;  // of a block of all the rows
    const uintptr_t ahead =
        prefetch_start(first, G * kGroup * args.weight_stride) + static_cast<uintptr_t>(block * piece);
    for (int b = 0; b < n_chunk; ++b) {
        if (stream) prefetch(ahead + static_cast<uintptr_t>(b * piece), piece);
        for (int g = 0; g < G; ++g) {
            const RowPointers p{first + g * kGroup * args.weight_stride, args.weight_stride};
            Q::load(p, (block + b) * Q::kBytes, groups[g][b]);
        }
    }
    int64_t row = 0, left = args.n_rows;
    // Tiles of one row are slow: the last rows are taken by threes and twos.
    for (; left >= kTileRows && left != 5 && left != 6 && left != 9; left -= kTileRows, row += kTileRows) {
        tile<Q, G, kTileRows>(args, groups, block, n_chunk, n, row);
    }
    for (; left >= 3; left -= 3, row += 3) tile<Q, G, 3>(args, groups, block, n_chunk, n, row);
    if (left == 2) tile<Q, G, 2>(args, groups, block, n_chunk, n, row);
    if (left == 1) tile<Q, G, 1>(args, groups, block, n_chunk, n, row);
}

// The rows of W in [begin, end), whole groups, for the blocks from `block` on.
template <class Q>
void tile_range(const MatmulArgs& args, int64_t block, int64_t begin, int64_t end, bool stream) {
    const int64_t left = args.n_cols / kBlockSize - block;
    constexpr int64_t kChunk = Tiles<Q>::kChunk;
    const int n_chunk = static_cast<int>(left < kChunk ? left : kChunk);
    int64_t n = begin;
    for (; n + kTileGroups * kGroup <= end; n += kTileGroups * kGroup) {
        tile_groups<Q, kTileGroups>(args, block, n_chunk, n, stream);
    }
    if (n < end) tile_groups<Q, 1>(args, block, n_chunk, n, stream);
}

constexpr int64_t kResident = 1 << 18;  // bytes of x that stay in the second-level cache

template <class Q>
void matmul_quantized(const MatmulArgs& args) {
    const int64_t n_blocks = args.n_cols / kBlockSize;
    int64_t tiled_end = args.row_begin;  // rows of W up to here are done by tiles
    if (args.n_rows > kStreamRows && n_blocks > 0) {
        tiled_end += (args.row_end - args.row_begin) / kGroup * kGroup;
        // Few rows of x: W is what must be read only once and from end to end. Many: all of W's rows meet a
        // chunk of x before the next, so that x is read once.
        const bool by_rows = args.n_rows * args.n_cols <= kResident;
        const int64_t step = by_rows ? kTileGroups * kGroup : tiled_end - args.row_begin;
        for (int64_t n = args.row_begin; n < tiled_end; n += step) {
            const int64_t end = n + step < tiled_end ? n + step : tiled_end;
            for (int64_t block = 0; block < n_blocks; block += Tiles<Q>::kChunk) {
                tile_range<Q>(args, block, n, end, by_rows);
            }
        }
    }
    if (tiled_end < args.row_end) stream_rows<Q>(args, tiled_end, args.row_end);
}

}  // namespace
}  // namespace chatglm::cpu
