// Guesses at what replies go on with, computed beside their next tokens: the methods of BatchLoop that make
// and check them. What a reply says never depends on them: each token is chosen, as always, by its own
// sampler from the model's logits behind the tokens before it, and the rows of wrong guesses are taken back.
#include <algorithm>
#include <utility>

#include "generate/batch_loop.h"

namespace chatglm {
namespace {

// Tokens of one guess: the rows of longer ones are rarely cheap.
constexpr int kMostLookup = 16;
constexpr int kMostDraft = 8;
// When guesses are wanted whatever they cost.
constexpr int kAlwaysLookup = 8;

// How many tokens may follow the ids of a reply before the last one that it can have, with which nothing is
// computed.
int room_for_guesses(const Request& r) {
    int most = r.max_length;
    if (r.config.max_new_tokens >= 0) most = std::min(most, r.n_prompt + r.config.max_new_tokens);
    return most - static_cast<int>(r.ids.size()) - 1;
}

// Rows of guesses that each of `n` replies can have in a step that has `n_rows` already.
int rows_for_each(size_t n, int n_rows) {
    return std::max(0, kMostGuessedRows - n_rows) / std::max(1, static_cast<int>(n));
}

// What followed the end of `ids` when it came before, over and over when it is the period of what follows.
void continue_from(std::span<const int32_t> ids, size_t next, size_t n, std::vector<int32_t>& tokens) {
    tokens.clear();
    for (size_t i = 0; i < n; ++i) {
        tokens.push_back(next + i < ids.size() ? ids[next + i] : tokens[next + i - ids.size()]);
    }
}

}  // namespace

// Sets the guesses of the replies that `plan` has the next token of. Beside prompts no row is cheap.
void BatchLoop::guess(const Plan& plan) {
    if (!lookup_allowed_ && !draft_) return;
    std::vector<Request*> replies;
    int n_rows = 0;
    for (const Share& share : plan) {
        Request& r = *planned_[share.index];
        if (!r.decoding) return;
        if (r.config.num_beams > 1) {
            n_rows += static_cast<int>(r.n_rows());
            continue;
        }
        n_rows += share.end - share.begin;
        if (share.end == static_cast<int>(r.ids.size())) replies.push_back(&r);
    }
    if (lookup_allowed_) look_up(replies, n_rows);
    if (draft_) draft(replies, n_rows);
    if (!make_room(new_pages(plan))) drop_guesses();
}

bool BatchLoop::drop_guesses() {
    bool any = false;
    for (const auto& r : planned_) any |= std::exchange(r->guesses.n_rows, 0) > 0;
    return any;
}

// Guesses from the replies' own texts. Those that are not computed are kept: it is seen whether they are
// right, too.
void BatchLoop::look_up(std::span<Request* const> replies, int n_rows) {
    std::vector<Offer> offers;
    for (Request* r : replies) {
        Guesses& g = r->guesses;
        const NgramIndex::Match match = g.index.find(r->ids);
        g.source = &g.lookups_of(match.length);
        const int most = match.length == 0 ? 0 : std::clamp(room_for_guesses(*r), 0, kMostLookup);
        offers.push_back({g.source->probability(), most});
        if (match.length > 0) continue_from(r->ids, match.next, kMostLookup, g.tokens);
    }
    std::vector<int> counts(offers.size(), 0);
    if (lookup_always_) {
        const int most = std::min(kAlwaysLookup, rows_for_each(replies.size(), n_rows));
        for (size_t i = 0; i < counts.size(); ++i) counts[i] = std::min(offers[i].most, most);
    } else {
        counts = choose_counts(offers, n_rows, static_cast<double>(replies.size()), times_);
    }
    for (size_t i = 0; i < counts.size(); ++i) replies[i]->guesses.n_rows = static_cast<size_t>(counts[i]);
}

// Guesses of the draft model for the replies that have none from their texts.
void BatchLoop::draft(std::span<Request* const> replies, int n_rows) {
    std::vector<Request*> drafted;
    std::vector<Offer> offers;
    double n_tokens = static_cast<double>(replies.size());
    const int most = draft_tokens_ > 0 ? draft_tokens_ : kMostDraft;
    for (Request* r : replies) {
        Guesses& g = r->guesses;
        if (g.n_rows > 0) {
            n_rows += static_cast<int>(g.n_rows);
            double gain = 1;
            for (size_t i = 0; i < g.n_rows; ++i) n_tokens += gain *= g.source->probability();
            continue;
        }
        const int room = std::clamp(room_for_guesses(*r), 0, most);
        if (room == 0) continue;
        drafted.push_back(r);
        offers.push_back({g.drafts.probability(), room});
    }
    int n_steps = 0;
    if (draft_tokens_ > 0) {
        n_steps = std::min(draft_tokens_, rows_for_each(drafted.size(), n_rows));
    } else {
        const int n = static_cast<int>(drafted.size());
        double seconds = draft_->step_seconds(n);
        if (seconds <= 0) {
            seconds = times_.seconds(n) * static_cast<double>(draft_->file_bytes()) /
                      static_cast<double>(std::max<int64_t>(1, model_.config().file_bytes));
        }
        n_steps = choose_draft_steps(offers, n_rows, n_tokens, times_, seconds);
    }
    if (n_steps == 0) {
        for (Request* r : drafted) r->guesses.drafts.fade();
        return;
    }
    std::vector<std::vector<int32_t>> tokens(drafted.size());
    std::vector<DraftModel::Draft> drafts;
    for (size_t i = 0; i < drafted.size(); ++i) {
        drafts.push_back({drafted[i]->number, drafted[i]->ids, drafted[i]->n_prompt,
                          std::min(n_steps, offers[i].most), &tokens[i]});
    }
    draft_->draft(drafts);
    for (size_t i = 0; i < drafted.size(); ++i) {
        if (tokens[i].empty()) continue;
        Guesses& g = drafted[i]->guesses;
        if (!g.tokens.empty()) g.source->fade();  // nobody sees whether it was right
        g.tokens = std::move(tokens[i]);
        g.n_rows = g.tokens.size();
        g.source = &g.drafts;
    }
}

// The rows of a share, with those of its guesses behind them. Returns how many logits it wants.
size_t BatchLoop::add_rows(const Share& share, Batch& batch) {
    const Request& r = *planned_[share.index];
    const Guesses& g = r.guesses;
    const bool complete = share.end == static_cast<int>(r.ids.size());
    if (g.n_rows == 0) {
        batch.add(model_.config(), r.ids, share.begin, share.end, *r.sequence, r.n_prompt);
    } else {
        std::vector<int32_t> ids = r.ids;
        ids.insert(ids.end(), g.tokens.begin(), g.tokens.begin() + static_cast<std::ptrdiff_t>(g.n_rows));
        batch.add(model_.config(), ids, share.begin, static_cast<int>(ids.size()), *r.sequence, r.n_prompt);
    }
    const size_t n_wanted = complete ? 1 + g.n_rows : 0;
    std::fill(batch.wants_logits.end() - static_cast<std::ptrdiff_t>(n_wanted), batch.wants_logits.end(),
              uint8_t{1});
    return n_wanted;
}

// Chooses the next token from the first row of `logits` (1 + guesses, vocab_size), and goes on with the next
// row for as long as the guesses are right.
void BatchLoop::choose_tokens(const std::shared_ptr<Request>& request, std::span<float> logits) {
    Request& r = *request;
    Guesses& g = r.guesses;
    const size_t n_rows = std::exchange(g.n_rows, 0), vocab = logits.size() / (1 + n_rows);
    if (n_rows > 0) {
        g.n_drafted += static_cast<int>(n_rows);
        later(&r, [&g](Outbox& outbox) { outbox.note_guesses(g.n_drafted, g.n_accepted); });
    }
    for (size_t i = 0;; ++i) {
        r.n_computed = static_cast<int>(r.ids.size());  // the rows behind these may be wrong
        choose_token(request, logits.subspan(i * vocab, vocab));
        if (!r.sequence) return;  // it has ended
        const bool right = i < g.tokens.size() && r.ids.back() == g.tokens[i];
        if (i < g.tokens.size()) g.source->note(right);
        if (i == n_rows || !right) break;
        ++g.n_accepted;
    }
    if (n_rows > 0) cache_.truncate(*r.sequence, model_.config().prefix_length + r.n_computed);
}

}  // namespace chatglm
