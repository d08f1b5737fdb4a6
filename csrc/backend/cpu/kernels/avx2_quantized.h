// Products with quantized weights.
// Part of avx2.cpp, avxvnni.cpp and avx512.cpp and of no other file: see avx2.cpp why everything has internal
// linkage. Where CHATGLM_DPBUSD(sum, q, x) is defined it adds the products of four unsigned bytes with four
// signed ones to a lane's sum; the integers, and so the results, are the same without it.
#pragma once

#include "backend/cpu/kernels/avx2_blocks.h"
#include "backend/cpu/kernels/avx2_vector.h"
#include "backend/cpu/kernels/kernels.h"

namespace chatglm::cpu {
namespace {

// Eight rows of W at a time, one a lane: four bytes of x broadcast to all lanes meet four of each row in one
// multiply. There are no horizontal sums, the result is eight neighbours of y, and each lane adds its row's
// blocks one after another:
//     acc += d * (dx * dot(q, qx) - offset * sx)  or  acc += d * (dx * dot(q, qx)); acc += m * sx.
// A lane knows nothing of the others, so an element is the same in any tile. Few rows of x meet the rows of W
// as they lie (RowPairs): the dot products are the same integers, and so is what becomes of them.

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

// One block's contribution to acc, given its integer dot products. sx is that of the block, times the offset
// where there is one.
template <class Q>
CHATGLM_INLINE __m256 add_block(__m256 acc, __m256i dot, __m256 d, __m256 m, __m256 dx, __m256 sx) {
    const __m256 products = _mm256_cvtepi32_ps(dot);
    if constexpr (Q::kOffset != 0) return _mm256_fmadd_ps(d, _mm256_fmsub_ps(dx, products, sx), acc);
    acc = _mm256_fmadd_ps(d, _mm256_mul_ps(dx, products), acc);
    if constexpr (Q::kHasMin) acc = _mm256_fmadd_ps(m, sx, acc);
    return acc;
}

// dot[g][r]: a block of G groups times R rows of x; x[r] is the block's first element.
#ifdef CHATGLM_DPBUSD
// The products are added to dot.
template <class Q, int G, int R>
CHATGLM_INLINE void add_products(const __m256i* const q[G], const int8_t* const x[R], __m256i dot[G][R]) {
    CHATGLM_UNROLL
    for (int t = 0; t < kVectors; ++t) {
        __m256i w[G], magnitude[G];
        for (int g = 0; g < G; ++g) {
            w[g] = q[g][t];
            magnitude[g] = Q::kSigned ? _mm256_abs_epi8(w[g]) : w[g];
        }
        for (int r = 0; r < R; ++r) {
            const __m256i v = broadcast4(x[r] + 4 * t);
            for (int g = 0; g < G; ++g) {
                const __m256i signed_x = Q::kSigned ? _mm256_sign_epi8(v, w[g]) : v;  // x is never -128
                dot[g][r] = CHATGLM_DPBUSD(dot[g][r], magnitude[g], signed_x);
                CHATGLM_PIN(dot[g][r]);
            }
        }
    }
}

template <class Q, int G, int R>
CHATGLM_INLINE void dot_block(const __m256i* const q[G], const int8_t* const x[R], __m256i dot[G][R]) {
    for (int g = 0; g < G; ++g) {
        for (int r = 0; r < R; ++r) dot[g][r] = _mm256_setzero_si256();
    }
    add_products<Q, G, R>(q, x, dot);
}
#else
template <class Q, int G, int R>
CHATGLM_INLINE void dot_block(const __m256i* const q[G], const int8_t* const x[R], __m256i dot[G][R]) {
    if constexpr (Q::kRun != kVectors) {
        for (int g = 0; g < G; ++g) {
            for (int r = 0; r < R; ++r) dot[g][r] = _mm256_setzero_si256();
        }
    }
    for (int run = 0; run < kVectors; run += Q::kRun) {
        __m256i sums[G][R];
        CHATGLM_UNROLL
        for (int t = run; t < run + Q::kRun; ++t) {
            __m256i w[G];
            for (int g = 0; g < G; ++g) w[g] = q[g][t];
            for (int r = 0; r < R; ++r) {
                const __m256i v = broadcast4(x[r] + 4 * t);
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
                dot[g][r] = Q::kRun == kVectors ? wide : _mm256_add_epi32(dot[g][r], wide);
            }
        }
    }
}
#endif

// Sums of neighbours in a and b, in units of 32 bits, whose elements the four lanes of a half hold
// alternately: a, b, a, b. Sums of 16 bits stay two apart.
template <bool kWide>
CHATGLM_INLINE __m256i merge(__m256i a, __m256i b) {
    const __m256i lo = _mm256_unpacklo_epi32(a, b), hi = _mm256_unpackhi_epi32(a, b);
    return kWide ? _mm256_add_epi32(lo, hi) : _mm256_add_epi16(lo, hi);
}
template <bool kWide>
CHATGLM_INLINE __m256i merge_again(__m256i ab, __m256i cd) {
    const __m256i lo = _mm256_unpacklo_epi64(ab, cd), hi = _mm256_unpackhi_epi64(ab, cd);
    return kWide ? _mm256_add_epi32(lo, hi) : _mm256_add_epi16(lo, hi);
}

// The dot products of a block of eight rows, a row a lane, with the 32 bytes at x. Horizontal sums cost less
// than transposing eight rows for one row of x does, and x is two loads instead of eight.
template <class Q>
CHATGLM_INLINE __m256i dot_pairs(const RowPairs& w, const int8_t* x) {
    const auto* halves = reinterpret_cast<const __m128i*>(x);
    const __m256i x_lo = _mm256_broadcastsi128_si256(_mm_loadu_si128(halves));
    const __m256i x_hi = _mm256_broadcastsi128_si256(_mm_loadu_si128(halves + 1));
    __m256i v[kPairs];
#ifdef CHATGLM_DPBUSD
    for (int i = 0; i < kPairs; ++i) {
        const __m256i lo = Q::kSigned ? _mm256_abs_epi8(w.lo[i]) : w.lo[i];
        const __m256i hi = Q::kSigned ? _mm256_abs_epi8(w.hi[i]) : w.hi[i];
        v[i] =
            CHATGLM_DPBUSD(_mm256_setzero_si256(), lo, Q::kSigned ? _mm256_sign_epi8(x_lo, w.lo[i]) : x_lo);
        v[i] = CHATGLM_DPBUSD(v[i], hi, Q::kSigned ? _mm256_sign_epi8(x_hi, w.hi[i]) : x_hi);
    }
    return merge_again<true>(merge<true>(v[0], v[1]), merge<true>(v[2], v[3]));
#else
    // A sum of 16 bits ends with as many products as a run of dot_block() has.
    static_assert(Q::kSigned || Q::kRun == kVectors);
    for (int i = 0; i < kPairs; ++i) {
        const __m256i lo = multiply<Q>(w.lo[i], x_lo), hi = multiply<Q>(w.hi[i], x_hi);
        v[i] = Q::kSigned ? _mm256_add_epi32(widen_pairs(lo), widen_pairs(hi)) : _mm256_add_epi16(lo, hi);
    }
    const __m256i a = merge<Q::kSigned>(v[0], v[1]), b = merge<Q::kSigned>(v[2], v[3]);
    const __m256i sums = merge_again<Q::kSigned>(a, b);
    return Q::kSigned ? sums : widen_pairs(sums);
#endif
}

// Up to kStreamRows rows of x: the weights are unpacked in registers and used at once, R times.
template <class Q>
constexpr int kStreamRows = Q::kPairedRows > 3 ? Q::kPairedRows : 3;

// How W is held, and a block's dot products of a group with R rows of x.
template <class Q, bool kPaired>
struct Stream {
    using W = Group;
    template <int R>
    CHATGLM_INLINE void dot(const W& w, const int8_t* const x[R], __m256i sums[1][R]) {
        const __m256i* q = w.q;
        dot_block<Q, 1, R>(&q, x, sums);
    }
};

template <class Q>
struct Stream<Q, true> {
    using W = RowPairs;
    template <int R>
    CHATGLM_INLINE void dot(const W& w, const int8_t* const x[R], __m256i sums[1][R]) {
        for (int r = 0; r < R; ++r) sums[0][r] = dot_pairs<Q>(w, x[r]);
    }
};

// acc[r] are eight neighbours of y in row `row` + r.
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
        typename Stream<Q, (R <= Q::kPairedRows)>::W w;
        Q::load(p, b * Q::kBytes, w);
        const int8_t* rows[R];
        for (int r = 0; r < R; ++r) rows[r] = x + r * args.n_cols + b * kBlockSize;
        __m256i dot[1][R];
        Stream<Q, (R <= Q::kPairedRows)>::template dot<R>(w, rows, dot);
        for (int r = 0; r < R; ++r) {
            __m256 s = _mm256_broadcast_ss(sx + r * n_blocks + b);
            if constexpr (Q::kOffset != 0)
                s = _mm256_mul_ps(s, _mm256_set1_ps(static_cast<float>(Q::kOffset)));
            acc[r] = add_block<Q>(acc[r], dot[0][r], w.d, w.m, _mm256_broadcast_ss(dx + r * n_blocks + b), s);
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

// Rows [row, row + count) of x.
template <class Q, int R = kStreamRows<Q>>
void stream_count(const MatmulArgs& args, int64_t begin, int64_t end, int64_t row, int64_t count) {
    if (count >= R) return stream<Q, R>(args, begin, end, row);
    if constexpr (R > 1) stream_count<Q, R - 1>(args, begin, end, row, count);
}

template <class Q>
void stream_rows(const MatmulArgs& args, int64_t begin, int64_t end) {
    for (int64_t row = 0; row < args.n_rows; row += kStreamRows<Q>) {
        stream_count<Q>(args, begin, end, row, args.n_rows - row);
    }
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
    // The sums of x times the offset, where there is one: (R, kChunk).
    struct X {
        alignas(32) float sx[kTileRows][kChunk];
    };
    template <int R>
    CHATGLM_INLINE void load(X& x, const int8_t*, const float*, const float* sx, int64_t n_blocks,
                             int n_chunk) {
        if constexpr (Q::kOffset == 0) return;
        const __m256 offset = _mm256_set1_ps(static_cast<float>(Q::kOffset));
        for (int r = 0; r < R; ++r) {
            for (int b = 0; b < n_chunk; b += 8) {
                const int n = n_chunk - b < 8 ? n_chunk - b : 8;
                _mm256_store_ps(x.sx[r] + b, _mm256_mul_ps(offset, load_tail(sx + r * n_blocks + b, n)));
            }
        }
    }
    template <int G, int R>
    CHATGLM_INLINE void dot(const W* const w[G], const X&, const int8_t* const x[R], int,
                            __m256i sums[G][R]) {
        const __m256i* q[G];
        for (int g = 0; g < G; ++g) q[g] = w[g]->q;
        dot_block<Q, G, R>(q, x, sums);
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
    CHATGLM_INLINE void dot(const W* const w[G], const X& x, const int8_t* const xq[R], int b,
                            __m256i sums[G][R]) {
        const __m256i* q[G];
        for (int g = 0; g < G; ++g) {
            q[g] = w[g]->q;
            for (int r = 0; r < R; ++r) sums[g][r] = _mm256_set1_epi32(x.start[r][b]);
        }
        add_products<Unsigned, G, R>(q, xq, sums);
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
    CHATGLM_INLINE void dot(const W* const w[G], const X& x, const int8_t* const*, int b,
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

// A block's scale or sum of up to four rows of x: each is an address that an instruction can compute.
struct BlockNumbers {
    uintptr_t first;
    int64_t stride, stride3;  // bytes

    BlockNumbers(const float* first_row, int64_t n_blocks)
        : first(reinterpret_cast<uintptr_t>(first_row)),
          stride(n_blocks * static_cast<int64_t>(sizeof(float))),
          stride3(3 * stride) {
        CHATGLM_OPAQUE(stride);
        CHATGLM_OPAQUE(stride3);
    }
    __m256 operator[](int r) const {
        const int64_t offset = r == 0 ? 0 : r == 1 ? stride : r == 2 ? 2 * stride : stride3;
        return _mm256_broadcast_ss(reinterpret_cast<const float*>(first + static_cast<uintptr_t>(offset)));
    }
    void next() {
        first += sizeof(float);
        CHATGLM_OPAQUE(first);
    }
};

template <class Q, int G, int R>
void tile(const MatmulArgs& args, const typename Tiles<Q>::W (*w)[Tiles<Q>::kChunk], int64_t block,
          int n_chunk, int64_t n, int64_t row) {
    const int64_t n_blocks = args.n_cols / kBlockSize;
    const int8_t* x[R];
    for (int r = 0; r < R; ++r) x[r] = args.xq.q + (row + r) * args.n_cols + block * kBlockSize;
    const float* dx = args.xq.d + row * n_blocks + block;
    const float* sx = args.xq.s + row * n_blocks + block;
    float* y = args.y + row * args.y_stride + n;
    typename Tiles<Q>::X x_tile;
    Tiles<Q>::template load<R>(x_tile, x[0], dx, sx, n_blocks, n_chunk);
    __m256 acc[G][R];
    for (int g = 0; g < G; ++g) {
        for (int r = 0; r < R; ++r) {
            acc[g][r] =
                block == 0 ? _mm256_setzero_ps() : _mm256_loadu_ps(y + r * args.y_stride + g * kGroup);
        }
    }
    BlockNumbers scales(dx, n_blocks), block_sums(sx, n_blocks);
    for (int b = 0; b < n_chunk; ++b) {
        const typename Tiles<Q>::W* group[G];
        for (int g = 0; g < G; ++g) group[g] = &w[g][b];
        __m256i dot[G][R];
        Tiles<Q>::template dot<G, R>(group, x_tile, x, b, dot);
        for (int r = 0; r < R; ++r) {
            __m256 s = _mm256_setzero_ps();
            if constexpr (Q::kOffset != 0) s = _mm256_broadcast_ss(&x_tile.sx[r][b]);
            if constexpr (Q::kHasMin) s = block_sums[r];
            for (int g = 0; g < G; ++g) {
                acc[g][r] = add_block<Q>(acc[g][r], dot[g][r], group[g]->d, group[g]->m, scales[r], s);
            }
            x[r] += kBlockSize;
            CHATGLM_OPAQUE(x[r]);
        }
        scales.next();
        block_sums.next();
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
// Rows of x at once where there are more: their chunk and the sums of all rows of W stay there, too.
constexpr int64_t kSlab = 128;

// Rows of W up to `end`, whole groups. Few rows of x: W is what must be read only once and from end to end.
// Many: all of W's rows meet a chunk of x before the next, so that x is read once.
template <class Q>
void tile_slab(const MatmulArgs& args, int64_t end) {
    const int64_t n_blocks = args.n_cols / kBlockSize;
    const bool by_rows = args.n_rows * args.n_cols <= kResident;
    const int64_t step = by_rows ? kTileGroups * kGroup : end - args.row_begin;
    for (int64_t n = args.row_begin; n < end; n += step) {
        for (int64_t block = 0; block < n_blocks; block += Tiles<Q>::kChunk) {
            tile_range<Q>(args, block, n, n + step < end ? n + step : end, by_rows);
        }
    }
}

template <class Q>
void matmul_quantized(const MatmulArgs& args) {
    const int64_t n_blocks = args.n_cols / kBlockSize;
    int64_t tiled_end = args.row_begin;  // rows of W up to here are done by tiles
    if (args.n_rows > kStreamRows<Q> && n_blocks > 0) {
        tiled_end += (args.row_end - args.row_begin) / kGroup * kGroup;
        const int64_t n_slabs = (args.n_rows + kSlab - 1) / kSlab;
        const int64_t share = (args.n_rows + n_slabs - 1) / n_slabs;
        const int64_t per_slab = (share + kTileRows - 1) / kTileRows * kTileRows;
        for (int64_t row = 0; row < args.n_rows; row += per_slab) {
            MatmulArgs slab = args;
            slab.n_rows = per_slab < args.n_rows - row ? per_slab : args.n_rows - row;
            slab.xq.q += row * args.n_cols;
            slab.xq.d += row * n_blocks;
            slab.xq.s += row * n_blocks;
            slab.y += row * args.y_stride;
            tile_slab<Q>(slab, tiled_end);
        }
    }
    if (tiled_end < args.row_end) stream_rows<Q>(args, tiled_end, args.row_end);
}

}  // namespace
}  // namespace chatglm::cpu
