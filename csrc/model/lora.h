// LoRA adapters that are kept apart from the weights: y = W x + scale * alpha / rank * B (A x).
#pragma once

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "chatglm/model.h"
#include "format/gguf.h"

namespace chatglm {

// The products of a layer that an adapter can change.
enum class LoraTarget { qkv, attention_output, ffn_up, ffn_down };
inline constexpr int kLoraTargets = 4;

// One adapter file, in the conventions of llama.cpp: tensors NAME.lora_a (rank, columns) and NAME.lora_b
// (rows, rank) for matrices NAME of the model. Immutable after construction.
class LoraAdapter {
  public:
    struct Factor {
        Weight a, b;
        int64_t row_offset = 0;  // where the rows of b begin in the target: q, k and v may be apart
        float scale = 1;         // alpha / rank
    };

    // Reads the file at `path` into memory: adapters are small, and people replace them. Throws FileError;
    // FormatError when it is no adapter, or one of another model.
    LoraAdapter(const std::string& path, const ModelConfig& model, Backend& backend);

    const std::vector<Factor>& factors(int layer, LoraTarget target) const {
        return layers_[static_cast<size_t>(layer)][static_cast<size_t>(target)];
    }
    const std::vector<Factor>& output_factors() const { return output_; }
    const GgufFile& file() const { return file_; }
    int64_t max_rank() const { return max_rank_; }

  private:
    // Where the factors of a matrix go, and the shape that the model gives it.
    struct Place {
        std::vector<Factor>* factors;
        int64_t row_offset, rows, cols;
    };
    Place find_place(const std::string& name, const ModelConfig& model);

    GgufFile file_;
    std::vector<std::array<std::vector<Factor>, kLoraTargets>> layers_;
    std::vector<Factor> output_;
    int64_t max_rank_ = 0;
};

// An adapter in use; `scale` multiplies its own.
struct ActiveLora {
    std::shared_ptr<const LoraAdapter> adapter;
    float scale = 1;
};
using LoraSet = std::vector<ActiveLora>;

}  // namespace chatglm
