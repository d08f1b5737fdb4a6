// The forward pass of the whole family. A model is immutable after construction; what changes from token to
// token lives in the KvCache that is passed in, and the scratch buffers in a Workspace.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "chatglm/model.h"
#include "model/batch.h"
#include "model/kv_cache.h"
#include "model/lora.h"
#include "model/repacked_weights.h"

namespace chatglm {

struct LayerWeights {
    NormWeight attention_norm, ffn_norm;            // before the sublayer
    NormWeight post_attention_norm, post_ffn_norm;  // after it, only with post_norms
    Weight qkv;  // ((n_heads + 2 n_kv_heads) * head_dim, hidden); empty when the file has q, k, v apart
    Weight q, k, v;
    const float *qkv_bias = nullptr, *q_bias = nullptr, *k_bias = nullptr, *v_bias = nullptr;
    Weight attention_output;  // (hidden, n_heads * head_dim)
    Weight ffn_up;            // SwiGLU: (2 * ffn, hidden) = [gate; up]; GELU: (ffn, hidden)
    Weight ffn_down;          // (hidden, ffn)
    const float *attention_output_bias = nullptr, *ffn_up_bias = nullptr, *ffn_down_bias = nullptr;
    const float *prefix_k = nullptr,
                *prefix_v = nullptr;  // (prefix_length, n_kv_heads * head_dim), not rotated
};

// What a forward pass gives of a row.
enum class Output {
    logits,         // (vocab_size,)
    hidden_states,  // (hidden_size,), after the final norm: what the logits are made of
};

class GlmModel {
  public:
    // Maps the weights of `file`, which must outlive the model. Throws FormatError naming the tensor at
    // fault, OutOfMemory.
    GlmModel(const GgufFile& file, Backend& backend);

    const ModelConfig& config() const { return config_; }
    // Sentences for the user about how the file was loaded.
    std::vector<std::string> notes() const { return repacked_.notes(); }
    KvLayout kv_layout(DType type) const;

    // A sequence that holds the model's learnt prefix (config().prefix_length slots, usually none) and no
    // token.
    KvCache::SequenceId create_sequence(KvCache& cache) const;

    // Appends the batch's rows to their sequences in `cache` and writes the `output` of the rows that want
    // logits, in order, to `out` (n_wanted, size of an output) in host memory. `loras` change all rows alike.
    // Not for use from several threads at once. Throws InvalidArgument for ids outside the vocabulary,
    // Interrupted when `interrupted` (asked before each layer) says true; after any exception the cache is as
    // it was.
    void forward(const Batch& batch, KvCache& cache, float* out, const LoraSet& loras = {},
                 const std::function<bool()>& interrupted = nullptr, Output output = Output::logits) const;

  private:
    struct Workspace;
    void reserve(int n_rows) const;
    void project_qkv(const LayerWeights& layer, const float* x, int n_rows, float* qkv) const;
    void reserve_low_rank(int n_rows, const LoraSet& loras) const;
    void add_low_rank(const LoraAdapter::Factor& factor, float scale, const float* x, int n_rows, float* y,
                      int64_t y_stride) const;

    ModelConfig config_;
    Backend& backend_;
    Weight embedding_, output_;
    NormWeight output_norm_;
    std::vector<LayerWeights> layers_;
    std::vector<Backend::Buffer> vectors_;  // norms and biases, widened to f32
    RepackedWeights repacked_;
    std::unique_ptr<Workspace, void (*)(Workspace*)> workspace_;
};

}  // namespace chatglm
