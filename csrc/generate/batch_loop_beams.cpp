// Requests with beams: all beams of one are rows of the same steps.
#include <algorithm>
#include <utility>

#include "chatglm/error.h"
#include "generate/batch_loop.h"
#include "generate/softmax.h"

namespace chatglm {

// Before a step, so that memory that is short is dealt with as it is there. What was done stays done when
// OutOfMemory comes out.
void BatchLoop::fork_beams() {
    const auto all = running_;
    for (const auto& request : all) {
        if (!request->beams) continue;
        const auto missing = static_cast<int>(
            std::count(request->beams->sequences.begin(), request->beams->sequences.end(), std::nullopt));
        while (request->beams && !make_room(missing) && running_.size() > 1) preempt_youngest();
        if (!request->beams) continue;  // it was the youngest itself
        Beams& beams = *request->beams;
        for (size_t i = 0; i < beams.sequences.size(); ++i) {
            if (beams.sequences[i]) continue;
            beams.sequences[i] = cache_.fork(beams.sources[i], cache_.length(beams.sources[i]));
        }
    }
}

int BatchLoop::new_pages_of_beams(const Request& request) const {
    int n = 0;
    for (size_t i = 0; i < request.beams->sequences.size(); ++i) {
        const auto n_ids = static_cast<int>(request.beams->search.running()[i].ids.size());
        n += pages_for(n_ids) - static_cast<int>(cache_.page_ids(*request.beams->sequences[i]).size());
    }
    return n;
}

void BatchLoop::add_beams(const Request& request, Batch& batch) const {
    for (size_t i = 0; i < request.beams->sequences.size(); ++i) {
        const std::vector<int32_t>& ids = request.beams->search.running()[i].ids;
        const auto n_ids = static_cast<int>(ids.size());
        batch.add(model_.config(), ids, n_ids - 1, n_ids, *request.beams->sequences[i], request.n_prompt);
        batch.wants_logits.back() = 1;
    }
}

void BatchLoop::choose_beams(const std::shared_ptr<Request>& request, std::span<float> logits) {
    Request& r = *request;
    try {
        refuse_no_numbers(logits);
        if (!r.beams) {
            r.beams = std::make_unique<Beams>(BeamSearch(r.ids, r.config, r.sampler.end_ids(), r.longest()));
            later(&r, [n = r.n_prompt](Outbox& outbox) { outbox.note_computed(n); });
        }
        const size_t vocab = logits.size() / r.beams->search.running().size();
        std::vector<std::span<float>> rows;
        for (const BeamSearch::Beam& beam : r.beams->search.running()) {
            const std::span<float> row = logits.subspan(rows.size() * vocab, vocab);
            log_softmax(row);
            rows.push_back(row.first(n_tokens(vocab)));
            r.sampler.edit(rows.back(), beam.ids, static_cast<size_t>(r.n_prompt));
        }
        r.beams->search.advance(rows);
    } catch (...) {
        fail(request, std::current_exception());
        return;
    }
    if (r.beams->search.done()) {
        finish_beams(request, FinishReason::kNone);
    } else {
        follow_parents(r);
    }
}

// Of the beams that continue the same one the first takes its sequence over, the others will fork that. The
// first beams of all fork the prompt's, which stays for the case that all begins again.
void BatchLoop::follow_parents(Request& request) {
    Beams& beams = *request.beams;
    const std::vector<BeamSearch::Beam>& running = beams.search.running();
    auto before =
        std::exchange(beams.sequences, std::vector<std::optional<KvCache::SequenceId>>(running.size()));
    beams.sources.assign(running.size(), *request.sequence);
    if (before.empty()) return;
    std::vector<bool> taken(before.size());
    for (size_t i = 0; i < running.size(); ++i) {
        const size_t parent = running[i].parent;
        beams.sources[i] = *before[parent];
        if (!taken[parent]) beams.sequences[i] = before[parent];
        taken[parent] = true;
    }
    for (size_t i = 0; i < before.size(); ++i) {
        if (!taken[i]) cache_.release(*before[i]);
    }
}

void BatchLoop::drop_beams(Request& request) {
    if (!request.beams) return;
    for (const auto& sequence : request.beams->sequences) {
        if (sequence) cache_.release(*sequence);
    }
    request.beams.reset();
}

// Gives the best replies, the rest of which is known now, to those who wait for them. `reason` is that of the
// request, if it has one.
void BatchLoop::finish_beams(const std::shared_ptr<Request>& request, FinishReason reason) {
    auto replies = request->beams->search.best(request->outboxes().size());
    for (size_t i = 0; i < request->outboxes().size(); ++i) {
        Outbox* const outbox = request->outboxes()[i];
        if (i < replies.size()) {
            const FinishReason finish = reason != FinishReason::kNone ? reason
                                        : replies[i].stopped          ? FinishReason::kStop
                                                                      : FinishReason::kLength;
            events_.emplace_back(outbox, [reply = std::move(replies[i]), finish](Outbox& box) {
                box.put_all(reply.ids, reply.score, finish);
            });
        } else if (reason != FinishReason::kNone) {
            events_.emplace_back(outbox, [reason](Outbox& box) { box.end(reason); });
        } else {
            const auto error = std::make_exception_ptr(
                Error("The beams found only " + std::to_string(replies.size()) +
                      " replies: logit_bias leaves too few tokens for more. Ask for fewer alternatives."));
            events_.emplace_back(outbox, [error](Outbox& box) { box.fail(error); });
        }
    }
    free_pages(*request, true);
    remove(request);
}

}  // namespace chatglm
