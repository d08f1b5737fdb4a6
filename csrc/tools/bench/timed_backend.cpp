#include "tools/bench/timed_backend.h"

#include <algorithm>
#include <chrono>

namespace chatglm {
namespace {

template <class Operation>
double seconds_of(const Operation& operation) {
    const auto start = std::chrono::steady_clock::now();
    operation();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

void TimedBackend::linear(const float* x, int n_rows, const Weight& w, const float* bias, float* y,
                          int64_t y_stride) {
    work_.product_seconds += seconds_of([&] { inner_->linear(x, n_rows, w, bias, y, y_stride); });
    work_.bytes += static_cast<double>(w.rows) * static_cast<double>(row_bytes(w.type, w.cols));
    work_.products[w.type] +=
        static_cast<double>(n_rows) * static_cast<double>(w.rows) * static_cast<double>(w.cols);
}

void TimedBackend::attention(const KvLayout& layout, int layer, const AttentionBatch& batch, const float* q,
                             int64_t stride, int n_heads, float* y) {
    work_.attention_seconds +=
        seconds_of([&] { inner_->attention(layout, layer, batch, q, stride, n_heads, y); });
    const double slot_bytes =
        static_cast<double>(layout.layer_bytes()) / static_cast<double>(layout.page_size);
    for (const SequenceRows& sequence : batch.sequences) {
        int longest = 0;
        for (int row = sequence.row_begin; row < sequence.row_end; ++row) {
            const int visible = batch.n_visible[static_cast<size_t>(row)];
            longest = std::max(longest, visible);
            // A score and a weighted sum of values, for each dimension of each head.
            work_.attention_products += 2.0 * visible * n_heads * layout.head_dim;
        }
        work_.bytes += longest * slot_bytes;
    }
}

}  // namespace chatglm
