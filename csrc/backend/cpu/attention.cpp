#include "backend/cpu/attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/half.h"

namespace chatglm::cpu {
namespace {

// The online softmax runs over splits of this many slots and the splits are folded in order. The borders are
// the same for every row, thread count and batch, so the result is the same whether one thread runs all
// splits or many do.
constexpr int kSplit = 512;

// Query vectors in one tile: enough to pay for widening a K/V page from f16 once, few enough that their
// accumulators stay in the first-level cache (32 * 128 * 4 = 16 KB).
constexpr int kQueriesPerTile = 32;

// Results of splits that wait to be folded take no more than this, however many threads there are.
constexpr int64_t kMaxPartialBytes = int64_t{64} << 20;

// state (m, l, acc) += split (m, l, acc), both online-softmax partial results.
void fold(float& m, float& l, float* acc, float split_m, float split_l, const float* split_acc, int n) {
    if (split_l == 0.0f) return;
    if (l == 0.0f) {
        m = split_m;
        l = split_l;
        std::memcpy(acc, split_acc, static_cast<size_t>(n) * sizeof(float));
        return;
    }
    const float top = std::max(m, split_m);
    const float a = std::exp(m - top), b = std::exp(split_m - top);
    m = top;
    l = l * a + split_l * b;
    for (int i = 0; i < n; ++i) acc[i] = acc[i] * a + split_acc[i] * b;
}

void divide(const float* acc, float l, int n, float* y) {
    const float inverse = l > 0.0f ? 1.0f / l : 0.0f;
    for (int i = 0; i < n; ++i) y[i] = acc[i] * inverse;
}

}  // namespace

struct PagedAttention::Job {
    const KvLayout& layout;
    int layer;
    const AttentionBatch& batch;
    const float* q;
    int64_t stride;
    int group;  // query heads of one K/V head
    float* y;
    int n_heads;
};

void PagedAttention::QuantizedCopy::resize(int n_rows, int64_t n_cols) {
    n_cols_ = n_cols;
    const auto n = static_cast<size_t>(n_rows * n_cols);
    q.resize(n);
    d.resize(n / kBlockSize);
    s.resize(n / kBlockSize);
}

// Row `row` = x (n,).
void PagedAttention::QuantizedCopy::set(const Kernels& kernels, int row, const float* x, int n) {
    if (n < n_cols_) {
        padded.assign(static_cast<size_t>(n_cols_), 0.0f);
        std::copy_n(x, n, padded.begin());
        x = padded.data();
    }
    const int64_t block = row * n_cols_ / kBlockSize;
    kernels.quantize_row(x, n_cols_, q.data() + block * kBlockSize, d.data() + block, s.data() + block);
}

void PagedAttention::store_row(const KvLayout& layout, const float* source, uint8_t* target) {
    if (layout.type == DType::f32) {
        std::memcpy(target, source, static_cast<size_t>(layout.head_dim) * sizeof(float));
    } else if (layout.type == DType::f16) {
        kernels_.f32_to_f16(source, reinterpret_cast<uint16_t*>(target), layout.head_dim);
    } else {
        stored_.resize(1, layout.row_size());
        stored_.set(kernels_, 0, source, layout.head_dim);
        for (size_t b = 0; b < stored_.d.size(); ++b) {
            BlockQ8_0 block;
            block.d = float_to_half(stored_.d[b]);
            std::memcpy(block.qs, stored_.q.data() + b * kBlockSize, kBlockSize);
            std::memcpy(target + b * sizeof block, &block, sizeof block);
        }
    }
}

void PagedAttention::store(const KvLayout& layout, int layer, const AttentionBatch& batch, const float* k,
                           const float* v, int64_t stride) {
    const int64_t row_bytes = chatglm::row_bytes(layout.type, layout.row_size());
    for (const SequenceRows& sequence : batch.sequences) {
        for (int row = sequence.row_begin; row < sequence.row_end; ++row) {
            const int slot = batch.slots[static_cast<size_t>(row)];
            uint8_t* page = sequence.pages[static_cast<size_t>(slot / layout.page_size)] +
                            static_cast<size_t>(layer) * layout.layer_bytes();
            for (int head = 0; head < 2 * layout.n_kv_heads; ++head) {  // K heads, then V heads
                const float* source =
                    head < layout.n_kv_heads
                        ? k + row * stride + int64_t{head} * layout.head_dim
                        : v + row * stride + int64_t{head - layout.n_kv_heads} * layout.head_dim;
                uint8_t* target = page + static_cast<size_t>(head) * layout.head_bytes() +
                                  slot % layout.page_size * row_bytes;
                store_row(layout, source, target);
            }
        }
    }
}

void PagedAttention::plan_tiles(const AttentionBatch& batch, int group) {
    const int rows_per_tile = std::max(1, kQueriesPerTile / group);
    tiles_.clear();
    for (const SequenceRows& sequence : batch.sequences) {
        for (int begin = sequence.row_begin; begin < sequence.row_end; begin += rows_per_tile) {
            const int end = std::min(sequence.row_end, begin + rows_per_tile);
            int visible = 0;
            for (int row = begin; row < end; ++row) {
                visible = std::max(visible, batch.n_visible[static_cast<size_t>(row)]);
            }
            tiles_.push_back({&sequence, begin, end, (visible + kSplit - 1) / kSplit});
        }
    }
}

// One split of one tile and K/V head: m, l (n_queries,), acc (n_queries, head_dim), from scratch. The splits
// of the tile that one thread runs are about `step` apart.
void PagedAttention::run_split(const Job& job, const Tile& tile, int kv_head, int split, int step,
                               Scratch& scratch, float* m, float* l, float* acc) const {
    const KvLayout& layout = job.layout;
    const int d = layout.head_dim;
    const int n_queries = (tile.row_end - tile.row_begin) * job.group;
    scratch.q.resize(static_cast<size_t>(n_queries));
    scratch.acc.resize(static_cast<size_t>(n_queries));
    scratch.n_visible.resize(static_cast<size_t>(n_queries));
    if (is_quantized(layout.type)) scratch.quantized.resize(n_queries, layout.row_size());
    for (int i = 0; i < n_queries; ++i) {
        const int row = tile.row_begin + i / job.group;
        const int head = kv_head * job.group + i % job.group;
        scratch.q[static_cast<size_t>(i)] = job.q + row * job.stride + int64_t{head} * d;
        scratch.acc[static_cast<size_t>(i)] = acc + int64_t{i} * d;
        if (is_quantized(layout.type)) {
            scratch.quantized.set(kernels_, i, scratch.q[static_cast<size_t>(i)], d);
        }
        m[i] = -std::numeric_limits<float>::infinity();
        l[i] = 0.0f;
    }
    std::memset(acc, 0, static_cast<size_t>(n_queries) * static_cast<size_t>(d) * sizeof(float));

    const auto attend = kernels_.attend(layout.type);
    for (int begin = split * kSplit; begin < (split + 1) * kSplit; begin += layout.page_size) {
        int longest = 0;
        for (int i = 0; i < n_queries; ++i) {
            const int visible = job.batch.n_visible[static_cast<size_t>(tile.row_begin + i / job.group)];
            scratch.n_visible[static_cast<size_t>(i)] = std::clamp(visible - begin, 0, layout.page_size);
            longest = std::max(longest, scratch.n_visible[static_cast<size_t>(i)]);
        }
        if (longest == 0) break;
        const auto n_page = static_cast<size_t>(begin / layout.page_size);
        const auto keys = [&](size_t page) {
            return tile.sequence->pages[page] + static_cast<size_t>(job.layer) * layout.layer_bytes() +
                   static_cast<size_t>(kv_head) * layout.head_bytes();
        };
        const size_t to_values = static_cast<size_t>(layout.n_kv_heads) * layout.head_bytes();
        AttentionTile work{};
        work.k = keys(n_page);
        work.v = keys(n_page) + to_values;
        // Behind a split comes the one that this thread will probably take next.
        const bool ends = begin + layout.page_size == (split + 1) * kSplit;
        const auto next = ends ? static_cast<size_t>((split + step) * kSplit / layout.page_size) : n_page + 1;
        if (next < tile.sequence->pages.size()) {
            work.next_k = keys(next);
            work.next_v = keys(next) + to_values;
            work.next_bytes = static_cast<int64_t>(layout.head_bytes());
        }
        work.n_positions = longest;
        work.head_dim = d;
        work.n_queries = n_queries;
        work.q = scratch.q.data();
        work.xq = scratch.quantized.rows();
        work.n_visible = scratch.n_visible.data();
        work.scale = 1.0f / std::sqrt(static_cast<float>(d));
        work.m = m;
        work.l = l;
        work.acc = scratch.acc.data();
        attend(work);
    }
}

void PagedAttention::attend(const KvLayout& layout, int layer, const AttentionBatch& batch, const float* q,
                            int64_t stride, int n_heads, float* y) {
    static_assert(kSplit % kMaxTile == 0);
    const Job job{layout, layer, batch, q, stride, n_heads / layout.n_kv_heads, y, n_heads};
    const int d = layout.head_dim;
    plan_tiles(batch, job.group);

    const int max_queries = std::max(kQueriesPerTile, job.group);
    const int64_t state = int64_t{max_queries} * (d + 2);  // floats of m, l and acc for a tile
    scratch_.resize(static_cast<size_t>(pool_.size()));
    for (Scratch& s : scratch_) {
        const auto floats = static_cast<size_t>(2 * state);
        if (s.floats.size() < floats) s.floats.resize(floats);
    }
    const auto write = [&](const Tile& tile, int kv_head, const float* l, const float* acc) {
        for (int i = 0; i < (tile.row_end - tile.row_begin) * job.group; ++i) {
            const int row = tile.row_begin + i / job.group;
            const int head = kv_head * job.group + i % job.group;
            divide(acc + int64_t{i} * d, l[i], d, y + (int64_t{row} * n_heads + head) * d);
        }
    };

    const int64_t n_units = static_cast<int64_t>(tiles_.size()) * layout.n_kv_heads;
    int max_splits = 0;
    for (const Tile& tile : tiles_) max_splits = std::max(max_splits, tile.n_splits);

    const int64_t partial_bytes = n_units * max_splits * state * static_cast<int64_t>(sizeof(float));
    if (max_splits <= 1 || n_units >= 4 * pool_.size() || partial_bytes > kMaxPartialBytes) {
        // Enough tiles for every thread: each runs all splits of its tile and folds them as it goes.
        pool_.parallel_for(n_units, [&](int64_t unit, int thread) {
            const Tile& tile = tiles_[static_cast<size_t>(unit / layout.n_kv_heads)];
            const int kv_head = static_cast<int>(unit % layout.n_kv_heads);
            Scratch& scratch = scratch_[static_cast<size_t>(thread)];
            float* m = scratch.floats.data();
            float *l = m + max_queries, *acc = l + max_queries;
            float *split_m = m + state, *split_l = l + state, *split_acc = acc + state;
            run_split(job, tile, kv_head, 0, 1, scratch, m, l, acc);
            for (int split = 1; split < tile.n_splits; ++split) {
                run_split(job, tile, kv_head, split, 1, scratch, split_m, split_l, split_acc);
                for (int i = 0; i < (tile.row_end - tile.row_begin) * job.group; ++i) {
                    fold(m[i], l[i], acc + int64_t{i} * d, split_m[i], split_l[i], split_acc + int64_t{i} * d,
                         d);
                }
            }
            write(tile, kv_head, l, acc);
        });
        return;
    }

    // Few tiles, long context (decoding): the splits are the units, their results are folded afterwards.
    partials_.resize(static_cast<size_t>(n_units * max_splits * state));
    pool_.parallel_for(n_units * max_splits, [&](int64_t i, int thread) {
        const int64_t unit = i / max_splits;
        const int split = static_cast<int>(i % max_splits);
        const Tile& tile = tiles_[static_cast<size_t>(unit / layout.n_kv_heads)];
        if (split >= tile.n_splits) return;
        float* m = partials_.data() + i * state;
        run_split(job, tile, static_cast<int>(unit % layout.n_kv_heads), split, pool_.size(),
                  scratch_[static_cast<size_t>(thread)], m, m + max_queries, m + 2 * max_queries);
    });
    pool_.parallel_for(n_units, [&](int64_t unit, int) {
        const Tile& tile = tiles_[static_cast<size_t>(unit / layout.n_kv_heads)];
        float* m = partials_.data() + unit * max_splits * state;
        float *l = m + max_queries, *acc = l + max_queries;
        for (int split = 1; split < tile.n_splits; ++split) {
            for (int i = 0; i < (tile.row_end - tile.row_begin) * job.group; ++i) {
                fold(m[i], l[i], acc + int64_t{i} * d, m[split * state + i], l[split * state + i],
                     acc + split * state + int64_t{i} * d, d);
            }
        }
        write(tile, static_cast<int>(unit % layout.n_kv_heads), l, acc);
    });
}

}  // namespace chatglm::cpu
