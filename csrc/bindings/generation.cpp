// Running replies as Python objects, and the news of many of them for one thread.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <utility>
#include <vector>

#include "bindings/bindings.h"
#include "chatglm/error.h"
#include "chatglm/pipeline.h"

namespace py = pybind11;

namespace chatglm::bindings {
namespace {

const char* finish_reason(const Generation& generation) {
    switch (generation.finish_reason()) {
        case FinishReason::kStop:
            return "stop";
        case FinishReason::kLength:
            return "length";
        case FinishReason::kCancelled:
            return "cancelled";
        case FinishReason::kDeadline:
            return "deadline";
        case FinishReason::kNone:
            break;
    }
    return nullptr;
}

// Tags of replies that have news. The engine's thread puts them in without the interpreter lock, for which it
// waits only to call the constraints of Python.
class Mailbox {
  public:
    void put(int64_t tag) {
        {
            const std::lock_guard lock(mutex_);
            if (!tags_.empty() && tags_.back() == tag) return;
            tags_.push_back(tag);
        }
        changed_.notify_one();
    }
    // Waits for tags; empty once the mailbox is closed.
    std::vector<int64_t> wait() {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [this] { return closed_ || !tags_.empty(); });
        return std::exchange(tags_, {});
    }
    void close() {
        {
            const std::lock_guard lock(mutex_);
            closed_ = true;
        }
        changed_.notify_all();
    }

  private:
    std::mutex mutex_;
    std::condition_variable changed_;
    std::vector<int64_t> tags_;
    bool closed_ = false;
};

}  // namespace

void bind_generation(py::module_& m) {
    py::class_<Mailbox, std::shared_ptr<Mailbox>>(m, "Mailbox", "Tags of replies that have news.")
        .def(py::init([] {
            auto mailbox = std::make_shared<Mailbox>();
            stop_at_exit(mailbox, [p = mailbox.get()] { p->close(); });
            return mailbox;
        }))
        .def(
            "wait",
            [](const std::shared_ptr<Mailbox>& mailbox) {
                std::vector<int64_t> tags;
                run_without_lock([&](const auto&) { tags = mailbox->wait(); });
                return tags;
            },
            "Waits for tags; empty when Python shuts down.");

    py::class_<Progress>(m, "Progress", "How far a reply is, and what it has cost.")
        .def_readonly("prompt_tokens", &Progress::prompt_tokens)
        .def_readonly("cached_tokens", &Progress::cached_tokens)
        .def_readonly("computed_tokens", &Progress::computed_tokens)
        .def_readonly("new_tokens", &Progress::new_tokens)
        .def_readonly("queue_seconds", &Progress::queue_seconds)
        .def_readonly("first_token_seconds", &Progress::first_token_seconds)
        .def_readonly("seconds", &Progress::seconds)
        .def_readonly("tokens_per_second", &Progress::tokens_per_second)
        .def_readonly("beam_score", &Progress::beam_score)
        .def_readonly("drafted_tokens", &Progress::drafted_tokens)
        .def_readonly("accepted_tokens", &Progress::accepted_tokens);

    py::class_<Generation>(m, "Generation", "A reply being generated.")
        .def(
            "step",
            [](Generation& g) -> py::object {
                int32_t token = 0;
                bool given = false;
                run_without_lock([&](const auto& interrupted) { given = g.step(token, interrupted); });
                return given ? py::object(py::int_(token)) : py::object(py::none());
            },
            "Waits for the next token. None: a part of the prompt was computed, or the reply has ended (see "
            "`done`).")
        .def("cancel", &Generation::cancel)
        .def("stop", &Generation::stop, "Ends the reply, which then counts as complete.")
        .def_property_readonly(
            "logprobs",
            [](const Generation& g) -> py::object {
                const auto logprobs = g.logprobs();
                if (!logprobs) return py::none();
                std::vector<std::pair<int32_t, float>> top;
                for (const TokenLogprob& t : logprobs->top) top.emplace_back(t.id, t.logprob);
                return py::make_tuple(logprobs->logprob, top);
            },
            "Of the last token: its log-probability, and the likeliest tokens as (id, log-probability).")
        .def(
            "notify",
            [](Generation& g, std::shared_ptr<Mailbox> mailbox, int64_t tag) {
                g.on_change([mailbox = std::move(mailbox), tag] { mailbox->put(tag); });
            },
            py::arg("mailbox"), py::arg("tag"), "Puts `tag` in whenever the reply may have become ready.")
        .def_property_readonly("ready", &Generation::ready, "Whether step would not wait.")
        .def_property_readonly("done", &Generation::done)
        .def_property_readonly("finish_reason", &finish_reason)
        .def_property_readonly("progress", &Generation::progress);
}

}  // namespace chatglm::bindings
