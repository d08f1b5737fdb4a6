// A small model that guesses what a larger one says.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "chatglm/tokenizer.h"
#include "format/gguf.h"
#include "generate/prefix_cache.h"
#include "generate/scheduler.h"
#include "generate/speculation.h"
#include "model/glm_model.h"

namespace chatglm {

// The file of a draft model, which is immutable as every model is.
struct DraftFile {
    // Throws FileError, OutOfMemory, and InvalidArgument when the file at `path` is damaged, no model, or one
    // whose tokens are not those of `tokenizer`. The model that it drafts for has `vocab_size` rows of
    // logits.
    DraftFile(const std::string& path, Backend& backend, const Tokenizer& tokenizer, int vocab_size);

    GgufFile file;
    GlmModel model;
    int n_tokens;  // that both models know
};

// Bytes that the draft model at `path` and its cache for `n_tokens` need. Throws as DraftFile.
int64_t draft_memory_need(const std::string& path, DType kv, int n_tokens, int n_rows);

// Its work, with a cache of its own. Used by one thread. No result depends on it, so where there is no memory
// for a draft there is none.
class DraftModel {
  public:
    // `cache_bytes` bounds its keys and values, `pace` the time for which a call reads prompts. `draft` must
    // outlive it.
    DraftModel(const DraftFile& draft, Backend& backend, DType kv, int64_t cache_bytes, const Pace& pace);

    struct Draft {
        int64_t key;                   // of the reply
        std::span<const int32_t> ids;  // prompt and reply so far
        int n_prompt;                  // of these, the prompt's
        int n_tokens;                  // wanted
        std::vector<int32_t>* tokens;  // what it gets, greedily chosen: as many or none
    };
    // Long prompts are read in several calls, until the last of which there is no draft.
    void draft(std::span<const Draft> drafts);

    // Gives back what was computed for a reply.
    void forget(int64_t key);

    // Seconds of a step that has one row for each of `n_rows` replies; 0 when it is not known yet.
    double step_seconds(int n_rows) const { return times_.seconds(n_rows); }
    int64_t file_bytes() const { return draft_.model.config().file_bytes; }
    int pages_in_use() const { return cache_.used_pages() - cache_.idle_pages(); }

  private:
    struct State {
        KvCache::SequenceId sequence;
        std::vector<int32_t> ids;  // of which the last were perhaps only guessed
        size_t n_computed = 0;     // of these, in the cache
    };
    struct Run {
        const Draft* draft;
        State* state;
    };
    State* find_or_begin(const Draft& draft);
    bool make_room(int n_pages);
    std::vector<Run> prepare(std::span<const Draft> drafts);
    void read(std::vector<Run>& runs);
    void step(std::span<const Run> runs);
    double forward(const Batch& batch);
    int pages_for(size_t n_ids) const;

    const DraftFile& draft_;
    KvCache cache_;
    PrefixCache prefixes_;
    const int64_t budget_;  // pages
    std::map<int64_t, State> states_;
    Pace pace_;
    StepTimes times_;
    std::vector<float> logits_;  // (drafts, vocab_size)
};

}  // namespace chatglm
