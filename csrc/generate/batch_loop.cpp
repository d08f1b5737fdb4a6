#include "generate/batch_loop.h"

#include <algorithm>
#include <chrono>
#include <optional>
#include <utility>

#include "chatglm/error.h"

namespace chatglm {
namespace {

// A prompt waits for another one that is just being computed when it saves at least so many tokens by that;
// or all of them, as several replies to one prompt do.
constexpr int kWorthWaiting = 32;

// When the user sets no budget: what a few conversations need, or long ones with a small cache.
constexpr int64_t kDefaultBytes = int64_t{1} << 30;
constexpr int kDefaultTokens = 8192;

// A draft model has a cache of this part of the model's budget, beside it.
constexpr int64_t kDraftShare = 4;

int64_t budget_pages(const KvLayout& layout, int64_t cache_memory) {
    const auto page_bytes = static_cast<int64_t>(layout.page_bytes());
    if (cache_memory > 0) return cache_memory / page_bytes;
    return std::max(kDefaultBytes / page_bytes, int64_t{kDefaultTokens / layout.page_size});
}

int common_tokens(std::span<const int32_t> a, std::span<const int32_t> b) {
    const auto n = static_cast<std::ptrdiff_t>(std::min(a.size(), b.size()));
    return static_cast<int>(std::mismatch(a.begin(), a.begin() + n, b.begin()).first - a.begin());
}

// How many ids of `request`, but for the last one, are computed as those of `other` are. ChatGLM-6B numbers
// and masks a prompt by its length, so there it is the same prompt or nothing.
int usable_tokens(const ModelConfig& config, const Request& other, const Request& request) {
    if (other.loras != request.loras) return 0;
    const int n = common_tokens(other.ids, request.ids);
    const bool same_prompt = other.n_prompt == request.n_prompt && n >= request.n_prompt;
    if (config.positions != PositionKind::causal && !same_prompt) return 0;
    return std::min(n, static_cast<int>(request.ids.size()) - 1);
}

}  // namespace

BatchLoop::BatchLoop(const GlmModel& model, Backend& backend, const Tokenizer& tokenizer,
                     const PipelineOptions& options, DType kv, const DraftFile* draft)
    : model_(model),
      tokenizer_(tokenizer),
      max_sequences_(options.max_sequences),
      cache_(backend, model.kv_layout(kv)),
      prefixes_(cache_, model.config().prefix_length),
      budget_(budget_pages(cache_.layout(), options.cache_memory)),
      most_pages_(options.cache_memory > 0 ? budget_ : -1),
      pace_(options.prefill_chunk, options.max_pause),
      lookup_allowed_(options.prompt_lookup.value_or(true)),
      lookup_always_(options.prompt_lookup.value_or(false)),
      draft_tokens_(options.draft_tokens) {
    if (draft) {
        const int64_t bytes = budget_ * static_cast<int64_t>(cache_.layout().page_bytes()) / kDraftShare;
        draft_ = std::make_unique<DraftModel>(*draft, backend, kv, bytes, pace_);
    }
}

int BatchLoop::pages_for(int n_ids) const {
    const int64_t slots = int64_t{model_.config().prefix_length} + n_ids;
    return static_cast<int>((slots + cache_.layout().page_size - 1) / cache_.layout().page_size);
}

int64_t BatchLoop::pages_for_longest(const Request& request) const {
    const int most = pages_for(request.longest() - 1);  // nothing is computed with the last token
    const int64_t n_beams = request.config.num_beams;
    if (n_beams == 1) return most;
    // Beams have the whole pages of the prompt in common.
    const int shared = (model_.config().prefix_length + request.n_prompt) / cache_.layout().page_size;
    return pages_for(request.n_prompt) + n_beams * (most - shared);
}

bool BatchLoop::has_room_for(const Request& request) const {
    if (running_.empty()) return true;
    int n_sequences = request.config.num_beams;
    for (const auto& other : running_) n_sequences += other->config.num_beams;
    if (n_sequences > max_sequences_) return false;
    int64_t pages = pages_in_use();
    for (const auto& other : running_) pages += pages_to_come(*other);
    return pages + pages_to_come(request) <= budget_;
}

// Pages that the ids of a request, and one more, need beyond those that it has or shares with one before it.
int BatchLoop::pages_to_come(const Request& request) const {
    const int n_beams = request.config.num_beams;
    const int needed =
        pages_for(static_cast<int>(request.ids.size()) + 1) + (n_beams > 1 && !request.beams ? n_beams : 0);
    if (request.sequence) return needed - static_cast<int>(cache_.page_ids(*request.sequence).size());
    int n_shared = 0;
    for (const auto& other : running_) {
        if (other.get() == &request) break;
        n_shared = std::max(n_shared, usable_tokens(model_.config(), *other, request));
    }
    return needed - (model_.config().prefix_length + n_shared) / cache_.layout().page_size;
}

void BatchLoop::add(std::shared_ptr<Request> request) {
    if (request->number == 0) request->number = ++n_added_;
    running_.push_back(std::move(request));
}

void BatchLoop::step(const std::atomic<bool>& stop) {
    drop_ended();
    try {
        for (const auto& request : running_) {
            if (!request->sequence) begin(*request);
        }
        fork_beams();
    } catch (const OutOfMemory&) {
        handle_out_of_memory(std::current_exception());
        return;
    }
    Plan next = plan();
    while (!make_room(new_pages(next)) && running_.size() > 1) {
        preempt_youngest();
        next = plan();
    }
    if (next.empty()) return;
    guess(next);
    compute(next, stop);
}

void BatchLoop::drop_ended() {
    const auto all = running_;
    for (const auto& request : all) {
        if (request->ended()) {
            retire(request, FinishReason::kCancelled);
        } else if (request->expired()) {
            retire(request, FinishReason::kDeadline);
        }
    }
}

// Gives the request a sequence that holds as much of its ids as is known; or leaves it for a later step, when
// another one that begins alike is being computed.
void BatchLoop::begin(Request& request) {
    const auto limit = std::span<const int32_t>(request.ids).first(request.ids.size() - 1);
    const int n_prefix = model_.config().prefix_length;
    const bool may_copy = make_room(1);
    PrefixCache::Match match;
    if (model_.config().positions == PositionKind::causal) match = prefixes_.find(limit, request.loras);
    int known = match.n_tokens, promised = 0;
    const Request* donor = nullptr;
    for (const auto& other : running_) {
        if (!other->sequence) continue;
        const int common = usable_tokens(model_.config(), *other, request);
        if (std::min(common, other->n_computed) > known) {
            known = std::min(common, other->n_computed);
            donor = other.get();
        }
        if (!other->decoding) promised = std::max(promised, common);
    }
    const bool whole = promised == static_cast<int>(limit.size());
    if (promised >= known + (whole ? 1 : kWorthWaiting)) return;
    std::vector<int> pages = std::move(match.pages);
    if (donor) {
        const auto donated = cache_.page_ids(*donor->sequence);
        pages.assign(donated.begin(), donated.end());
    }
    int n_slots = known > 0 ? n_prefix + known : 0;
    // A part of a page would be copied. A context that must be computed whole cannot be cut.
    if (!may_copy) n_slots -= n_slots % cache_.layout().page_size;
    const bool found = n_slots > n_prefix && n_slots - n_prefix >= request.n_first;
    request.sequence = found ? cache_.share(pages, n_slots) : model_.create_sequence(cache_);
    request.n_computed = found ? n_slots - n_prefix : 0;
    if (!std::exchange(request.started, true)) {
        later(&request, [n = request.n_computed](Outbox& outbox) { outbox.start(n); });
    }
}

BatchLoop::Plan BatchLoop::plan() {
    std::vector<Work> work;
    planned_.clear();
    for (const auto& r : running_) {
        if (!r->sequence) continue;
        r->guesses.drop();
        planned_.push_back(r);
        work.push_back({r->number, r->last_step, r->n_computed, static_cast<int>(r->ids.size()), r->decoding,
                        r->n_first, r->loras.get()});
    }
    return plan_step(work, pace_.limits());
}

int BatchLoop::new_pages(const Plan& plan) const {
    int n = 0;
    for (const Share& share : plan) {
        const Request& r = *planned_[share.index];
        n += r.beams ? new_pages_of_beams(r)
                     : pages_for(share.end + static_cast<int>(r.guesses.n_rows)) -
                           static_cast<int>(cache_.page_ids(*r.sequence).size());
    }
    return n;
}

bool BatchLoop::make_room(int n_pages) {
    while (cache_.used_pages() + n_pages > budget_) {
        if (!prefixes_.evict_one()) return false;
    }
    return true;
}

// Most rows that a computation beside the replies may have in one step.
int BatchLoop::task_rows() const {
    const StepLimits limits = pace_.limits();
    return running_.empty() ? limits.alone : limits.mixed;
}

void BatchLoop::forward(const Batch& batch, int n_prompt_rows, float* out, const LoraSet& loras,
                        const std::function<bool()>& interrupted, Output output) {
    const auto start = std::chrono::steady_clock::now();
    model_.forward(batch, cache_, out, loras, interrupted, output);
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    pace_.note(n_prompt_rows, batch.size(), seconds);
    if (n_prompt_rows == 0) times_.note(batch.size(), seconds);
}

int BatchLoop::compute_logits(std::span<const int32_t> ids, int begin, KvCache::SequenceId sequence,
                              const LoraSet& loras, float* logits, const std::function<bool()>& interrupted) {
    const int end = std::min(static_cast<int>(ids.size()),
                             std::max(begin + task_rows(), first_chunk(model_.config(), ids)));
    make_room(pages_for(end) - pages_for(begin));
    Batch batch;
    batch.add(model_.config(), ids, begin, end, sequence);
    std::fill(batch.wants_logits.begin(), batch.wants_logits.end(), uint8_t{1});
    forward(batch, batch.size(), logits, loras, interrupted);
    return end;
}

void BatchLoop::compute_embeddings(EmbeddingJob& job, const std::function<bool()>& interrupted) {
    const Batch batch = job.next(model_, cache_, task_rows());
    int n_pages = 0;
    for (const auto& [begin, end] : job.parts()) n_pages += pages_for(end) - pages_for(begin);
    make_room(n_pages);
    forward(batch, batch.size(), job.hidden_states(), job.loras(), interrupted, Output::hidden_states);
    job.pool(cache_);
}

std::pair<KvCache::SequenceId, int> BatchLoop::share_known_pages(std::span<const int32_t> ids,
                                                                 const PrefixCache::Origin& loras) {
    const PrefixCache::Match match = prefixes_.find(ids, loras);
    const int n_slots = match.n_slots - match.n_slots % cache_.layout().page_size;
    const int n_tokens = std::max(0, n_slots - model_.config().prefix_length);
    return {cache_.share(match.pages, n_tokens > 0 ? n_slots : 0), n_tokens};
}

KvCache::SequenceId BatchLoop::new_pages(int n_pages) {
    n_pages = static_cast<int>(std::clamp<int64_t>(budget_ - pages_in_use(), 0, n_pages));
    make_room(n_pages);
    const auto sequence = cache_.create();
    try {
        cache_.extend(sequence, n_pages * cache_.layout().page_size);
    } catch (...) {
        cache_.release(sequence);
        throw;
    }
    return sequence;
}

void BatchLoop::keep(KvCache::SequenceId sequence, std::span<const int32_t> ids,
                     const PrefixCache::Origin& loras) {
    prefixes_.insert(sequence, ids, loras);
}

void BatchLoop::let_go(KvCache::SequenceId sequence) {
    cache_.release(sequence);
    make_room(0);
    cache_.shrink(budget_);
}

void BatchLoop::compute(const Plan& plan, const std::atomic<bool>& stop) {
    const auto vocab = static_cast<size_t>(model_.config().vocab_size);
    Batch batch;
    int n_prompt_rows = 0;
    size_t n_wanted = 0;
    ++n_steps_;
    for (const Share& share : plan) {
        Request& r = *planned_[share.index];
        if (r.beams) {
            add_beams(r, batch);
            n_wanted += r.n_rows();
        } else {
            n_wanted += add_rows(share, batch);
        }
        if (!r.decoding) n_prompt_rows += share.end - share.begin;
        r.last_step = n_steps_;
    }
    logits_.resize(n_wanted * vocab);
    const auto unwanted = [&] {
        return stop.load() || std::all_of(plan.begin(), plan.end(), [this](const Share& share) {
                   const Request& r = *planned_[share.index];
                   return r.ended() || r.expired();
               });
    };
    try {
        forward(batch, n_prompt_rows, logits_.data(), planned_[plan.front().index]->loras->active, unwanted);
    } catch (const Interrupted&) {
        return;
    } catch (const OutOfMemory&) {
        if (drop_guesses()) {
            compute(plan, stop);
        } else {
            handle_out_of_memory(std::current_exception());
        }
        return;
    } catch (...) {
        for (const Share& share : plan) fail(planned_[share.index], std::current_exception());
        return;
    }

    std::span<float> rest(logits_);
    for (const Share& share : plan) {
        const std::shared_ptr<Request>& r = planned_[share.index];
        r->n_computed = share.end;
        if (share.end < static_cast<int>(r->ids.size())) {
            later(r.get(), [n = share.end](Outbox& outbox) { outbox.note_computed(n); });
            continue;
        }
        r->decoding = true;
        const size_t n_logits = (r->n_rows() + r->guesses.n_rows) * vocab;
        choose(r, rest.first(n_logits));
        rest = rest.subspan(n_logits);
    }
}

void BatchLoop::choose(const std::shared_ptr<Request>& request, std::span<float> logits) {
    if (request->config.num_beams > 1) {
        choose_beams(request, logits);
    } else {
        choose_tokens(request, logits);
    }
}

// Rows of the embedding beyond the vocabulary are padding: no token has such an id.
size_t BatchLoop::n_tokens(size_t vocab_size) const {
    return std::min(vocab_size, static_cast<size_t>(tokenizer_.vocab_size()));
}

void BatchLoop::refuse_no_numbers(std::span<const float> logits) {
    if (all_finite(logits)) return;
    throw Error(
        "The model computed something that is no number: its file is damaged, or the scale of an adapter is "
        "too large.");
}

void BatchLoop::choose_token(const std::shared_ptr<Request>& request, std::span<float> logits) {
    Request& r = *request;
    int32_t token = 0;
    try {
        refuse_no_numbers(logits);
        token =
            r.sampler.sample(logits.first(n_tokens(logits.size())), r.ids, static_cast<size_t>(r.n_prompt));
    } catch (...) {
        fail(request, std::current_exception());
        return;
    }
    if (r.sampler.is_end(token)) {
        retire(request, FinishReason::kStop);
        return;
    }
    r.ids.push_back(token);
    const FinishReason finish = r.sampler.complete() ? FinishReason::kStop : r.finish_by_length();
    std::optional<TokenLogprobs> logprobs;
    if (const TokenLogprobs* known = r.sampler.logprobs()) logprobs = *known;
    later(&r, [token, finish, logprobs = std::move(logprobs)](Outbox& outbox) {
        outbox.put(token, finish, logprobs);
    });
    if (finish != FinishReason::kNone) {
        free_pages(r, true);
        remove(request);
    }
}

// Memory is tighter than the budget says: gives back what nobody needs, then lets the youngest wait.
void BatchLoop::handle_out_of_memory(const std::exception_ptr& error) {
    if (cache_.idle_pages() > 0) {
        while (prefixes_.evict_one()) {
        }
        cache_.shrink(cache_.used_pages());
    } else if (running_.size() > 1) {
        preempt_youngest();
        budget_ = std::max(1, std::min(static_cast<int>(budget_), cache_.used_pages()));
    } else {
        fail(running_.front(), error);
    }
}

void BatchLoop::preempt_youngest() {
    const auto youngest = *std::max_element(
        running_.begin(), running_.end(), [](const auto& a, const auto& b) { return a->number < b->number; });
    free_pages(*youngest, true);
    remove(youngest);
    preempted_.insert(preempted_.begin(), youngest);
}

void BatchLoop::free_pages(Request& request, bool keep) {
    if (!request.sequence) return;
    drop_beams(request);
    if (keep && model_.config().positions == PositionKind::causal) {
        const auto computed =
            std::span<const int32_t>(request.ids).first(static_cast<size_t>(request.n_computed));
        prefixes_.insert(*request.sequence, computed, request.loras);
    }
    cache_.release(*request.sequence);
    request.sequence.reset();
    request.n_computed = 0;
    request.decoding = false;
    make_room(0);
    cache_.shrink(budget_);
}

void BatchLoop::retire(const std::shared_ptr<Request>& request, FinishReason reason) {
    if (reason == FinishReason::kDeadline && request->beams) {
        finish_beams(request, reason);
        return;
    }
    later(request.get(), [reason](Outbox& outbox) { outbox.end(reason); });
    free_pages(*request, true);
    remove(request);
}

void BatchLoop::fail(const std::shared_ptr<Request>& request, std::exception_ptr error) {
    later(request.get(), [error = std::move(error)](Outbox& outbox) { outbox.fail(error); });
    free_pages(*request, false);  // what it computed may be no numbers
    remove(request);
}

void BatchLoop::remove(const std::shared_ptr<Request>& request) {
    if (draft_) draft_->forget(request->number);
    ended_.push_back(request);
    std::erase(running_, ended_.back());
}

std::vector<std::shared_ptr<Request>> BatchLoop::take_preempted() {
    return std::exchange(preempted_, {});
}

void BatchLoop::cancel_all() {
    const auto all = running_;
    for (const auto& request : all) retire(request, FinishReason::kCancelled);
}

void BatchLoop::fail_all(const std::exception_ptr& error) {
    const auto all = running_;
    for (const auto& request : all) fail(request, error);
}

void BatchLoop::publish() {
    for (const auto& [outbox, event] : events_) event(*outbox);
    events_.clear();
    ended_.clear();
    planned_.clear();
}

}  // namespace chatglm
