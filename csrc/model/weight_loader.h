// Weights of a model by name, with their shapes checked.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "chatglm/model.h"
#include "core/thread_pool.h"
#include "format/gguf.h"
#include "model/repacked_weights.h"

namespace chatglm {

class WeightLoader {
  public:
    // Vectors are widened to f32 in memory of the backend, which `vectors` keeps alive; matrices of types
    // that the backend does not compute with live in `repacked`.
    WeightLoader(const GgufFile& file, Backend& backend, std::vector<Backend::Buffer>& vectors,
                 RepackedWeights& repacked)
        : file_(file), backend_(backend), vectors_(vectors), repacked_(repacked) {}

    bool has(const std::string& name) const { return file_.find_tensor(name) != nullptr; }

    // The matrix `name` of (rows, cols). Throws FormatError when it is absent or has another shape or a
    // type that cannot be used.
    Weight matrix(const std::string& name, int64_t rows, int64_t cols);
    const float* vector(const std::string& name, int64_t n);
    // The matrix `name` of (rows, cols), widened to f32.
    const float* rows(const std::string& name, int64_t n_rows, int64_t n_cols);
    const float* optional_vector(const std::string& name, int64_t n) {
        return has(name) ? vector(name, n) : nullptr;
    }
    // `name`.weight, and `name`.bias for layer norms.
    NormWeight norm(const std::string& name, int64_t n, NormKind kind);

  private:
    const float* widen(const GgufTensor& tensor, int64_t n);
    const GgufTensor& find(const std::string& name, const std::vector<int64_t>& shape) const;

    const GgufFile& file_;
    Backend& backend_;
    std::vector<Backend::Buffer>& vectors_;
    RepackedWeights& repacked_;
    std::optional<ThreadPool> pool_;  // repacks; made when there is something to do
};

}  // namespace chatglm
