#include "generate/embedding_job.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "chatglm/error.h"
#include "generate/softmax.h"

namespace chatglm {
namespace {

// Texts in one batch. Each has a page of the cache to itself, however short it is.
constexpr size_t kMostTexts = 16;

}  // namespace

EmbeddingJob::EmbeddingJob(std::span<const std::vector<int32_t>> texts, const EmbeddingOptions& options,
                           std::shared_ptr<const LoraChoice> loras, float* out)
    : texts_(texts), options_(options), loras_(std::move(loras)), out_(out) {}

Batch EmbeddingJob::next(const GlmModel& model, KvCache& cache, int n_rows) {
    Batch batch;
    parts_.clear();
    int begin = n_computed_;
    for (size_t i = n_done_; i < texts_.size() && parts_.size() < kMostTexts; ++i) {
        const std::vector<int32_t>& ids = texts_[i];
        const int n_ids = static_cast<int>(ids.size()), room = n_rows - batch.size();
        const int first = begin == 0 ? first_chunk(model.config(), ids) : 0;
        if (!parts_.empty() && room < std::max(first, 1)) break;
        const int end = std::min(n_ids, begin + std::max(first, room));
        if (begin == 0) sequences_.push_back(model.create_sequence(cache));
        batch.add(model.config(), ids, begin, end, sequences_[parts_.size()]);
        parts_.push_back({begin, end});
        begin = 0;
        if (end < n_ids) break;
    }
    std::fill(batch.wants_logits.begin(), batch.wants_logits.end(), uint8_t{1});
    hidden_states_.resize(static_cast<size_t>(batch.size()) *
                          static_cast<size_t>(model.config().hidden_size));
    sums_.resize(static_cast<size_t>(model.config().hidden_size));
    return batch;
}

void EmbeddingJob::pool(KvCache& cache) {
    const size_t width = sums_.size();
    std::span<const float> rows(hidden_states_);
    for (const auto& [begin, end] : parts_) {
        if (begin == 0) std::fill(sums_.begin(), sums_.end(), 0.0);
        const int n_ids = static_cast<int>(texts_[n_done_].size());
        for (int i = begin; i < end; ++i) {
            const auto row = rows.first(width);
            rows = rows.subspan(width);
            if (options_.pooling == Pooling::last && i + 1 < n_ids) continue;
            for (size_t j = 0; j < width; ++j) sums_[j] += row[j];
        }
        n_computed_ = end;
        if (end < n_ids) return;
        finish(std::span(out_ + n_done_ * width, width), n_ids);
        cache.release(sequences_.front());
        sequences_.erase(sequences_.begin());
        ++n_done_;
        n_computed_ = 0;
    }
}

void EmbeddingJob::finish(std::span<float> out, int n_tokens) const {
    double divisor = options_.pooling == Pooling::mean ? n_tokens : 1;
    if (options_.normalize) {
        double squares = 0;
        for (const double x : sums_) squares += x * x;
        if (squares > 0) divisor = std::sqrt(squares);
    }
    std::transform(sums_.begin(), sums_.end(), out.begin(),
                   [&](double x) { return static_cast<float>(x / divisor); });
    if (!all_finite(out)) {
        throw Error(
            "The model computed something that is no number: its file is damaged, or the scale of an "
            "adapter is too large.");
    }
}

void EmbeddingJob::release(KvCache& cache) {
    for (const auto sequence : std::exchange(sequences_, {})) cache.release(sequence);
}

}  // namespace chatglm
