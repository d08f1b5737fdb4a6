// The replies that are being computed, step by step.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "chatglm/pipeline.h"
#include "generate/draft_model.h"
#include "generate/embedding_job.h"
#include "generate/prefix_cache.h"
#include "generate/request.h"
#include "generate/scheduler.h"
#include "generate/speculation.h"
#include "model/glm_model.h"

namespace chatglm {

// Owns the cache. Used by one thread; what the outboxes of the replies are to learn from a step waits for
// publish(), so that whoever hears of the end of a reply finds its memory given back.
class BatchLoop {
  public:
    BatchLoop(const GlmModel& model, Backend& backend, const Tokenizer& tokenizer,
              const PipelineOptions& options, DType kv, const DraftFile* draft = nullptr);

    // Whether another reply can begin beside those that run.
    bool has_room_for(const Request& request) const;
    void add(std::shared_ptr<Request> request);

    // Computes the next rows. Replies that nobody wants any more end first; when nobody wants any of the
    // rows, or `stop` is set, the step is undone at the next layer.
    void step(const std::atomic<bool>& stop);

    // Replies that had to give their memory to older ones since the last call, oldest first. Added again,
    // they go on where they were.
    std::vector<std::shared_ptr<Request>> take_preempted();
    // Ends all replies, as cancelled or with an error.
    void cancel_all();
    void fail_all(const std::exception_ptr& error);
    // Tells the outboxes what has happened since the last call.
    void publish();

    // Computes some of `ids` from `begin` on in a sequence of the caller's, with the logits of all of them in
    // `logits` (n, vocab_size); returns where it ended.
    int compute_logits(std::span<const int32_t> ids, int begin, KvCache::SequenceId sequence,
                       const LoraSet& loras, float* logits, const std::function<bool()>& interrupted);

    // Computes the next part of texts whose hidden states are wanted.
    void compute_embeddings(EmbeddingJob& job, const std::function<bool()>& interrupted);

    // For others to read or fill while replies go on, a sequence of whole pages: those that the cache has of
    // the beginning of `ids`, and of how many ids; or new ones, `n_pages` or as many as the budget has room
    // for. To be let go of; keep() leaves what was filled in for later replies.
    std::pair<KvCache::SequenceId, int> share_known_pages(std::span<const int32_t> ids,
                                                          const PrefixCache::Origin& loras);
    KvCache::SequenceId new_pages(int n_pages);
    void keep(KvCache::SequenceId sequence, std::span<const int32_t> ids, const PrefixCache::Origin& loras);
    void let_go(KvCache::SequenceId sequence);

    // Evicts what other replies left behind until `n_pages` more fit in the budget; false when they do not.
    bool make_room(int n_pages);
    void clear_prefixes() { prefixes_.clear(); }
    KvCache& cache() { return cache_; }

    const std::vector<std::shared_ptr<Request>>& running() const { return running_; }
    int size() const { return static_cast<int>(running_.size()); }
    int64_t pages_in_use() const { return cache_.used_pages() - cache_.idle_pages(); }
    int64_t pages_cached() const { return prefixes_.pages(); }

    // Pages for `n_ids` ids of a sequence.
    int pages_for(int n_ids) const;
    // Most pages that a request can come to need.
    int64_t pages_for_longest(const Request& request) const;
    // Most pages when the user has set a budget, else -1.
    int64_t most_pages() const { return most_pages_; }

  private:
    using Plan = std::vector<Share>;

    int pages_to_come(const Request& request) const;
    void drop_ended();
    void begin(Request& request);
    Plan plan();
    int new_pages(const Plan& plan) const;
    int task_rows() const;
    void forward(const Batch& batch, int n_prompt_rows, float* out, const LoraSet& loras,
                 const std::function<bool()>& interrupted, Output output = Output::logits);
    void compute(const Plan& plan, const std::atomic<bool>& stop);
    // `logits` (request->n_rows(), vocab_size) of a request whose ids are all computed.
    void choose(const std::shared_ptr<Request>& request, std::span<float> logits);
    void choose_token(const std::shared_ptr<Request>& request, std::span<float> logits);
    size_t n_tokens(size_t vocab_size) const;
    static void refuse_no_numbers(std::span<const float> logits);

    void choose_beams(const std::shared_ptr<Request>& request, std::span<float> logits);
    void fork_beams();
    void follow_parents(Request& request);
    int new_pages_of_beams(const Request& request) const;
    void add_beams(const Request& request, Batch& batch) const;
    void finish_beams(const std::shared_ptr<Request>& request, FinishReason reason);
    void drop_beams(Request& request);

    void guess(const Plan& plan);
    bool drop_guesses();
    void look_up(std::span<Request* const> replies, int n_rows);
    void draft(std::span<Request* const> replies, int n_rows);
    size_t add_rows(const Share& share, Batch& batch);
    void choose_tokens(const std::shared_ptr<Request>& request, std::span<float> logits);
    void handle_out_of_memory(const std::exception_ptr& error);
    void preempt_youngest();
    void free_pages(Request& request, bool keep);
    void retire(const std::shared_ptr<Request>& request, FinishReason reason);
    void fail(const std::shared_ptr<Request>& request, std::exception_ptr error);
    void remove(const std::shared_ptr<Request>& request);
    void later(Request* request, const std::function<void(Outbox&)>& event) {
        for (Outbox* outbox : request->outboxes()) events_.emplace_back(outbox, event);
    }

    const GlmModel& model_;
    const Tokenizer& tokenizer_;
    const int max_sequences_;
    KvCache cache_;
    PrefixCache prefixes_;
    int64_t budget_;            // pages; less than the user's when the system has no more
    const int64_t most_pages_;  // the user's, or -1
    Pace pace_;
    const bool lookup_allowed_, lookup_always_;
    const int draft_tokens_;  // 0: as many as pay
    StepTimes times_;         // of steps without prompts
    std::unique_ptr<DraftModel> draft_;
    int64_t n_added_ = 0, n_steps_ = 0;
    std::vector<std::shared_ptr<Request>> running_, preempted_;
    std::vector<std::shared_ptr<Request>> ended_;    // not running any more, until their outboxes know
    std::vector<std::shared_ptr<Request>> planned_;  // whose work the plan is for
    std::vector<float> logits_;                      // (rows that want them, vocab_size)
    std::vector<std::pair<Outbox*, std::function<void(Outbox&)>>> events_;
};

}  // namespace chatglm
