#include "generate/draft_model.h"

#include <algorithm>
#include <chrono>

#include "chatglm/error.h"
#include "generate/softmax.h"
#include "model/load_config.h"
#include "model/memory_need.h"
#include "model/model_file.h"

namespace chatglm {
namespace {

// What `read` returns. What is wrong with the file is said of the draft, not of the model.
template <class Read>
auto of_draft(const Read& read) {
    try {
        return read();
    } catch (const FormatError& error) {
        throw InvalidArgument(std::string("The draft model: ") + error.what());
    }
}

// Its tokens have to be those of `target`, for what is drafted are their ids.
void check_vocabulary(const GgufFile& file, const std::string& path, const Tokenizer& target) {
    const auto refuse = [&](const std::string& why) {
        throw InvalidArgument("'" + path + "' cannot draft for this model: " + why +
                              " Take a smaller model with the same vocabulary, of the same generation.");
    };
    const auto tokenizer = Tokenizer::from_gguf(file);
    if (tokenizer->vocab_size() != target.vocab_size()) {
        refuse("its vocabulary has " + std::to_string(tokenizer->vocab_size()) + " tokens, the model's " +
               std::to_string(target.vocab_size()) + ".");
    }
    for (int32_t id = 0; id < target.vocab_size(); ++id) {
        if (tokenizer->token_bytes(id, false) != target.token_bytes(id, false)) {
            refuse("its token " + std::to_string(id) + " is another one.");
        }
    }
}

GlmModel load_draft(const GgufFile& file, const std::string& path, Backend& backend,
                    const Tokenizer& target) {
    return of_draft([&] {
        check_vocabulary(file, path, target);
        return GlmModel(file, backend);
    });
}

}  // namespace

DraftFile::DraftFile(const std::string& path, Backend& backend, const Tokenizer& tokenizer, int vocab_size)
    : file(of_draft([&] { return open_model_file(path); })),
      model(load_draft(file, path, backend, tokenizer)),
      n_tokens(std::min({tokenizer.vocab_size(), vocab_size, model.config().vocab_size})) {}

int64_t draft_memory_need(const std::string& path, DType kv, int n_tokens, int n_rows) {
    return of_draft([&] {
        const GgufFile file = open_model_file(path);
        const ModelConfig config = load_config(file);
        return memory_need(file, config, kv, std::min(n_tokens, config.max_length), n_rows).total();
    });
}

DraftModel::DraftModel(const DraftFile& draft, Backend& backend, DType kv, int64_t cache_bytes,
                       const Pace& pace)
    : draft_(draft),
      cache_(backend, draft.model.kv_layout(kv)),
      prefixes_(cache_, draft.model.config().prefix_length),
      budget_(cache_bytes / static_cast<int64_t>(cache_.layout().page_bytes())),
      pace_(pace) {}

int DraftModel::pages_for(size_t n_ids) const {
    const int n_slots = draft_.model.config().prefix_length + static_cast<int>(n_ids);
    return (n_slots + cache_.layout().page_size - 1) / cache_.layout().page_size;
}

bool DraftModel::make_room(int n_pages) {
    while (cache_.used_pages() + n_pages > budget_) {
        if (!prefixes_.evict_one()) return false;
    }
    return true;
}

void DraftModel::forget(int64_t key) {
    const auto found = states_.find(key);
    if (found == states_.end()) return;
    State& state = found->second;
    if (draft_.model.config().positions == PositionKind::causal) {
        prefixes_.insert(state.sequence, std::span(state.ids).first(state.n_computed), nullptr);
    }
    cache_.release(state.sequence);
    states_.erase(found);
    make_room(0);
    cache_.shrink(budget_);
}

// The state of a reply, without what it does not go on with.
DraftModel::State* DraftModel::find_or_begin(const Draft& draft) {
    const ModelConfig& config = draft_.model.config();
    const auto limit = draft.ids.first(draft.ids.size() - 1);  // something is left to compute
    const auto found = states_.find(draft.key);
    if (found != states_.end()) {
        State& state = found->second;
        const auto n = static_cast<std::ptrdiff_t>(std::min(state.n_computed, limit.size()));
        const auto same = std::mismatch(state.ids.begin(), state.ids.begin() + n, limit.begin()).first;
        state.n_computed = static_cast<size_t>(same - state.ids.begin());
        state.ids.resize(state.n_computed);
        cache_.truncate(state.sequence, config.prefix_length + static_cast<int>(state.n_computed));
        return &state;
    }
    State state;
    PrefixCache::Match match;
    if (config.positions == PositionKind::causal && make_room(1)) match = prefixes_.find(limit, nullptr);
    if (match.n_tokens > 0) {
        state.sequence = cache_.share(match.pages, match.n_slots);
        state.n_computed = static_cast<size_t>(match.n_tokens);
        state.ids.assign(limit.begin(), limit.begin() + match.n_tokens);
    } else {
        state.sequence = draft_.model.create_sequence(cache_);
    }
    return &states_.emplace(draft.key, std::move(state)).first->second;
}

// Those of `drafts` that this model can compute, and has room for.
std::vector<DraftModel::Run> DraftModel::prepare(std::span<const Draft> drafts) {
    const ModelConfig& config = draft_.model.config();
    std::vector<Run> runs;
    int promised = 0;
    for (const Draft& draft : drafts) {
        draft.tokens->clear();
        const size_t n_most = draft.ids.size() + static_cast<size_t>(draft.n_tokens);
        if (draft.n_tokens < 1 || n_most > static_cast<size_t>(config.max_length)) continue;
        if (pages_for(n_most) > budget_) continue;
        State* const state = find_or_begin(draft);
        const bool known = std::all_of(draft.ids.begin() + static_cast<std::ptrdiff_t>(state->n_computed),
                                       draft.ids.end(), [&](int32_t id) { return id < config.vocab_size; });
        const auto had = static_cast<int>(cache_.page_ids(state->sequence).size());
        const int more = std::max(0, pages_for(n_most) - had);
        if (!known || !make_room(promised + more)) {
            forget(draft.key);
            continue;
        }
        promised += more;
        runs.push_back({&draft, state});
    }
    return runs;
}

// Computes what is new of each reply, and leaves those in `runs` that have their first token by that.
void DraftModel::read(std::vector<Run>& runs) {
    const ModelConfig& config = draft_.model.config();
    Batch batch;
    int left = pace_.limits().mixed;
    std::vector<Run> complete;
    for (const Run& run : runs) {
        State& state = *run.state;
        const auto ids = run.draft->ids;
        const auto n_prompt = static_cast<size_t>(run.draft->n_prompt);
        const auto begin = static_cast<int>(state.n_computed), n = static_cast<int>(ids.size());
        const int end = std::min(n, std::max(begin + left, first_chunk(config, ids.first(n_prompt))));
        if (end <= begin) continue;
        left = std::max(0, left - (end - begin));
        batch.add(config, ids, begin, end, state.sequence, run.draft->n_prompt);
        state.ids.assign(ids.begin(), ids.begin() + end);
        if (end < n) continue;
        batch.wants_logits.back() = 1;
        complete.push_back(run);
    }
    logits_.resize(complete.size() * static_cast<size_t>(config.vocab_size));
    pace_.note(batch.size(), batch.size(), forward(batch));
    for (const Run& run : runs) run.state->n_computed = run.state->ids.size();
    runs = std::move(complete);
}

// Returns the seconds that it took.
double DraftModel::forward(const Batch& batch) {
    const auto start = std::chrono::steady_clock::now();
    draft_.model.forward(batch, cache_, logits_.data());
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Computes the last token of each run.
void DraftModel::step(std::span<const Run> runs) {
    Batch batch;
    for (const Run& run : runs) {
        State& state = *run.state;
        const auto n = static_cast<int>(state.ids.size());
        batch.add(draft_.model.config(), state.ids, n - 1, n, state.sequence, run.draft->n_prompt);
        batch.wants_logits.back() = 1;
    }
    times_.note(batch.size(), forward(batch));
    for (const Run& run : runs) run.state->n_computed = run.state->ids.size();
}

void DraftModel::draft(std::span<const Draft> drafts) {
    const auto vocab = static_cast<size_t>(draft_.model.config().vocab_size);
    const auto choose = [&](std::span<const Run> runs) {
        for (size_t i = 0; i < runs.size(); ++i) {
            const auto logits = std::span<const float>(logits_).subspan(i * vocab);
            runs[i].draft->tokens->push_back(argmax(logits.first(static_cast<size_t>(draft_.n_tokens))));
        }
    };
    try {
        std::vector<Run> runs = prepare(drafts);
        if (runs.empty()) return;
        read(runs);
        choose(runs);
        for (;;) {
            std::erase_if(runs, [](const Run& run) {
                return run.draft->tokens->size() == static_cast<size_t>(run.draft->n_tokens);
            });
            if (runs.empty()) return;
            for (const Run& run : runs) run.state->ids.push_back(run.draft->tokens->back());
            step(runs);
            choose(runs);
        }
    } catch (const OutOfMemory&) {
        for (const Draft& draft : drafts) draft.tokens->clear();
        while (!states_.empty()) {
            cache_.release(states_.begin()->second.sequence);
            states_.erase(states_.begin());
        }
        prefixes_.clear();
        cache_.shrink(0);
    }
}

}  // namespace chatglm
