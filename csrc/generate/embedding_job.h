// Texts on their way to one vector each.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "chatglm/pipeline.h"
#include "generate/lora_choice.h"
#include "model/glm_model.h"

namespace chatglm {

// Used by the engine's thread. Texts are cut anywhere, and computed several at a time: the sums of each run
// over its tokens in order, so neither shows in a result.
class EmbeddingJob {
  public:
    // `texts` and `out` (texts.size(), hidden_size) must outlive the job.
    EmbeddingJob(std::span<const std::vector<int32_t>> texts, const EmbeddingOptions& options,
                 std::shared_ptr<const LoraChoice> loras, float* out);

    bool done() const { return n_done_ == texts_.size(); }
    const LoraSet& loras() const { return loras_->active; }

    // The next rows, `n_rows` of them at most where texts can be cut so; sequences of texts that begin with
    // them are made in `cache`.
    Batch next(const GlmModel& model, KvCache& cache, int n_rows);
    // Tokens [begin, end) of each text in the batch.
    struct Part {
        int begin, end;
    };
    const std::vector<Part>& parts() const { return parts_; }
    // Where the batch's hidden states go: (rows, hidden_size).
    float* hidden_states() { return hidden_states_.data(); }
    // Takes them in; the texts that are complete get their vectors and give their memory back. Throws Error
    // when one holds something that is no number.
    void pool(KvCache& cache);

    // Gives back the memory of texts that will not be completed.
    void release(KvCache& cache);

  private:
    void finish(std::span<float> out, int n_tokens) const;

    std::span<const std::vector<int32_t>> texts_;
    const EmbeddingOptions options_;
    const std::shared_ptr<const LoraChoice> loras_;
    float* out_;
    size_t n_done_ = 0;                           // texts
    int n_computed_ = 0;                          // tokens of the text after them
    std::vector<KvCache::SequenceId> sequences_;  // of texts that are being computed
    std::vector<Part> parts_;
    std::vector<float> hidden_states_;
    std::vector<double> sums_;  // (hidden_size,) of the first text that is being computed
};

}  // namespace chatglm
