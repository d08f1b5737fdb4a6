// Replies with guesses are those without, to the bit.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <limits>

#include "chatglm/error.h"
#include "format/gguf_layout.h"
#include "generate/batch_loop.h"
#include "generate/reply_samples.h"
#include "model/tiny_model.h"

using namespace chatglm;
using chatglm::test::greedy;
using chatglm::test::TemporaryFile;
using chatglm::test::TinyModel;

namespace {

constexpr int64_t kPageBytes = 3 * 2 * 2 * 64 * 32 * 2;  // of a tiny model

PipelineOptions lookup(std::optional<bool> wanted) {
    PipelineOptions options;
    options.prompt_lookup = wanted;
    return options;
}

struct Reply {
    std::vector<int32_t> ids;
    std::vector<float> logprobs;
    FinishReason finish = FinishReason::kNone;
    int n_drafted = 0, n_accepted = 0;

    // What a reply is, whatever was guessed.
    bool operator==(const Reply& other) const {
        return ids == other.ids && logprobs == other.logprobs && finish == other.finish;
    }
};

Reply take(Request& request) {
    Reply reply;
    int32_t token = 0;
    while (request.outbox.ready() && !request.outbox.done()) {
        if (!request.outbox.take(token, nullptr)) continue;
        reply.ids.push_back(token);
        if (const auto logprobs = request.outbox.logprobs()) reply.logprobs.push_back(logprobs->logprob);
    }
    reply.finish = request.outbox.finish_reason();
    const Progress progress = request.outbox.progress();
    reply.n_drafted = progress.drafted_tokens;
    reply.n_accepted = progress.accepted_tokens;
    return reply;
}

struct Loop {
    explicit Loop(const PipelineOptions& options, const std::string& content = TinyModel{}.build(),
                  const std::string& draft_content = {})
        : file(content),
          gguf(file.path()),
          tokenizer(Tokenizer::from_gguf(gguf)),
          model(gguf, *backend),
          draft_file(draft_content),
          draft(draft_content.empty() ? nullptr
                                      : std::make_unique<DraftFile>(draft_file.path(), *backend, *tokenizer,
                                                                    model.config().vocab_size)),
          loop(model, *backend, *tokenizer, options, DType::f16, draft.get()) {}

    std::shared_ptr<Request> make(std::vector<int32_t> prompt, const GenerationConfig& config,
                                  std::shared_ptr<Constraint> constraint = nullptr,
                                  std::vector<int32_t> eos_ids = {}) {
        return std::make_shared<Request>(std::move(prompt), config, std::min(config.max_length, 4096),
                                         model.config(), no_loras, std::move(eos_ids), std::move(constraint));
    }
    std::shared_ptr<Request> add(std::vector<int32_t> prompt, const GenerationConfig& config,
                                 std::shared_ptr<Constraint> constraint = nullptr,
                                 std::vector<int32_t> eos_ids = {}) {
        auto request = make(std::move(prompt), config, std::move(constraint), std::move(eos_ids));
        loop.add(request);
        return request;
    }
    void step() {
        loop.step(stop);
        for (auto& request : loop.take_preempted()) waiting.push_back(std::move(request));
        while (!waiting.empty() && loop.has_room_for(*waiting.front())) {
            loop.add(waiting.front());
            waiting.erase(waiting.begin());
        }
        loop.publish();
    }
    void run() {
        while (loop.size() > 0) step();
    }

    std::unique_ptr<Backend> backend = make_cpu_backend(2);
    TemporaryFile file;
    GgufFile gguf;
    std::unique_ptr<Tokenizer> tokenizer;
    GlmModel model;
    TemporaryFile draft_file;
    std::unique_ptr<DraftFile> draft;
    BatchLoop loop;
    std::atomic<bool> stop{false};
    std::shared_ptr<const LoraChoice> no_loras = std::make_shared<LoraChoice>();
    std::vector<std::shared_ptr<Request>> waiting;
};

// A text that says many things twice.
std::vector<int32_t> quoting_ids(int n, int seed) {
    std::vector<int32_t> ids;
    uint32_t state = static_cast<uint32_t>(seed) * 2654435761u + 1;
    for (int i = 0; i < n; ++i) {
        state = state * 1664525u + 1013904223u;
        const auto back = static_cast<size_t>(7 + seed % 5);
        ids.push_back(i % 20 > 9 && ids.size() >= back ? ids[ids.size() - back]
                                                       : static_cast<int32_t>((state >> 16) % 160));
    }
    return ids;
}

struct Case {
    const char* name;
    GenerationConfig config;
};

std::vector<Case> cases() {
    std::vector<Case> cases{{"greedy", greedy(120)}};
    GenerationConfig sampled = greedy(120);
    sampled.do_sample = true;
    sampled.temperature = 0.2f;
    sampled.top_p = 0.9f;
    sampled.seed = 5;
    cases.push_back({"sampled", sampled});
    GenerationConfig penalties = sampled;
    penalties.repetition_penalty = 1.05f;
    penalties.frequency_penalty = 0.1f;
    penalties.presence_penalty = 0.1f;
    penalties.penalty_last_n = 30;
    penalties.logprobs = 2;
    cases.push_back({"penalties and log-probabilities", penalties});
    GenerationConfig stops = greedy(300);
    stops.stop_token_ids = {31, 77, 120};
    stops.min_new_tokens = 20;
    cases.push_back({"stop tokens", stops});
    GenerationConfig bounded = greedy(1);
    cases.push_back({"one token", bounded});
    bounded = greedy(-1);
    bounded.max_length = 70;
    cases.push_back({"max_length", bounded});
    return cases;
}

// Allows what is no multiple of three, and writes down what it is told.
struct Recorder : Constraint {
    void fill_mask(std::span<uint32_t> mask) override {
        ++n_masks;
        for (size_t i = 0; i < mask.size() * 32; ++i) {
            if (i % 3 != 0) mask[i / 32] |= 1u << (i % 32);
        }
    }
    bool accept(int32_t id) override {
        accepted.push_back(id);
        return accepted.size() == 50;
    }
    std::vector<int32_t> accepted;
    int n_masks = 0;
};

Reply reply_of(Loop& loop, const std::vector<int32_t>& prompt, const GenerationConfig& config) {
    const auto request = loop.add(prompt, config);
    loop.run();
    return take(*request);
}

}  // namespace

TEST_CASE("guesses from the text change no reply, with any settings") {
    int n_accepted = 0;
    for (const Case& c : cases()) {
        CAPTURE(c.name);
        for (int seed = 0; seed < 3; ++seed) {
            Loop never(lookup(false)), always(lookup(true)), by_itself(lookup(std::nullopt));
            const auto prompt = quoting_ids(60, seed);
            const Reply expected = reply_of(never, prompt, c.config);
            const Reply reply = reply_of(always, prompt, c.config);
            CHECK(expected.n_drafted == 0);
            CHECK(reply == expected);
            CHECK(reply_of(by_itself, prompt, c.config) == expected);
            CHECK(reply.n_accepted <= reply.n_drafted);
            n_accepted += reply.n_accepted;
            CHECK(always.loop.pages_in_use() == 0);
        }
    }
    CHECK(n_accepted > 100);
}

TEST_CASE("a right guess saves a step") {
    Loop always(lookup(true));
    const auto request = always.add(quoting_ids(60, 0), greedy(200));
    int n_steps = 0;
    for (; always.loop.size() > 0; ++n_steps) always.step();
    const Reply reply = take(*request);
    CHECK(reply.n_accepted > 50);
    CHECK(n_steps <= static_cast<int>(reply.ids.size()) - reply.n_accepted + 1);
}

TEST_CASE("a constraint hears of the tokens of the reply and of no guess") {
    const auto prompt = quoting_ids(60, 1);
    const auto run = [&](std::optional<bool> wanted) {
        Loop loop(lookup(wanted));
        const auto constraint = std::make_shared<Recorder>();
        const auto request = loop.add(prompt, greedy(200), constraint);
        loop.run();
        Reply reply = take(*request);
        CHECK(constraint->accepted == reply.ids);
        CHECK(constraint->n_masks == static_cast<int>(reply.ids.size()));
        return reply;
    };
    const Reply reply = run(true);
    CHECK(reply == run(false));
    CHECK(reply.ids.size() == 50);
    CHECK(reply.n_drafted > 0);
}

TEST_CASE("replies with guesses in company are those computed alone") {
    PipelineOptions options = lookup(true);
    options.prefill_chunk = 50;
    Loop together(options), alone(lookup(false));
    std::vector<std::shared_ptr<Request>> requests;
    const auto all = cases();
    for (int i = 0; i < 9; ++i) {
        requests.push_back(
            together.add(quoting_ids(1 + 37 * i, i), all[static_cast<size_t>(i) % all.size()].config));
        together.step();
    }
    together.run();
    for (int i = 0; i < 9; ++i) {
        CAPTURE(i);
        alone.loop.clear_prefixes();
        CHECK(take(*requests[static_cast<size_t>(i)]) ==
              reply_of(alone, quoting_ids(1 + 37 * i, i), all[static_cast<size_t>(i) % all.size()].config));
    }
}

TEST_CASE("later replies find no wrong guess in the cache") {
    Loop always(lookup(true)), never(lookup(false));
    auto prompt = quoting_ids(60, 2);
    int n_wrong = 0;
    for (int turn = 0; turn < 6; ++turn) {
        const Reply reply = reply_of(always, prompt, greedy(40));
        never.loop.clear_prefixes();
        CHECK(reply == reply_of(never, prompt, greedy(40)));
        n_wrong += reply.n_drafted - reply.n_accepted;
        prompt.insert(prompt.end(), reply.ids.begin(), reply.ids.end());
        prompt.insert(prompt.end(), {turn, 5, 6});
    }
    CHECK(n_wrong > 0);
    CHECK(always.loop.pages_cached() <= always.loop.pages_for(static_cast<int>(prompt.size())) + 6);
}

TEST_CASE("guesses take no memory from replies: within a budget the same ones are written") {
    PipelineOptions options = lookup(true);
    options.prefill_chunk = 64;
    options.cache_memory = 8 * kPageBytes;
    Loop f(options), alone(lookup(false));
    std::vector<std::shared_ptr<Request>> requests;
    for (int i = 0; i < 4; ++i) requests.push_back(f.add(quoting_ids(100 + i, i), greedy(150)));
    while (f.loop.size() > 0 || !f.waiting.empty()) {
        f.step();
        CHECK(f.loop.cache().used_pages() <= 8);
    }
    for (int i = 0; i < 4; ++i) {
        CAPTURE(i);
        CHECK(take(*requests[static_cast<size_t>(i)]) ==
              reply_of(alone, quoting_ids(100 + i, i), greedy(150)));
    }
    CHECK(f.loop.pages_in_use() == 0);

    // One that fills its budget to the last slot.
    options.cache_memory = 2 * kPageBytes;
    Loop narrow(options);
    CHECK(reply_of(narrow, {5}, greedy(128)) == reply_of(alone, {5}, greedy(128)));
}

TEST_CASE("a reply that is cancelled or late ends as without guesses") {
    Loop f(lookup(true));
    const auto cancelled = f.add(quoting_ids(50, 1), greedy(1000));
    auto late = greedy(1000);
    late.max_time = 1e-9;
    const auto expired = f.add(quoting_ids(50, 2), late);
    for (int i = 0; i < 4; ++i) f.step();
    CHECK(expired->outbox.finish_reason() == FinishReason::kDeadline);
    cancelled->outbox.cancel();
    f.step();
    CHECK(f.loop.size() == 0);
    CHECK(f.loop.pages_in_use() == 0);
}

TEST_CASE("numbers that are none in the row of a wrong guess harm nobody") {
    const std::string content = TinyModel{}.build();
    TinyModel other;
    other.seed = 8;
    const std::vector<int32_t> prompt{5, 6};
    Loop never(lookup(false)), guesser(lookup(false), other.build());
    const Reply expected = reply_of(never, prompt, greedy(20));
    const int32_t guess = reply_of(guesser, prompt, greedy(2)).ids[0];
    REQUIRE(std::find(expected.ids.begin(), expected.ids.end(), guess) == expected.ids.end());

    std::string damaged = content;
    const float nan = std::numeric_limits<float>::quiet_NaN();
    const size_t row = test::GgufLayout(damaged).data_begin + static_cast<size_t>(guess) * 64 * sizeof(float);
    std::memcpy(damaged.data() + row, &nan, sizeof nan);
    PipelineOptions options = lookup(false);
    options.draft_tokens = 3;
    Loop drafted(options, damaged, other.build());
    const Reply reply = reply_of(drafted, prompt, greedy(20));
    CHECK(reply == expected);
    CHECK(reply.n_accepted < reply.n_drafted);
}

TEST_CASE("a draft by the model itself is always right") {
    PipelineOptions options = lookup(false);
    options.draft_tokens = 4;
    const std::string content = TinyModel{}.build();
    Loop drafted(options, content, content), never(lookup(false));
    const auto prompt = quoting_ids(300, 3);  // read in two parts
    const auto request = drafted.add(prompt, greedy(100));
    int n_steps = 0;
    for (; drafted.loop.size() > 0; ++n_steps) drafted.step();
    const Reply reply = take(*request);
    CHECK(reply == reply_of(never, prompt, greedy(100)));
    CHECK(reply.n_drafted == reply.n_accepted);
    CHECK(reply.n_accepted >= 75);
    CHECK(n_steps <= 100 - reply.n_accepted + 2);
    CHECK(drafted.loop.pages_in_use() == 0);
}

TEST_CASE("whatever a draft model says, replies stay the same") {
    const std::string content = TinyModel{}.build();
    TinyModel other;
    other.seed = 8;
    other.layers = 1;
    for (const bool with_lookup : {false, true}) {
        for (const int n_tokens : {0, 3, 16}) {
            CAPTURE(n_tokens);
            PipelineOptions options = lookup(with_lookup);
            options.draft_tokens = n_tokens;
            options.prefill_chunk = 40;
            Loop drafted(options, content, other.build()), never(lookup(false));
            std::vector<std::shared_ptr<Request>> requests;
            const auto all = cases();
            for (int i = 0; i < 4; ++i) {
                requests.push_back(
                    drafted.add(quoting_ids(10 + 80 * i, i), all[static_cast<size_t>(i)].config));
                drafted.step();
            }
            drafted.run();
            for (int i = 0; i < 4; ++i) {
                CAPTURE(i);
                never.loop.clear_prefixes();
                const Reply reply = take(*requests[static_cast<size_t>(i)]);
                CHECK(reply ==
                      reply_of(never, quoting_ids(10 + 80 * i, i), all[static_cast<size_t>(i)].config));
                if (n_tokens > 0) CHECK(reply.n_drafted > 0);
            }
        }
    }
}

TEST_CASE("a draft model guesses no token that one of the two has no row for") {
    for (const auto& [rows, draft_rows] : {std::pair{40, 160}, {160, 40}}) {
        CAPTURE(rows);
        TinyModel model, other;
        model.n_rows = rows;
        other.n_rows = draft_rows;
        other.seed = 8;
        PipelineOptions options = lookup(false);
        options.draft_tokens = 4;
        Loop drafted(options, model.build(), other.build()), never(lookup(false), model.build());
        for (int32_t id = 5; id < 25; ++id) {
            const Reply reply = reply_of(drafted, {id, id + 1}, greedy(30));
            CHECK(reply == reply_of(never, {id, id + 1}, greedy(30)));
        }
    }
}

TEST_CASE("a draft model within a small cache drafts what fits") {
    const std::string content = TinyModel{}.build();
    PipelineOptions options = lookup(false);
    options.draft_tokens = 4;
    options.cache_memory = 24 * kPageBytes;  // the draft's: six pages
    Loop drafted(options, content, content), never(lookup(false));
    std::vector<std::shared_ptr<Request>> requests;
    for (int i = 0; i < 3; ++i) requests.push_back(drafted.add(quoting_ids(100 + i, i), greedy(300)));
    while (drafted.loop.size() > 0 || !drafted.waiting.empty()) drafted.step();
    for (int i = 0; i < 3; ++i) {
        CAPTURE(i);
        const Reply reply = take(*requests[static_cast<size_t>(i)]);
        CHECK(reply == reply_of(never, quoting_ids(100 + i, i), greedy(300)));
        CHECK(reply.n_drafted == reply.n_accepted);
    }
}

TEST_CASE("a draft model of another vocabulary, or none at all, is refused with a sentence") {
    const std::string content = TinyModel{}.build();
    TinyModel other;
    other.vocab = 161;
    CHECK_THROWS_WITH_AS(Loop({}, content, other.build()),
                         doctest::Contains("has 161 tokens, the model's 160"), InvalidArgument);
    std::string renamed = content;
    renamed[renamed.find("b105")] = 'q';
    CHECK_THROWS_WITH_AS(Loop({}, content, renamed), doctest::Contains("its token 105 is another one"),
                         InvalidArgument);
    CHECK_THROWS_WITH_AS(Loop({}, content, "no model"), doctest::Contains("The draft model: "),
                         InvalidArgument);
}
