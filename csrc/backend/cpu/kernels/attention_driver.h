// One step of attention, for every instruction set: which queries meet which positions, and when the next
// page is fetched. What is done with them is the business of the instruction set (class Set) and of the
// cache's type (FloatCache, BlockCache). Part of the files of instruction sets and of no other file: see
// avx2.cpp why everything has internal linkage.
#pragma once

#include "backend/cpu/kernels/kernels.h"

#if defined(__aarch64__) || defined(_M_ARM64)
#include "backend/cpu/kernels/neon_vector.h"
#else
#include "backend/cpu/kernels/avx2_vector.h"
#endif

namespace chatglm::cpu {
namespace {

// A Set has
//     score<T, X>(tile, q, begin, end, p): p[i][j] = q_i . k_j for X queries, keys of the float type T and
//         begin <= j < end, and maybe some up to n_positions beyond;
//     softmax_step(p, n, scale, m, l): n scores to softmax weights; updates m and l, returns the factor for
//     acc; weigh<T, X>(v, stride, n_columns, n, p, factor, acc): acc = acc * factor + sum of p_j v_j over the
//     n
//         positions from v on, for X queries;
//     by_groups(n, f): calls f(i, Count<X>) for groups of X of n queries, i being the first of each;
//     widen_block(p, y): 32 values of the BlockQ8_0 at p;
//     Single: the float type of f32.

constexpr int kQueryBatch = 32;
constexpr int kPositions =
    32;  // of K or V, 4 KB in f16: all queries meet them while the first-level cache has them

CHATGLM_INLINE int most_visible(const int* n_visible, int count) {
    int most = 0;
    for (int i = 0; i < count; ++i) most = n_visible[i] > most ? n_visible[i] : most;
    return most;
}

// Positions of values in the float type T, and columns of them, `stride` bytes from one to the next.
struct Values {
    const uint8_t* first;
    int64_t stride;
};

// Keys and values of the float type T, used where they lie.
template <class Set, class T>
struct FloatCache {
    using Value = T;
    static constexpr int kColumns = 1 << 30;  // of values that are made ready at a time: all
    struct Room {};

    // Scores of the queries [first, first + n); before(X) is called before those of X more.
    template <class F>
    CHATGLM_INLINE void score(const AttentionTile& tile, int first, int n, int begin, int end,
                              float (*p)[kMaxTile], const F& before) {
        Set::by_groups(n, [&](int i, auto count) {
            constexpr int X = decltype(count)::value;
            before(X);
            const int seen = most_visible(tile.n_visible + first + i, X), stop = end < seen ? end : seen;
            if (begin < stop) Set::template score<T, X>(tile, tile.q + first + i, begin, stop, p + i);
        });
    }

    CHATGLM_INLINE Values values(const AttentionTile& tile, int begin, int, int64_t, int64_t, Room&) {
        const int64_t stride = tile.head_dim * T::kBytes;
        return {static_cast<const uint8_t*>(tile.v) + begin * stride, stride};
    }
};

// Keys and values in blocks of 8 bits (q8_0). The keys are a matrix of weights and the queries, quantized,
// rows of activations: the scores are their product. The values are widened to f32 once for all queries.
template <class Set, Kernels::Matmul kMatmul>
struct BlockCache {
    using Value = typename Set::Single;
    static constexpr int kColumns = 8 * kBlockSize;
    struct Room {
        alignas(64) float values[kPositions * kColumns];
    };

    CHATGLM_INLINE int64_t row_bytes(const AttentionTile& tile) {
        return tile.xq.n_cols / kBlockSize * static_cast<int64_t>(sizeof(BlockQ8_0));
    }

    template <class F>
    CHATGLM_INLINE void score(const AttentionTile& tile, int first, int n, int begin, int end,
                              float (*p)[kMaxTile], const F& before) {
        before(n);
        const int64_t n_blocks = tile.xq.n_cols / kBlockSize;
        MatmulArgs args{};
        args.weight = tile.k;
        args.weight_stride = row_bytes(tile);
        args.row_begin = begin;
        args.row_end = end;
        args.n_cols = tile.xq.n_cols;
        args.xq = {tile.xq.q + first * tile.xq.n_cols, tile.xq.d + first * n_blocks,
                   tile.xq.s + first * n_blocks, tile.xq.n_cols};
        args.n_rows = n;
        args.y = p[0];
        args.y_stride = kMaxTile;
        kMatmul(args);
    }

    CHATGLM_INLINE Values values(const AttentionTile& tile, int begin, int end, int64_t column,
                                 int64_t n_columns, Room& room) {
        const int64_t n_blocks = (n_columns + kBlockSize - 1) / kBlockSize;
        const uint8_t* row = static_cast<const uint8_t*>(tile.v) + begin * row_bytes(tile) +
                             column / kBlockSize * static_cast<int64_t>(sizeof(BlockQ8_0));
        float* y = room.values;
        for (int j = begin; j < end; ++j, row += row_bytes(tile)) {
            for (int64_t b = 0; b < n_blocks; ++b, y += kBlockSize) {
                Set::widen_block(row + b * static_cast<int64_t>(sizeof(BlockQ8_0)), y);
            }
        }
        return {reinterpret_cast<const uint8_t*>(room.values),
                n_blocks * kBlockSize * static_cast<int64_t>(sizeof(float))};
    }
};

// Fetches what the next step reads, a share for every group of queries: a few lines at a time, as bursts
// would have to wait.
class NextPage {
  public:
    NextPage(const AttentionTile& tile, int n_parts) : tile_(tile), n_parts_(n_parts) {}

    void fetch(int parts) {
        const int first = done_, last = done_ + parts;
        done_ = last;
        if (!tile_.next_k) return;
        constexpr int64_t kLine = 64;
        const int64_t begin = tile_.next_bytes * first / n_parts_ / kLine * kLine;
        const int64_t end = tile_.next_bytes * last / n_parts_ / kLine * kLine;
        prefetch(reinterpret_cast<uintptr_t>(tile_.next_k) + static_cast<uintptr_t>(begin), end - begin);
        prefetch(reinterpret_cast<uintptr_t>(tile_.next_v) + static_cast<uintptr_t>(begin), end - begin);
    }

  private:
    const AttentionTile& tile_;
    int n_parts_, done_ = 0;
};

// acc of the queries [first, first + n) gets the values of positions [begin, end), of those each query sees.
template <class Set, class Cache>
CHATGLM_INLINE void weigh_positions(const AttentionTile& tile, int first, int n, int begin, int end,
                                    const float (*p)[kMaxTile], const float* factor, NextPage& next,
                                    typename Cache::Room& room) {
    using T = typename Cache::Value;
    const int* n_visible = tile.n_visible + first;
    for (int64_t column = 0; column < tile.head_dim; column += Cache::kColumns) {
        const int64_t left = tile.head_dim - column;
        const int64_t n_columns = left < Cache::kColumns ? left : Cache::kColumns;
        const Values values = Cache::values(tile, begin, end, column, n_columns, room);
        Set::by_groups(n, [&](int i, auto count) {
            constexpr int X = decltype(count)::value;
            if (column == 0) next.fetch(X);
            // The positions that each of the group sees, then those that only some do.
            int common = end;
            for (int k = i; k < i + X; ++k) common = n_visible[k] < common ? n_visible[k] : common;
            const float* weights[X];
            float* acc[X];
            float by[X];
            for (int k = 0; k < X; ++k) {
                weights[k] = p[i + k] + begin;
                acc[k] = tile.acc[first + i + k] + column;
                by[k] = begin == 0 ? factor[i + k] : 1.0f;
            }
            if (common > begin) {
                Set::template weigh<T, X>(values.first, values.stride, n_columns, common - begin, weights, by,
                                          acc);
            }
            const int start = common > begin ? common : begin;
            for (int k = 0; k < X; ++k) {
                const int stop = n_visible[i + k] < end ? n_visible[i + k] : end;
                if (stop <= start) continue;
                const float rest = common > begin ? 1.0f : by[k];
                const float* weight = weights[k] + (start - begin);
                Set::template weigh<T, 1>(values.first + (start - begin) * values.stride, values.stride,
                                          n_columns, stop - start, &weight, &rest, acc + k);
            }
        });
    }
}

// Queries [first, first + n). A query reads no value beyond its own n_visible, whatever the others see.
template <class Set, class Cache>
void attend_batch(const AttentionTile& tile, int first, int n) {
    alignas(64) float p[kQueryBatch][kMaxTile];
    float factor[kQueryBatch];
    typename Cache::Room room;
    const int* n_visible = tile.n_visible + first;
    const int n_seen = most_visible(n_visible, n);
    NextPage next(tile, 2 * ((n_seen + kPositions - 1) / kPositions) * n);
    const auto end_of = [n_seen](int begin) {
        return begin + kPositions < n_seen ? begin + kPositions : n_seen;
    };
    for (int begin = 0; begin < n_seen; begin += kPositions) {
        Cache::score(tile, first, n, begin, end_of(begin), p, [&next](int count) { next.fetch(count); });
    }
    for (int i = 0; i < n; ++i) {
        if (n_visible[i] > 0) {
            factor[i] =
                Set::softmax_step(p[i], n_visible[i], tile.scale, tile.m[first + i], tile.l[first + i]);
        }
    }
    for (int begin = 0; begin < n_seen; begin += kPositions) {
        weigh_positions<Set, Cache>(tile, first, n, begin, end_of(begin), p, factor, next, room);
    }
}

template <class Set, class Cache>
void attend_all(const AttentionTile& tile) {
    for (int first = 0; first < tile.n_queries; first += kQueryBatch) {
        const int left = tile.n_queries - first;
        attend_batch<Set, Cache>(tile, first, left < kQueryBatch ? left : kQueryBatch);
    }
}

}  // namespace
}  // namespace chatglm::cpu
