// Attention over the paged cache: tiles of rows times K/V heads times fixed splits of the positions.
#pragma once

#include <vector>

#include "backend/backend.h"
#include "backend/cpu/kernels/kernels.h"
#include "core/thread_pool.h"

namespace chatglm::cpu {

class PagedAttention {
  public:
    PagedAttention(ThreadPool& pool, const Kernels& kernels) : pool_(pool), kernels_(kernels) {}

    void store(const KvLayout& layout, int layer, const AttentionBatch& batch, const float* k, const float* v,
               int64_t stride);
    void attend(const KvLayout& layout, int layer, const AttentionBatch& batch, const float* q,
                int64_t stride, int n_heads, float* y);

  private:
    // Rows of floats in 8 bits, each filled up with zeros to whole blocks.
    struct QuantizedCopy {
        std::vector<int8_t> q;
        std::vector<float> d, s, padded;

        void resize(int n_rows, int64_t n_cols);
        void set(const Kernels& kernels, int row, const float* x, int n);
        QuantizedRows rows() const { return {q.data(), d.data(), s.data(), n_cols_}; }

      private:
        int64_t n_cols_ = 0;
    };
    // Rows of one sequence that are computed together, for one K/V head.
    struct Tile {
        const SequenceRows* sequence;
        int row_begin, row_end;
        int n_splits;
    };
    // What one thread needs to run a tile; reused from call to call.
    struct Scratch {
        std::vector<const float*> q;
        std::vector<float*> acc;
        std::vector<int> n_visible;
        std::vector<float> floats;
        QuantizedCopy quantized;
    };
    struct Job;

    void plan_tiles(const AttentionBatch& batch, int group);
    void run_split(const Job& job, const Tile& tile, int kv_head, int split, int step, Scratch& scratch,
                   float* m, float* l, float* acc) const;

    void store_row(const KvLayout& layout, const float* source, uint8_t* target);

    ThreadPool& pool_;
    const Kernels& kernels_;
    QuantizedCopy stored_;
    std::vector<Tile> tiles_;
    std::vector<Scratch> scratch_;
    std::vector<float> partials_;
};

}  // namespace chatglm::cpu
