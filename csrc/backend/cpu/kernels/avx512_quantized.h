// Products with quantized weights.
// Part of avx512.cpp and of no other file: see avx2.cpp why everything has internal linkage.
#pragma once

#include "backend/cpu/kernels/avx2_quantized.h"
#include "backend/cpu/kernels/avx512_vector.h"
#include "backend/cpu/kernels/kernels.h"

namespace chatglm::cpu {
namespace {
namespace avx512 {

// As with AVX2, but sixteen rows of W at a time, one a 32-bit lane: vector t of a block holds elements
// 4t .. 4t+3 of every row, and vpdpbusd adds their products with four broadcast bytes of x to the lane's sum.
// It wants unsigned weights, so q is stored plus Q::kOffset, and a block's sum starts at
// -kOffset * sum of the block's x. It is exact; then
//     acc += d * (dx * sum)  or  acc += d * (dx * sum); acc += m * sx.
// A lane knows nothing of the others, so an element is the same in any tile.

constexpr int kGroup = 16;   // rows of W in a vector
constexpr int kVectors = 8;  // vectors of a block: 32 elements, 4 a lane

struct Group {
    __m512i q[kVectors];
    __m512 d, m;
};

// Sixteen rows at some column. Every fourth row has a pointer, so that registers hold all of them.
struct Cursor {
    const uint8_t* quarter[4];
    int64_t stride;  // 0 repeats one row in all lanes

    Cursor(const uint8_t* first, int64_t row_stride) : stride(row_stride) {
        for (int k = 0; k < 4; ++k) quarter[k] = first + 4 * k * stride;
        pin();
    }
    CHATGLM_MEMBER const uint8_t* operator[](int i) const { return quarter[i / 4] + i % 4 * stride; }
    CHATGLM_MEMBER void advance(int64_t bytes) {
        for (const uint8_t*& p : quarter) p += bytes;
        pin();
    }
    // Eight rows, two blocks of each: the second takes the place of rows 8 to 15.
    static Cursor over_pairs(const uint8_t* first, int64_t row_stride, int64_t block_bytes) {
        Cursor p(first, row_stride);
        for (int k = 0; k < 2; ++k) p.quarter[k + 2] = p.quarter[k] + block_bytes;
        p.pin();
        return p;
    }
    // Compilers would otherwise keep sixteen pointers, most of them in memory.
    CHATGLM_MEMBER void pin() {
        for (const uint8_t*& p : quarter) CHATGLM_PIN_POINTER(p);
    }
};

// Sixteen rows of W from `first` on, of which those in `lanes` are to be computed.
struct Rows {
    const uint8_t* p;
    int64_t stride;
    int64_t first;
    __mmask16 lanes;
};

// The next rows of W in [n, end) and how many they are. The last of a range share their vector with rows
// before them; at the start of W, where there are too few, each goes alone in all lanes.
template <int N = kGroup>
CHATGLM_INLINE Rows rows_at(const MatmulArgs& args, int64_t n, int64_t end, int64_t& count) {
    constexpr unsigned kAll = (1u << N) - 1;
    const auto* weight = static_cast<const uint8_t*>(args.weight);
    Rows rows{weight, args.weight_stride, n, kAll};
    count = N;
    if (end - n < N && end >= N) {
        count = end - n;
        rows.first = end - N;
        rows.lanes = static_cast<__mmask16>(kAll & kAll << (N - count));
    } else if (end - n < N) {
        count = 1;
        rows.stride = 0;
        rows.lanes = 1;
    }
    rows.p += rows.first * args.weight_stride;
    return rows;
}

CHATGLM_INLINE int32_t load_word(const void* p) {
    int32_t v;
    std::memcpy(&v, p, 4);
    return v;
}

// The 4 bytes at p + offset of rows i, i + step, i + 2 step and i + 3 step.
CHATGLM_INLINE __m128i load_four_words(const Cursor& p, int i, int step, int offset) {
    __m128i v = _mm_loadu_si32(p[i] + offset);
    v = _mm_insert_epi32(v, load_word(p[i + step] + offset), 1);
    v = _mm_insert_epi32(v, load_word(p[i + 2 * step] + offset), 2);
    return _mm_insert_epi32(v, load_word(p[i + 3 * step] + offset), 3);
}

CHATGLM_INLINE __m256i combine(__m128i low, __m128i high) {
    return _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1);
}

// The 16 bytes at p + offset of rows i, i + 4, i + 8 and i + 12.
CHATGLM_INLINE __m512i load_quarters(const Cursor& p, int i, int offset) {
    const __m256i low = combine(load16(p[i] + offset), load16(p[i + 4] + offset));
    const __m256i high = combine(load16(p[i + 8] + offset), load16(p[i + 12] + offset));
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

// out[t]: bytes 4t .. 4t+3 of the 16 at each of the rows' p + offset.
CHATGLM_INLINE void transpose16(const Cursor& p, int offset, __m512i out[4]) {
    const __m512i a = load_quarters(p, 0, offset), b = load_quarters(p, 1, offset);
    const __m512i c = load_quarters(p, 2, offset), d = load_quarters(p, 3, offset);
    const __m512i ab_lo = _mm512_unpacklo_epi32(a, b), ab_hi = _mm512_unpackhi_epi32(a, b);
    const __m512i cd_lo = _mm512_unpacklo_epi32(c, d), cd_hi = _mm512_unpackhi_epi32(c, d);
    out[0] = _mm512_unpacklo_epi64(ab_lo, cd_lo);
    out[1] = _mm512_unpackhi_epi64(ab_lo, cd_lo);
    out[2] = _mm512_unpacklo_epi64(ab_hi, cd_hi);
    out[3] = _mm512_unpackhi_epi64(ab_hi, cd_hi);
}

// The rows' 4 bytes at p + offset.
CHATGLM_INLINE __m512i load_words(const Cursor& p, int offset) {
    const __m256i low = combine(load_four_words(p, 0, 1, offset), load_four_words(p, 4, 1, offset));
    const __m256i high = combine(load_four_words(p, 8, 1, offset), load_four_words(p, 12, 1, offset));
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

// The half floats that a block of each row starts with: one, or two with a minimum.
template <bool kHasMin>
CHATGLM_INLINE void load_scales(const Cursor& p, Group& g) {
    __m128i d[2], m[2];
    for (int k = 0; k < 2; ++k) {
        const __m128i even = load_four_words(p, 8 * k, 2, 0), odd = load_four_words(p, 8 * k + 1, 2, 0);
        d[k] = _mm_blend_epi16(even, _mm_slli_epi32(odd, 16), 0xaa);
        m[k] = _mm_blend_epi16(_mm_srli_epi32(even, 16), odd, 0xaa);
    }
    g.d = _mm512_cvtph_ps(combine(d[0], d[1]));
    if constexpr (kHasMin) g.m = _mm512_cvtph_ps(combine(m[0], m[1]));
}

CHATGLM_INLINE void load_nibbles(const Cursor& p, int offset, __m512i q[kVectors]) {
    const __m512i mask = _mm512_set1_epi8(15);
    __m512i bytes[4];
    transpose16(p, offset, bytes);
    for (int t = 0; t < 4; ++t) {
        q[t] = _mm512_and_si512(bytes[t], mask);
        q[t + 4] = _mm512_and_si512(_mm512_srli_epi16(bytes[t], 4), mask);
    }
}

// Adds 16 to element j of q where bit j of the row's word is set.
CHATGLM_INLINE void add_fifth_bits(__m512i words, __m512i q[kVectors]) {
    const __m512i sixteen = _mm512_set1_epi8(16);
    for (int byte = 0; byte < 4; ++byte) {
        const __m512i spread = _mm512_shuffle_epi8(
            words, _mm512_set4_epi32(0x0c0c0c0c + 0x01010101 * byte, 0x08080808 + 0x01010101 * byte,
                                     0x04040404 + 0x01010101 * byte, 0x01010101 * byte));
        for (int half = 0; half < 2; ++half) {
            const __m512i bits = _mm512_set1_epi32(half ? static_cast<int>(0x80402010u) : 0x08040201);
            __m512i& v = q[2 * byte + half];
            v = _mm512_mask_add_epi8(v, _mm512_test_epi8_mask(spread, bits), v, sixteen);
        }
    }
}

// q[h][i]: elements 16 h .. 16 h + 15 of rows i, i + 4, i + 8 and i + 12, as load_quarters orders them.
CHATGLM_INLINE void load_nibble_rows(const Cursor& p, int offset, __m512i q[2][4]) {
    const __m512i mask = _mm512_set1_epi8(15);
    for (int i = 0; i < 4; ++i) {
        const __m512i bytes = load_quarters(p, i, offset);
        q[0][i] = _mm512_and_si512(bytes, mask);
        q[1][i] = _mm512_and_si512(_mm512_srli_epi16(bytes, 4), mask);
    }
}

// kOffset: added to each q; kHasMin: adds m; kByRows: one row of x meets the rows of W as they lie. The fifth
// bits of Q5 are spread faster over transposed rows, and for one row of x Q8_0 has AVX2. kStreams: so many
// tiles of x at most stream past W; with more, unpacking W once pays.
struct Q4_0 {
    static constexpr int kBytes = sizeof(BlockQ4_0), kOffset = 8, kStreams = 3;
    static constexpr bool kHasMin = false, kByRows = true;
    CHATGLM_INLINE void load(const Cursor& p, Group& g) {
        load_scales<kHasMin>(p, g);
        load_nibbles(p, 2, g.q);
    }
    CHATGLM_INLINE void load_rows(const Cursor& p, __m512i q[2][4]) { load_nibble_rows(p, 2, q); }
};

struct Q4_1 {
    static constexpr int kBytes = sizeof(BlockQ4_1), kOffset = 0, kStreams = 3;
    static constexpr bool kHasMin = true, kByRows = true;
    CHATGLM_INLINE void load(const Cursor& p, Group& g) {
        load_scales<kHasMin>(p, g);
        load_nibbles(p, 4, g.q);
    }
    CHATGLM_INLINE void load_rows(const Cursor& p, __m512i q[2][4]) { load_nibble_rows(p, 4, q); }
};

struct Q5_0 {
    static constexpr int kBytes = sizeof(BlockQ5_0), kOffset = 16, kStreams = 2;
    static constexpr bool kHasMin = false, kByRows = false;
    CHATGLM_INLINE void load(const Cursor& p, Group& g) {
        load_scales<kHasMin>(p, g);
        load_nibbles(p, 6, g.q);
        add_fifth_bits(load_words(p, 2), g.q);
    }
};

struct Q5_1 {
    static constexpr int kBytes = sizeof(BlockQ5_1), kOffset = 0, kStreams = 2;
    static constexpr bool kHasMin = true, kByRows = false;
    CHATGLM_INLINE void load(const Cursor& p, Group& g) {
        load_scales<kHasMin>(p, g);
        load_nibbles(p, 8, g.q);
        add_fifth_bits(load_words(p, 4), g.q);
    }
};

struct Q8_0 {
    static constexpr int kBytes = sizeof(BlockQ8_0), kOffset = 128, kStreams = 3;
    static constexpr bool kHasMin = false, kByRows = false;
    CHATGLM_INLINE void load(const Cursor& p, Group& g) {
        const __m512i signs = _mm512_set1_epi8(static_cast<char>(0x80));
        load_scales<kHasMin>(p, g);
        transpose16(p, 2, g.q);
        transpose16(p, 18, g.q + 4);
        for (__m512i& v : g.q) v = _mm512_xor_si512(v, signs);
    }
};

// A block of R rows of x. All that a block of W meets lies together, behind one address; rows as they come
// often lie a multiple of 4096 bytes apart, and push each other out of the nearest cache.
template <int R>
struct XBlock {
    int8_t q[R][kBlockSize];
    int32_t start[R];  // -kOffset * sum of q: where the sums start
    float d[R], s[R];
};
constexpr int64_t kXBytes = sizeof(XBlock<1>);  // of each row

// Columns [block, block + n_blocks) of rows [row, row + n_rows) of x, packed in tiles of about as many rows:
// small ones are slow. y carries the sums from one such part of the columns to the next.
struct Input {
    int64_t row, n_rows, n_tiles, block, n_blocks;
    uint8_t* packed;  // n_rows * n_blocks * kXBytes
};

// Calls f(rows, first row, blocks) for each of the tiles.
template <int kMaxRows, class F>
CHATGLM_INLINE void for_each_tile(const Input& x, F f) {
    for (int64_t i = 0; i < x.n_tiles; ++i) {
        const int64_t begin = x.n_rows * i / x.n_tiles, end = x.n_rows * (i + 1) / x.n_tiles;
        uint8_t* blocks = x.packed + begin * x.n_blocks * kXBytes;
        with_count<kMaxRows>(end - begin, [&](auto rows) {
            f(rows, x.row + begin, reinterpret_cast<XBlock<decltype(rows)::value>*>(blocks));
        });
    }
}

// start[i] = -offset * sum of block i's q, for up to eight blocks.
constexpr int64_t kStarts = 8;

CHATGLM_INLINE void fill_start(const int8_t* q, int64_t n, int offset, int32_t* start) {
    const __m256i factor = _mm256_set1_epi8(static_cast<char>(offset));
    __m256i v[kStarts], four[2];
    for (int i = 0; i < kStarts; ++i) {
        const int64_t block = i < n ? i : n - 1;
        const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(q + block * kBlockSize));
        v[i] = _mm256_dpbusd_epi32(_mm256_setzero_si256(), factor, x);
    }
    for (int i = 0; i < 2; ++i) {
        four[i] = _mm256_hadd_epi32(_mm256_hadd_epi32(v[4 * i], v[4 * i + 1]),
                                    _mm256_hadd_epi32(v[4 * i + 2], v[4 * i + 3]));
    }
    const __m256i sums = _mm256_add_epi32(_mm256_permute2x128_si256(four[0], four[1], 0x20),
                                          _mm256_permute2x128_si256(four[0], four[1], 0x31));
    const auto lanes = static_cast<__mmask8>((1u << n) - 1);
    _mm256_mask_storeu_epi32(start, lanes, _mm256_sub_epi32(_mm256_setzero_si256(), sums));
}

template <class Q, int kMaxRows>
CHATGLM_NOINLINE void pack(const MatmulArgs& args, const Input& x) {
    for_each_tile<kMaxRows>(x, [&](auto rows, int64_t row, auto* out) {
        for (int r = 0; r < decltype(rows)::value; ++r) {
            const int64_t first = (row + r) * (args.n_cols / kBlockSize) + x.block;
            const int8_t* q = args.xq.q + first * kBlockSize;
            for (int64_t b = 0; b < x.n_blocks; b += kStarts) {
                const int64_t n = x.n_blocks - b < kStarts ? x.n_blocks - b : kStarts;
                int32_t start[kStarts] = {};
                if constexpr (Q::kOffset != 0) fill_start(q + b * kBlockSize, n, Q::kOffset, start);
                for (int64_t i = 0; i < n; ++i) {
                    auto& block = out[b + i];
                    std::memcpy(block.q[r], q + (b + i) * kBlockSize, kBlockSize);
                    block.start[r] = start[i];
                    block.d[r] = args.xq.d[first + b + i];
                    if constexpr (Q::kHasMin) block.s[r] = args.xq.s[first + b + i];
                }
            }
        }
    });
}

// sum[g][r]: a block of G groups times R rows of x. Few sums are made in two halves, which wait for each
// other half as long.
template <class Q, int G, int R>
CHATGLM_INLINE void dot_block(const __m512i* const q[G], const XBlock<R>& x, __m512i sum[G][R]) {
    constexpr int kHalves = G * R <= 2 ? 2 : 1;  // 28.5 GB/s of q4_0 from the second-level cache, not 27
    __m512i part[kHalves][G][R];
    for (int g = 0; g < G; ++g) {
        for (int r = 0; r < R; ++r) {
            part[kHalves - 1][g][r] = _mm512_setzero_si512();
            part[0][g][r] = Q::kOffset != 0 ? _mm512_set1_epi32(x.start[r]) : _mm512_setzero_si512();
        }
    }
    CHATGLM_UNROLL
    for (int t = 0; t < kVectors; ++t) {
        __m512i w[G];
        for (int g = 0; g < G; ++g) w[g] = q[g][t];
        for (int r = 0; r < R; ++r) {
            __m512i v = _mm512_set1_epi32(load_word(x.q[r] + 4 * t));
            if (G > 1) CHATGLM_PIN_ZMM(v);
            for (int g = 0; g < G; ++g) {
                __m512i& s = part[t % kHalves][g][r];
                s = _mm512_dpbusd_epi32(s, w[g], v);
            }
        }
    }
    for (int g = 0; g < G; ++g) {
        for (int r = 0; r < R; ++r) {
            sum[g][r] =
                kHalves == 2 ? _mm512_add_epi32(part[0][g][r], part[kHalves - 1][g][r]) : part[0][g][r];
        }
    }
}

// By reference, as there is no sx without a minimum.
template <class Q>
CHATGLM_INLINE __m512 add_block(__m512 acc, __m512i sum, const Group& group, const float& dx,
                                const float& sx) {
    acc = _mm512_fmadd_ps(group.d, _mm512_mul_ps(_mm512_set1_ps(dx), _mm512_cvtepi32_ps(sum)), acc);
    if constexpr (Q::kHasMin) acc = _mm512_fmadd_ps(group.m, _mm512_set1_ps(sx), acc);
    return acc;
}

CHATGLM_INLINE __m512 load_sums(const MatmulArgs& args, const Rows& w, int64_t row, bool first) {
    if (first) return _mm512_setzero_ps();
    return _mm512_maskz_loadu_ps(w.lanes, args.y + row * args.y_stride + w.first);
}

CHATGLM_INLINE void store_sums(const MatmulArgs& args, const Rows& w, int64_t row, __m512 acc) {
    _mm512_mask_storeu_ps(args.y + row * args.y_stride + w.first, w.lanes, acc);
}

// Few rows of x: the weights are unpacked in registers and used at once, R times. Ten sums of integers, as
// many of floats and eight vectors of W leave 4 of 32 registers.
constexpr int kStreamRows = 10;

template <class Q, int R>
CHATGLM_NOINLINE void stream(const MatmulArgs& args, const Input& input, int64_t row, const XBlock<R>* x) {
    int64_t count;
    for (int64_t n = args.row_begin; n < args.row_end; n += count) {
        const Rows w = rows_at(args, n, args.row_end, count);
        const uintptr_t ahead = prefetch_start(w.p, kGroup * args.weight_stride);
        Cursor p(w.p + input.block * Q::kBytes, w.stride);
        __m512 acc[R];
        for (int r = 0; r < R; ++r) acc[r] = load_sums(args, w, row + r, input.block == 0);
        for (int64_t b = 0; b < input.n_blocks; ++b) {
            prefetch(ahead + static_cast<uintptr_t>((input.block + b) * kGroup * Q::kBytes),
                     kGroup * Q::kBytes);
            Group group;
            __m512i sum[1][R];
            Q::load(p, group);
            const __m512i* q = group.q;
            dot_block<Q, 1, R>(&q, x[b], sum);
            p.advance(Q::kBytes);
            for (int r = 0; r < R; ++r) {
                acc[r] = add_block<Q>(acc[r], sum[0][r], group, x[b].d[r], x[b].s[r]);
            }
        }
        for (int r = 0; r < R; ++r) store_sums(args, w, row + r, acc[r]);
    }
}

// More tiles of x than one meet a run of W in turns, all but the first out of the nearest caches. Unpacking
// it again costs less than keeping it unpacked does.
constexpr int64_t kTurn = 2 * kGroup;   // rows of W
constexpr int64_t kPacked = 132 << 10;  // bytes of the stack: 96 rows of 32 blocks, or 24 of 4096 columns

template <class Q>
CHATGLM_NOINLINE void stream_in_turns(const MatmulArgs& args) {
    alignas(64) uint8_t packed[kPacked];
    const int64_t n_blocks = args.n_cols / kBlockSize;
    const int64_t fit = kPacked / kXBytes / args.n_rows;
    const int64_t n_parts = n_blocks > fit ? (n_blocks + fit - 1) / fit : 1;
    for (int64_t i = 0; i < n_parts; ++i) {
        const int64_t begin = n_blocks * i / n_parts, end = n_blocks * (i + 1) / n_parts;
        const int64_t n_tiles = (args.n_rows + kStreamRows - 1) / kStreamRows;
        const Input x{0, args.n_rows, n_tiles, begin, end - begin, packed};
        pack<Q, kStreamRows>(args, x);
        MatmulArgs run = args;
        for (int64_t n = args.row_begin; n < args.row_end; n += kTurn) {
            run.row_begin = n;
            run.row_end = n + kTurn < args.row_end ? n + kTurn : args.row_end;
            for_each_tile<kStreamRows>(x, [&](auto rows, int64_t row, const auto* blocks) {
                stream<Q, decltype(rows)::value>(run, x, row, blocks);
            });
        }
    }
}

// One row of x meets the rows of W as they lie: adding up the four sums of each row of W afterwards is less
// work than transposing its elements before. A vector holds two blocks of eight rows, not one of sixteen, as
// memory is read faster along fewer rows.

struct OneRow {
    const int8_t* q;
    const float *d, *s;
    const int32_t* start;
};

// Lanes 0-7 from a, 8-15 from b.
CHATGLM_INLINE __m512 two_floats(float a, float b) {
    return _mm512_mask_mov_ps(_mm512_set1_ps(a), 0xff00, _mm512_set1_ps(b));
}

CHATGLM_INLINE __m256 high_half(__m512 v) {
    return _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(v), 1));
}

// Adds the products of blocks b and `second` of eight rows to acc; of b alone when they are the same.
template <class Q>
CHATGLM_INLINE __m256 add_pair(__m256 acc, const Cursor& p, const OneRow& x, int64_t b, int64_t second) {
    const auto* q = reinterpret_cast<const __m256i*>(x.q);
    const __m512i both = _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_loadu_si256(q + b)),
                                            _mm256_loadu_si256(q + second), 1);
    const __m512i low = _mm512_shuffle_i32x4(both, both, 0xa0), high = _mm512_shuffle_i32x4(both, both, 0xf5);
    __m512i w[2][4], sum[4];
    Q::load_rows(p, w);
    for (int i = 0; i < 4; ++i) {
        sum[i] = _mm512_dpbusd_epi32(_mm512_setzero_si512(), w[0][i], low);
        sum[i] = _mm512_dpbusd_epi32(sum[i], w[1][i], high);
    }
    const __m512i ab =
        _mm512_add_epi32(_mm512_unpacklo_epi32(sum[0], sum[1]), _mm512_unpackhi_epi32(sum[0], sum[1]));
    const __m512i cd =
        _mm512_add_epi32(_mm512_unpacklo_epi32(sum[2], sum[3]), _mm512_unpackhi_epi32(sum[2], sum[3]));
    __m512i all = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
    if constexpr (Q::kOffset != 0) {
        const __m512i start = _mm512_mask_set1_epi32(_mm512_set1_epi32(x.start[b]), 0xff00, x.start[second]);
        all = _mm512_add_epi32(all, start);
    }
    const __m512 v = _mm512_mul_ps(two_floats(x.d[b], x.d[second]), _mm512_cvtepi32_ps(all));
    Group group;
    load_scales<Q::kHasMin>(p, group);
    acc = _mm256_fmadd_ps(_mm512_castps512_ps256(group.d), _mm512_castps512_ps256(v), acc);
    if constexpr (Q::kHasMin) {
        acc = _mm256_fmadd_ps(_mm512_castps512_ps256(group.m), _mm256_set1_ps(x.s[b]), acc);
    }
    if (second == b) return acc;
    acc = _mm256_fmadd_ps(high_half(group.d), high_half(v), acc);
    if constexpr (Q::kHasMin) acc = _mm256_fmadd_ps(high_half(group.m), _mm256_set1_ps(x.s[second]), acc);
    return acc;
}

template <class Q>
CHATGLM_NOINLINE void stream_one(const MatmulArgs& args, const OneRow& x, int64_t block, int64_t n_blocks) {
    constexpr int kRows = 8;
    int64_t count;
    for (int64_t n = args.row_begin; n < args.row_end; n += count) {
        const Rows w = rows_at<kRows>(args, n, args.row_end, count);
        const auto lanes = static_cast<__mmask8>(w.lanes);
        float* y = args.y + w.first;
        const uintptr_t ahead = prefetch_start(w.p, kRows * args.weight_stride);
        const uint8_t* first = w.p + block * Q::kBytes;
        Cursor p = Cursor::over_pairs(first, w.stride, Q::kBytes);
        __m256 acc = block == 0 ? _mm256_setzero_ps() : _mm256_maskz_loadu_ps(lanes, y);
        int64_t b = 0;
        for (; b + 2 <= n_blocks; b += 2) {
            constexpr int64_t kBytes = 2 * kRows * Q::kBytes;
            prefetch(ahead + static_cast<uintptr_t>((block + b) / 2 * kBytes), kBytes);
            acc = add_pair<Q>(acc, p, x, b, b + 1);
            p.advance(2 * Q::kBytes);
        }
        if (b < n_blocks) {
            acc = add_pair<Q>(acc, Cursor::over_pairs(first + b * Q::kBytes, w.stride, 0), x, b, b);
        }
        _mm256_mask_storeu_ps(y, lanes, acc);
    }
}

constexpr int64_t kPassBlocks = 4096;  // 16 KB of the stack

template <class Q>
void matmul_one(const MatmulArgs& args) {
    const int64_t n_blocks = args.n_cols / kBlockSize;
    int32_t start[kPassBlocks];
    int64_t block = 0;
    do {
        const int64_t n = n_blocks - block < kPassBlocks ? n_blocks - block : kPassBlocks;
        const int8_t* q = args.xq.q + block * kBlockSize;
        for (int64_t b = 0; b < n && Q::kOffset != 0; b += kStarts) {
            fill_start(q + b * kBlockSize, n - b < kStarts ? n - b : kStarts, Q::kOffset, start + b);
        }
        stream_one<Q>(args, {q, args.xq.d + block, args.xq.s + block, start}, block, n);
        block += n;
    } while (block < n_blocks);
}

// Many rows of x: kChunk blocks of kTileGroups groups are unpacked once into the nearest caches (32 blocks *
// 2 groups * 640 bytes = 40 KB) and meet every row of x. On Zen 4 with q4_0 157 GMAC/s, of a peak of 218.
constexpr int kChunk = 32;
constexpr int kTileGroups = 2;
constexpr int kTileRows = 6;  // 2 * 6 sums of integers and as many of floats leave 8 of 32 registers
constexpr int64_t kPassRows = 96;
static_assert(kPassRows * kChunk * kXBytes <= kPacked);

template <class Q, int G, int R>
CHATGLM_NOINLINE void tile(const MatmulArgs& args, const Input& input, const Group (*groups)[kChunk],
                           const Rows* w, int64_t row, const XBlock<R>* x) {
    __m512 acc[G][R];
    for (int g = 0; g < G; ++g) {
        for (int r = 0; r < R; ++r) acc[g][r] = load_sums(args, w[g], row + r, input.block == 0);
    }
    for (int64_t b = 0; b < input.n_blocks; ++b) {
        const __m512i* q[G];
        for (int g = 0; g < G; ++g) q[g] = groups[g][b].q;
        __m512i sum[G][R];
        dot_block<Q, G, R>(q, x[b], sum);
        for (int g = 0; g < G; ++g) {
            for (int r = 0; r < R; ++r) {
                acc[g][r] = add_block<Q>(acc[g][r], sum[g][r], groups[g][b], x[b].d[r], x[b].s[r]);
            }
        }
    }
    for (int g = 0; g < G; ++g) {
        for (int r = 0; r < R; ++r) store_sums(args, w[g], row + r, acc[g][r]);
    }
}

template <class Q, int G>
CHATGLM_INLINE void tile_groups(const MatmulArgs& args, const Input& x, const Rows* w) {
    Group groups[G][kChunk];
    for (int g = 0; g < G; ++g) {
        const uint8_t* first = w[g].p + x.block * Q::kBytes;
        const uintptr_t ahead =
            reinterpret_cast<uintptr_t>(first) + static_cast<uintptr_t>(G * kGroup * args.weight_stride);
        Cursor p(first, w[g].stride);
        for (int64_t b = 0; b < x.n_blocks; ++b) {
            // Spread over the blocks, the same columns of the rows that come next.
            for (int64_t row = b * kGroup / x.n_blocks; row < (b + 1) * kGroup / x.n_blocks; ++row) {
                prefetch(ahead + static_cast<uintptr_t>(row * args.weight_stride), x.n_blocks * Q::kBytes);
            }
            Q::load(p, groups[g][b]);
            p.advance(Q::kBytes);
        }
    }
    for_each_tile<kTileRows>(x, [&](auto rows, int64_t row, const auto* blocks) {
        tile<Q, G, decltype(rows)::value>(args, x, groups, w, row, blocks);
    });
}

template <class Q>
CHATGLM_NOINLINE void matmul_tiled(const MatmulArgs& args) {
    alignas(64) uint8_t packed[kPacked];
    const int64_t n_blocks = args.n_cols / kBlockSize, n_passes = (args.n_rows + kPassRows - 1) / kPassRows;
    for (int64_t pass = 0; pass < n_passes; ++pass) {
        const int64_t row = args.n_rows * pass / n_passes, end = args.n_rows * (pass + 1) / n_passes;
        Input x{row, end - row, (end - row + kTileRows - 1) / kTileRows, 0, 0, packed};
        do {
            x.n_blocks = n_blocks - x.block < kChunk ? n_blocks - x.block : kChunk;
            pack<Q, kTileRows>(args, x);
            int64_t count;
            for (int64_t n = args.row_begin; n < args.row_end; n += count) {
                Rows w[kTileGroups];
                w[0] = rows_at(args, n, args.row_end, count);
                if (args.row_end - n < kTileGroups * kGroup) {
                    tile_groups<Q, 1>(args, x, w);
                    continue;
                }
                w[1] = rows_at(args, n + kGroup, args.row_end, count);
                tile_groups<Q, kTileGroups>(args, x, w);
                count = kTileGroups * kGroup;
            }
            x.block += x.n_blocks;
        } while (x.block < n_blocks);
    }
}

template <class Q>
void matmul_quantized(const MatmulArgs& args) {
    if (args.n_rows > Q::kStreams * kStreamRows) return matmul_tiled<Q>(args);
    if constexpr (Q::kByRows) {
        if (args.n_rows == 1) return matmul_one<Q>(args);
    }
    if (args.n_rows > 0) stream_in_turns<Q>(args);
}

}  // namespace avx512
}  // namespace
}  // namespace chatglm::cpu
