// Products with quantized weights: unpacking, and the walk over rows and blocks. How levels and activations
// are multiplied is the business of a level of the architecture (class L): neon.cpp, neon_sdot.h, i8mm.cpp.
// Part of neon.cpp, dotprod.cpp and i8mm.cpp and of no other file: see avx2.cpp why everything has internal
// linkage.
#pragma once

#include "backend/cpu/kernels/kernels.h"
#include "backend/cpu/kernels/neon_vector.h"

namespace chatglm::cpu {
namespace {

// Four rows of W at a time. The integer dot products of a block are one vector, a row a lane, and each lane
// adds its row's blocks one after another:
//     acc += d * (dx * dot(q, qx));  acc += m * sx.
// Integers are exact however they are added up, and a lane knows nothing of the others, so an element is the
// same in any tile.

constexpr int kGroup = 4;  // rows of W in a vector

struct RowPointers {
    const uint8_t* first;
    int64_t stride;  // 0 repeats one row in all lanes
    const uint8_t* operator[](int i) const { return first + i * stride; }
};

// The four rows' half floats at p + offset.
CHATGLM_INLINE float32x4_t load_halves(RowPointers p, int64_t offset) {
    uint16x4_t h = vdup_n_u16(load_u16(p[0] + offset));
    h = vset_lane_u16(load_u16(p[1] + offset), h, 1);
    h = vset_lane_u16(load_u16(p[2] + offset), h, 2);
    h = vset_lane_u16(load_u16(p[3] + offset), h, 3);
    return vcvt_f32_f16(vreinterpret_f16_u16(h));
}

// Elements 0..15 and 16..31 of a block.
CHATGLM_INLINE void unpack_nibbles(const uint8_t* p, int8x16_t q[2]) {
    const uint8x16_t bytes = vld1q_u8(p);
    q[0] = vreinterpretq_s8_u8(vandq_u8(bytes, vdupq_n_u8(15)));
    q[1] = vreinterpretq_s8_u8(vshrq_n_u8(bytes, 4));
}

// Takes 16 from element j of q, a number below 16, where bit j of the word at p is not set: all ones shifted
// left by four and put before the four bits are that number less 16.
CHATGLM_INLINE void insert_fifth_bits(const uint8_t* p, int8x16_t q[2]) {
    alignas(16) static constexpr uint8_t kByte[2][16] = {{0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1},
                                                         {2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3}};
    alignas(16) static constexpr uint8_t kBit[16] = {1, 2, 4, 8, 16, 32, 64, 128,
                                                     1, 2, 4, 8, 16, 32, 64, 128};
    uint32_t word;
    std::memcpy(&word, p, 4);
    const uint8x16_t clear = vreinterpretq_u8_u32(vdupq_n_u32(~word));
    for (int half = 0; half < 2; ++half) {
        const uint8x16_t spread = vqtbl1q_u8(clear, vld1q_u8(kByte[half]));
        const uint8x16_t below = vtstq_u8(spread, vld1q_u8(kBit));
        q[half] = vsliq_n_s8(q[half], vreinterpretq_s8_u8(below), 4);
    }
}

// A type of block: kOffset: taken from each level; kHasMin: adds m, a half behind d; kRun: how many products
// fit one 16-bit sum, levels * 127 each: 16 * 16 * 127 = 32512, 8 * 31 * 127 = 31496, 2 * 128 * 127 = 32512.
struct Q4_0 {
    static constexpr int kBytes = sizeof(BlockQ4_0), kOffset = 8, kRun = 16;
    static constexpr bool kHasMin = false;
    CHATGLM_INLINE void unpack(const uint8_t* p, int8x16_t q[2]) { unpack_nibbles(p + 2, q); }
};

struct Q4_1 {
    static constexpr int kBytes = sizeof(BlockQ4_1), kOffset = 0, kRun = 16;
    static constexpr bool kHasMin = true;
    CHATGLM_INLINE void unpack(const uint8_t* p, int8x16_t q[2]) { unpack_nibbles(p + 4, q); }
};

struct Q5_0 {
    static constexpr int kBytes = sizeof(BlockQ5_0), kOffset = 0, kRun = 16;
    static constexpr bool kHasMin = false;
    CHATGLM_INLINE void unpack(const uint8_t* p, int8x16_t q[2]) {
        unpack_nibbles(p + 6, q);
        insert_fifth_bits(p + 2, q);
    }
};

struct Q5_1 {
    static constexpr int kBytes = sizeof(BlockQ5_1), kOffset = -16, kRun = 8;
    static constexpr bool kHasMin = true;
    CHATGLM_INLINE void unpack(const uint8_t* p, int8x16_t q[2]) {
        unpack_nibbles(p + 8, q);
        insert_fifth_bits(p + 4, q);
    }
};

struct Q8_0 {
    static constexpr int kBytes = sizeof(BlockQ8_0), kOffset = 0, kRun = 2;
    static constexpr bool kHasMin = false;
    CHATGLM_INLINE void unpack(const uint8_t* p, int8x16_t q[2]) {
        q[0] = vreinterpretq_s8_u8(vld1q_u8(p + 2));
        q[1] = vreinterpretq_s8_u8(vld1q_u8(p + 18));
    }
};

// One block's contribution to acc, given its integer dot products.
template <class Q>
CHATGLM_INLINE float32x4_t add_block(float32x4_t acc, int32x4_t dot, float32x4_t d, float32x4_t m, float dx,
                                     float sx) {
    acc = vfmaq_f32(acc, d, vmulq_n_f32(vcvtq_f32_s32(dot), dx));
    if constexpr (Q::kHasMin) acc = vfmaq_n_f32(acc, m, sx);
    return acc;
}

// A level has
//     kStreamRows: with more rows of x than that, unpacking weights once for all of them pays;
//     dot_rows<Q>(w, x): the dot products of four rows of W, whose offset is still to be taken, with a row of
//         x, each as they lie in memory: w[row][half], x[half];
//     pack(w, out): four rows, offset taken, in the order that dot_tile wants;
//     dot_tile<Q, G, R>(q, x, x_stride, dot): dot[g][r] of G packed groups and R rows of x.

// Up to kStreamRows rows of x: the weights are unpacked in registers and used at once, R times. acc[r] are
// four neighbours of y in row `row` + r. With SDOT and one row of x, a block of four rows of q4_0 is 72 bytes
// and 52 instructions: 6 load bytes of W and x, 8 unpack, 10 multiply, 3 add up, 7 gather and widen the
// scales, 4 scale; the rest are moves, addresses and prefetches. Of q8_0, 136 bytes and 46 instructions.
template <class L, class Q, int R>
CHATGLM_INLINE void stream_group(const MatmulArgs& args, RowPointers p, int64_t row, float32x4_t acc[R]) {
    const int64_t n_blocks = args.n_cols / kBlockSize;
    const int8_t* x = args.xq.q + row * args.n_cols;
    const float* dx = args.xq.d + row * n_blocks;
    const float* sx = args.xq.s + row * n_blocks;
    const uintptr_t ahead = prefetch_start(p.first, kGroup * p.stride);
    CHATGLM_UNROLL
    for (int r = 0; r < R; ++r) acc[r] = vdupq_n_f32(0.0f);
    for (int64_t b = 0; b < n_blocks; ++b) {
        prefetch(ahead + static_cast<uintptr_t>(b * kGroup * Q::kBytes), kGroup * Q::kBytes);
        const int64_t at = b * Q::kBytes;
        const float32x4_t d = load_halves(p, at);
        const float32x4_t m = Q::kHasMin ? load_halves(p, at + 2) : d;
        int8x16_t w[kGroup][2];
        CHATGLM_UNROLL
        for (int i = 0; i < kGroup; ++i) Q::unpack(p[i] + at, w[i]);
        CHATGLM_UNROLL
        for (int r = 0; r < R; ++r) {
            const int8_t* v = x + r * args.n_cols + b * kBlockSize;
            const int8x16_t block[2] = {vld1q_s8(v), vld1q_s8(v + 16)};
            const int32x4_t dot = L::template dot_rows<Q>(w, block);
            acc[r] = add_block<Q>(acc[r], dot, d, m, dx[r * n_blocks + b], sx[r * n_blocks + b]);
        }
    }
}

// Whole groups of the range [begin, end), then its last rows one by one, each in all lanes.
template <class L, class Q, int R>
CHATGLM_NOINLINE void stream(const MatmulArgs& args, int64_t begin, int64_t end, int64_t row) {
    const auto* weight = static_cast<const uint8_t*>(args.weight);
    float* y = args.y + row * args.y_stride;
    float32x4_t acc[R];
    int64_t n = begin;
    for (; n + kGroup <= end; n += kGroup) {
        stream_group<L, Q, R>(args, {weight + n * args.weight_stride, args.weight_stride}, row, acc);
        CHATGLM_UNROLL
        for (int r = 0; r < R; ++r) vst1q_f32(y + r * args.y_stride + n, acc[r]);
    }
    for (; n < end; ++n) {
        stream_group<L, Q, R>(args, {weight + n * args.weight_stride, 0}, row, acc);
        CHATGLM_UNROLL
        for (int r = 0; r < R; ++r) y[r * args.y_stride + n] = vgetq_lane_f32(acc[r], 0);
    }
}

template <class L, class Q>
void stream_rows(const MatmulArgs& args, int64_t begin, int64_t end) {
    int64_t row = 0;
    for (; row + 3 <= args.n_rows; row += 3) stream<L, Q, 3>(args, begin, end, row);
    if (args.n_rows - row == 2) return stream<L, Q, 2>(args, begin, end, row);
    if (args.n_rows - row == 1) return stream<L, Q, 1>(args, begin, end, row);
}

// More rows of x: kChunk blocks of kTileGroups groups are unpacked once into the first-level cache
// (32 blocks * 2 groups * 160 bytes = 10 KB) and meet every row of x. y carries the sums from chunk to chunk.
constexpr int kChunk = 32;
constexpr int kTileGroups = 2;
constexpr int kTileRows = 4;  // 2 * 4 sums of floats, as many of integers, 8 vectors of x, 4 and more of W

struct Packed {
    int8x16_t q[2 * kGroup];
    float32x4_t d, m;
};

template <class L, class Q>
CHATGLM_INLINE void pack_group(RowPointers p, int64_t at, Packed& out) {
    int8x16_t w[kGroup][2];
    CHATGLM_UNROLL
    for (int i = 0; i < kGroup; ++i) {
        Q::unpack(p[i] + at, w[i]);
        if constexpr (Q::kOffset != 0) {
            for (int half = 0; half < 2; ++half) w[i][half] = vsubq_s8(w[i][half], vdupq_n_s8(Q::kOffset));
        }
    }
    L::pack(w, out.q);
    out.d = load_halves(p, at);
    out.m = Q::kHasMin ? load_halves(p, at + 2) : out.d;
}

template <class L, class Q, int G, int R>
void tile(const MatmulArgs& args, const Packed (*groups)[kChunk], int64_t block, int n_chunk, int64_t n,
          int64_t row) {
    const int64_t n_blocks = args.n_cols / kBlockSize;
    const int8_t* x = args.xq.q + row * args.n_cols + block * kBlockSize;
    const float* dx = args.xq.d + row * n_blocks + block;
    const float* sx = args.xq.s + row * n_blocks + block;
    float* y = args.y + row * args.y_stride + n;
    float32x4_t acc[G][R];
    CHATGLM_UNROLL
    for (int g = 0; g < G; ++g) {
        CHATGLM_UNROLL
        for (int r = 0; r < R; ++r) {
            acc[g][r] = block == 0 ? vdupq_n_f32(0.0f) : vld1q_f32(y + r * args.y_stride + g * kGroup);
        }
    }
    for (int b = 0; b < n_chunk; ++b) {
        const int8x16_t* q[G];
        CHATGLM_UNROLL
        for (int g = 0; g < G; ++g) q[g] = groups[g][b].q;
        int32x4_t dot[G][R];
        L::template dot_tile<Q, G, R>(q, x + b * kBlockSize, args.n_cols, dot);
        CHATGLM_UNROLL
        for (int g = 0; g < G; ++g) {
            CHATGLM_UNROLL
            for (int r = 0; r < R; ++r) {
                acc[g][r] = add_block<Q>(acc[g][r], dot[g][r], groups[g][b].d, groups[g][b].m,
                                         dx[r * n_blocks + b], sx[r * n_blocks + b]);
            }
        }
    }
    CHATGLM_UNROLL
    for (int g = 0; g < G; ++g) {
        CHATGLM_UNROLL
        for (int r = 0; r < R; ++r) vst1q_f32(y + r * args.y_stride + g * kGroup, acc[g][r]);
    }
}

template <class L, class Q, int G>
void tile_groups(const MatmulArgs& args, int64_t block, int n_chunk, int64_t n, bool stream) {
    Packed groups[G][kChunk];
    const auto* weight = static_cast<const uint8_t*>(args.weight);
    const uint8_t* first = weight + n * args.weight_stride;
    const int64_t piece = G * kGroup * Q::kBytes;  // of a block of all the rows
    const uintptr_t ahead =
        prefetch_start(first, G * kGroup * args.weight_stride) + static_cast<uintptr_t>(block * piece);
    for (int b = 0; b < n_chunk; ++b) {
        if (stream) prefetch(ahead + static_cast<uintptr_t>(b * piece), piece);
        CHATGLM_UNROLL
        for (int g = 0; g < G; ++g) {
            const RowPointers p{first + g * kGroup * args.weight_stride, args.weight_stride};
            pack_group<L, Q>(p, (block + b) * Q::kBytes, groups[g][b]);
        }
    }
    int64_t row = 0;
    for (; row + kTileRows <= args.n_rows; row += kTileRows) {
        tile<L, Q, G, kTileRows>(args, groups, block, n_chunk, n, row);
    }
    switch (args.n_rows - row) {
        case 3:
            return tile<L, Q, G, 3>(args, groups, block, n_chunk, n, row);
        case 2:
            return tile<L, Q, G, 2>(args, groups, block, n_chunk, n, row);
        case 1:
            return tile<L, Q, G, 1>(args, groups, block, n_chunk, n, row);
        default:
            return;
    }
}

// The rows of W in [begin, end), whole groups, for the blocks from `block` on.
template <class L, class Q>
void tile_range(const MatmulArgs& args, int64_t block, int64_t begin, int64_t end, bool stream) {
    const int64_t left = args.n_cols / kBlockSize - block;
    const int n_chunk = static_cast<int>(left < kChunk ? left : kChunk);
    int64_t n = begin;
    for (; n + kTileGroups * kGroup <= end; n += kTileGroups * kGroup) {
        tile_groups<L, Q, kTileGroups>(args, block, n_chunk, n, stream);
    }
    for (; n < end; n += kGroup) tile_groups<L, Q, 1>(args, block, n_chunk, n, stream);
}

constexpr int64_t kResident = 1 << 18;  // bytes of x that stay in the second-level cache

template <class L, class Q>
void matmul_quantized(const MatmulArgs& args) {
    const int64_t n_blocks = args.n_cols / kBlockSize;
    int64_t tiled_end = args.row_begin;  // rows of W up to here are done by tiles
    if (args.n_rows > L::kStreamRows && n_blocks > 0) {
        tiled_end += (args.row_end - args.row_begin) / kGroup * kGroup;
        // Few rows of x: W is what must be read only once and from end to end. Many: all of W's rows meet a
        // chunk of x before the next, so that x is read once.
        const bool by_rows = args.n_rows * args.n_cols <= kResident;
        const int64_t step = by_rows ? kTileGroups * kGroup : tiled_end - args.row_begin;
        for (int64_t n = args.row_begin; n < tiled_end; n += step) {
            const int64_t end = n + step < tiled_end ? n + step : tiled_end;
            for (int64_t block = 0; block < n_blocks; block += kChunk) {
                tile_range<L, Q>(args, block, n, end, by_rows);
            }
        }
    }
    if (tiled_end < args.row_end) stream_rows<L, Q>(args, tiled_end, args.row_end);
}

}  // namespace
}  // namespace chatglm::cpu
