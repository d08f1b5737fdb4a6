#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <new>
#include <vector>

#include "backend/backend.h"
#include "backend/cpu/attention.h"
#include "backend/cpu/kernels/kernels.h"
#include "backend/cpu/outliers.h"
#include "chatglm/error.h"
#include "core/half.h"
#include "core/thread_pool.h"
#include "format/quantize.h"

namespace chatglm::cpu {
namespace {

constexpr std::align_val_t kAlignment{64};

// Fewer elements than this in one operation are done by the calling thread: waking others costs more (about 2
// us against 0.3 ns an element).
constexpr int64_t kSmall = 8192;

class CpuBackend final : public Backend {
  public:
    explicit CpuBackend(int n_threads) : pool_(n_threads), kernels_(kernels()), attention_(pool_, kernels_) {}

    const char* isa() const override { return kernels_.name; }
    int n_threads() const override { return pool_.size(); }

    Weight load_matrix(const GgufTensor& tensor) override {
        return {tensor.type, tensor.shape[0], tensor.shape[1], tensor.data.data()};
    }

    void embed(const Weight& table, std::span<const int32_t> ids, float* y) override {
        const int64_t bytes = row_bytes(table.type, table.cols);
        const auto* base = static_cast<const uint8_t*>(table.data);
        for_rows(static_cast<int64_t>(ids.size()), table.cols, [&](int64_t row) {
            dequantize_row(table.type, base + ids[row] * bytes, y + row * table.cols, table.cols);
        });
    }

    void norm(NormKind kind, const float* x, int n_rows, int n, const NormWeight& w, float eps,
              float* y) override {
        for_rows(n_rows, n, [&](int64_t row) {
            if (kind == NormKind::rms) {
                kernels_.rms_norm(x + row * n, w.weight, eps, y + row * n, n);
            } else {
                kernels_.layer_norm(x + row * n, w.weight, w.bias, eps, y + row * n, n);
            }
        });
    }

    void linear(const float* x, int n_rows, const Weight& w, const float* bias, float* y,
                int64_t y_stride) override {
        if (n_rows == 0) return;
        MatmulArgs shared{};
        shared.weight = w.data;
        shared.weight_stride = row_bytes(w.type, w.cols);
        shared.n_cols = w.cols;
        shared.n_rows = n_rows;
        shared.y = y;
        shared.y_stride = y_stride;
        if (is_quantized(w.type)) {
            shared.xq = quantize(x, n_rows, w.cols);
        } else {
            shared.x = x;
        }
        const auto matmul = kernels_.matmul(w.type);
        // About eight chunks a thread even out cores of different speed; 64 rows at least let the kernel's
        // prefetch run ahead. Many activation rows want chunks whose weights stay in the second-level cache
        // (~256 KB); for few, arranging them again for each chunk would take longer than that saves.
        int64_t chunk = std::max<int64_t>(64, w.rows / (8 * pool_.size()));
        if (n_rows > 32) chunk = std::min(chunk, std::max<int64_t>(16, 262144 / shared.weight_stride));
        chunk = (chunk + 15) / 16 * 16;
        pool_.parallel_for((w.rows + chunk - 1) / chunk, [&](int64_t i, int) {
            MatmulArgs args = shared;
            args.row_begin = i * chunk;
            args.row_end = std::min(w.rows, args.row_begin + chunk);
            matmul(args);
            for (int64_t row = 0; row < n_rows; ++row) {
                if (shared.xq.q) {
                    add_outliers(outliers_[static_cast<size_t>(row)], w.type, w.data, args.weight_stride,
                                 args.row_begin, args.row_end, y + row * y_stride + args.row_begin);
                }
                if (!bias) continue;
                kernels_.add_scaled(bias + args.row_begin, 1.0f, y + row * y_stride + args.row_begin,
                                    args.row_end - args.row_begin);
            }
        });
    }

    void rope(float* x, int n_rows, int64_t stride, int n_heads, int head_dim,
              const RopeAngles& angles) override {
        for_rows(n_rows, int64_t{n_heads} * angles.n_pairs, [&](int64_t row) {
            const float* cos = angles.cos + row * angles.n_pairs;
            const float* sin = angles.sin + row * angles.n_pairs;
            for (int head = 0; head < n_heads; ++head) {
                float* v = x + row * stride + int64_t{head} * head_dim;
                for (int i = 0; i < angles.n_pairs; ++i) {
                    const float a = v[2 * i], b = v[2 * i + 1];
                    v[2 * i] = a * cos[i] - b * sin[i];
                    v[2 * i + 1] = b * cos[i] + a * sin[i];
                }
            }
        });
    }

    void store_kv(const KvLayout& layout, int layer, const AttentionBatch& batch, const float* k,
                  const float* v, int64_t stride) override {
        attention_.store(layout, layer, batch, k, v, stride);
    }

    void attention(const KvLayout& layout, int layer, const AttentionBatch& batch, const float* q,
                   int64_t stride, int n_heads, float* y) override {
        attention_.attend(layout, layer, batch, q, stride, n_heads, y);
    }

    void swiglu(const float* x, int n_rows, int n, float* y) override {
        for_spans(n_rows, n, [&](int64_t row, int64_t begin, int64_t end) {
            kernels_.swiglu(x + row * 2 * n + begin, x + row * 2 * n + n + begin, y + row * n + begin,
                            end - begin);
        });
    }

    void gelu(float* x, int n_rows, int n) override {
        for_spans(n_rows, n, [&](int64_t row, int64_t begin, int64_t end) {
            kernels_.gelu(x + row * n + begin, x + row * n + begin, end - begin);
        });
    }

    void add(const float* x, float scale, float* y, int64_t count) override {
        for_spans(1, count, [&](int64_t, int64_t begin, int64_t end) {
            kernels_.add_scaled(x + begin, scale, y + begin, end - begin);
        });
    }

    void gather(const float* x, std::span<const int32_t> rows, int n, float* y) override {
        for (size_t i = 0; i < rows.size(); ++i) {
            std::memcpy(y + i * static_cast<size_t>(n), x + int64_t{rows[i]} * n,
                        static_cast<size_t>(n) * sizeof(float));
        }
    }

    void upload(const void* host, void* device, size_t bytes) override {
        if (bytes > 0) std::memcpy(device, host, bytes);  // of an empty vector, `host` may be null
    }
    void download(const void* device, void* host, size_t bytes) override { std::memcpy(host, device, bytes); }

  protected:
    uint8_t* acquire(size_t bytes) override {
        void* p = ::operator new(std::max<size_t>(bytes, 1), kAlignment, std::nothrow);
        if (!p) {
            throw OutOfMemory(
                "There is no memory for " + std::to_string(bytes >> 20) +
                " MiB of activations or cache. Close other programs, use a shorter context or a "
                "smaller model.");
        }
        std::memset(p, 0, bytes);
        return static_cast<uint8_t*>(p);
    }
    void release(uint8_t* p) override { ::operator delete(p, kAlignment); }

  private:
    // body(row) for every row, by several threads when there is enough to do.
    template <class Body>
    void for_rows(int64_t n_rows, int64_t n, const Body& body) {
        if (n_rows * n <= kSmall || n_rows == 1) {
            for (int64_t row = 0; row < n_rows; ++row) body(row);
            return;
        }
        const int64_t rows =
            std::max<int64_t>(1, std::min(kSmall / std::max<int64_t>(n, 1), n_rows / pool_.size()));
        pool_.parallel_for((n_rows + rows - 1) / rows, [&](int64_t chunk, int) {
            for (int64_t row = chunk * rows; row < std::min(n_rows, (chunk + 1) * rows); ++row) body(row);
        });
    }

    // body(row, begin, end) for spans of element-wise work; a span begins at a multiple of kSpan.
    template <class Body>
    void for_spans(int64_t n_rows, int64_t n, const Body& body) {
        constexpr int64_t kSpan = 4096;
        const int64_t spans = (n + kSpan - 1) / kSpan;
        const auto run = [&](int64_t i, int) {
            const int64_t begin = i % spans * kSpan;
            body(i / spans, begin, std::min(n, begin + kSpan));
        };
        if (n_rows * n <= kSmall) {
            for (int64_t i = 0; i < n_rows * spans; ++i) run(i, 0);
        } else {
            pool_.parallel_for(n_rows * spans, run);
        }
    }

    // Quantized copy of x (n_rows, n) without its outliers, in a buffer that the next call reuses.
    QuantizedRows quantize(const float* x, int64_t n_rows, int64_t n) {
        const int64_t n_blocks = n / kBlockSize;
        const auto bytes =
            static_cast<size_t>(n_rows * (n + 2 * n_blocks * static_cast<int64_t>(sizeof(float))));
        if (bytes > quantized_bytes_) {
            quantized_.reset();
            quantized_bytes_ = 0;
            quantized_ = allocate(bytes);
            quantized_bytes_ = bytes;
        }
        float* d = reinterpret_cast<float*>(quantized_.get());
        float* s = d + n_rows * n_blocks;
        auto* q = reinterpret_cast<int8_t*>(s + n_rows * n_blocks);
        if (outliers_.size() < static_cast<size_t>(n_rows)) outliers_.resize(static_cast<size_t>(n_rows));
        for_rows(n_rows, n, [&](int64_t row) {
            auto& outliers = outliers_[static_cast<size_t>(row)];
            find_outliers(x + row * n, n, outliers);
            // The callers' rows are scratch of the forward pass, but not ours to change.
            std::vector<float> rest;
            const float* source = x + row * n;
            if (!outliers.empty()) {
                rest.assign(source, source + n);
                for (const Outlier& outlier : outliers) rest[static_cast<size_t>(outlier.column)] = 0.0f;
                source = rest.data();
            }
            kernels_.quantize_row(source, n, q + row * n, d + row * n_blocks, s + row * n_blocks);
        });
        return {q, d, s, n};
    }

    ThreadPool pool_;
    const Kernels& kernels_;
    PagedAttention attention_;
    std::vector<std::vector<Outlier>> outliers_;  // per row of the quantized copy
    size_t quantized_bytes_ = 0;
    Buffer quantized_{nullptr, Release{this}};
};

}  // namespace
}  // namespace chatglm::cpu

namespace chatglm {

std::unique_ptr<Backend> make_cpu_backend(int n_threads) {
    return std::make_unique<cpu::CpuBackend>(n_threads);
}

}  // namespace chatglm
