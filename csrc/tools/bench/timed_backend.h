// A backend that hands every operation to another one and keeps account of it.
#pragma once

#include <map>
#include <memory>
#include <span>
#include <utility>

#include "backend/backend.h"

namespace chatglm {

// What forward passes did since reset().
struct Work {
    double product_seconds = 0;    // in linear()
    double attention_seconds = 0;  // in attention()
    double bytes = 0;  // of weight matrices and of the cache that had to be read, each once an operation
    std::map<DType, double> products;  // multiply-adds of linear() by the type of the weights
    double attention_products = 0;     // multiply-adds
};

class TimedBackend final : public Backend {
  public:
    explicit TimedBackend(std::unique_ptr<Backend> inner) : inner_(std::move(inner)) {}

    const Work& work() const { return work_; }
    void reset() { work_ = {}; }

    const char* isa() const override { return inner_->isa(); }
    int n_threads() const override { return inner_->n_threads(); }
    Weight load_matrix(const GgufTensor& tensor) override { return inner_->load_matrix(tensor); }
    void embed(const Weight& table, std::span<const int32_t> ids, float* y) override {
        inner_->embed(table, ids, y);
    }
    void norm(NormKind kind, const float* x, int n_rows, int n, const NormWeight& w, float eps,
              float* y) override {
        inner_->norm(kind, x, n_rows, n, w, eps, y);
    }
    void linear(const float* x, int n_rows, const Weight& w, const float* bias, float* y,
                int64_t y_stride) override;
    void rope(float* x, int n_rows, int64_t stride, int n_heads, int head_dim,
              const RopeAngles& angles) override {
        inner_->rope(x, n_rows, stride, n_heads, head_dim, angles);
    }
    void store_kv(const KvLayout& layout, int layer, const AttentionBatch& batch, const float* k,
                  const float* v, int64_t stride) override {
        inner_->store_kv(layout, layer, batch, k, v, stride);
    }
    void attention(const KvLayout& layout, int layer, const AttentionBatch& batch, const float* q,
                   int64_t stride, int n_heads, float* y) override;
    void swiglu(const float* x, int n_rows, int n, float* y) override { inner_->swiglu(x, n_rows, n, y); }
    void gelu(float* x, int n_rows, int n) override { inner_->gelu(x, n_rows, n); }
    void add(const float* x, float scale, float* y, int64_t count) override {
        inner_->add(x, scale, y, count);
    }
    void gather(const float* x, std::span<const int32_t> rows, int n, float* y) override {
        inner_->gather(x, rows, n, y);
    }
    void upload(const void* host, void* device, size_t bytes) override {
        inner_->upload(host, device, bytes);
    }
    void download(const void* device, void* host, size_t bytes) override {
        inner_->download(device, host, bytes);
    }

  protected:
    uint8_t* acquire(size_t bytes) override { return inner_->allocate(bytes).release(); }
    void release(uint8_t* p) override { Release{inner_.get()}(p); }

  private:
    std::unique_ptr<Backend> inner_;
    Work work_;
};

}  // namespace chatglm
