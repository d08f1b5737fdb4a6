// Many threads at one pipeline. CHATGLM_SOAK_REQUESTS sets how many requests the soak makes.
#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <future>
#include <limits>
#include <map>
#include <mutex>
#include <random>
#include <thread>

#include "chatglm/error.h"
#include "chatglm/pipeline.h"
#include "generate/reply_samples.h"
#include "model/tiny_model.h"

#ifdef __unix__
#include <sys/wait.h>
#include <unistd.h>
#endif

using namespace chatglm;
using chatglm::test::greedy;
using chatglm::test::TemporaryFile;
using chatglm::test::TinyModel;

namespace {

constexpr int64_t kPageBytes = 3 * 2 * 2 * 64 * 32 * 2;  // of a TinyModel

std::vector<int32_t> finish(Generation& generation) {
    std::vector<int32_t> ids;
    int32_t token = 0;
    while (!generation.done()) {
        if (generation.step(token)) ids.push_back(token);
    }
    return ids;
}

// The first token of a reply, when it has one.
int32_t first_token(Generation& generation) {
    int32_t token = -1;
    while (!generation.done() && !generation.step(token)) {
    }
    return token;
}

struct Model {
    TemporaryFile file{TinyModel{}.build()};
    // Prompts whose greedy replies go on to the end of the context.
    std::vector<int32_t> endless{5, 6, 7};
};

}  // namespace

TEST_CASE("one request more than may run and wait is refused, until one ends") {
    const Model model;
    PipelineOptions options;
    options.max_sequences = 1;
    options.max_queue = 2;
    Pipeline pipeline(model.file.path(), options);
    auto running = pipeline.start(model.endless, greedy(-1));
    const auto waiting = pipeline.start(model.endless, greedy(1));
    auto dropped = pipeline.start(model.endless, greedy(1));
    CHECK_THROWS_WITH_AS(pipeline.start(model.endless, greedy(1)), doctest::Contains("max_queue"), Busy);
    CHECK(pipeline.stats().running + pipeline.stats().waiting == 3);
    dropped.reset();
    const auto instead = pipeline.start(model.endless, greedy(1));
    running.reset();
    CHECK(finish(*waiting).size() == 1);
    CHECK(finish(*instead).size() == 1);
    CHECK(pipeline.start(model.endless, greedy(1)));
}

TEST_CASE("of several replies to one prompt all begin or none, each the one of its seed") {
    const Model model;
    PipelineOptions options;
    options.max_sequences = 3;
    options.max_queue = 0;
    Pipeline pipeline(model.file.path(), options);
    GenerationConfig config = greedy(20);
    config.do_sample = true;
    config.seed = std::numeric_limits<int64_t>::max();
    for (const int n : {0, -1, 4}) {
        CHECK_THROWS_WITH_AS(pipeline.start_alternatives(model.endless, config, n),
                             doctest::Contains("between 1 and 3"), InvalidArgument);
    }
    {
        const auto running = pipeline.start(model.endless, greedy(-1));
        CHECK_THROWS_WITH_AS(pipeline.start_alternatives(model.endless, config, 3),
                             doctest::Contains("room for 2"), Busy);
        CHECK(pipeline.stats().running + pipeline.stats().waiting == 1);
    }
    const auto replies = pipeline.start_alternatives(model.endless, config, 3);
    std::vector<std::vector<int32_t>> ids;
    for (const auto& reply : replies) ids.push_back(finish(*reply));
    for (int i = 0; i < 3; ++i) {
        CHECK(finish(*pipeline.start(model.endless, config.alternative(i))) == ids[static_cast<size_t>(i)]);
    }
}

TEST_CASE("whoever hears of the end of a reply finds its place and its pages free") {
    const Model model;
    PipelineOptions options;
    options.max_sequences = 1;
    options.max_queue = 0;
    Pipeline pipeline(model.file.path(), options);
    for (int i = 0; i < 50; ++i) {
        const auto reply = pipeline.start({5, 6, i}, greedy(3));  // never Busy
        finish(*reply);
        CHECK(pipeline.stats().running == 0);
        CHECK(pipeline.stats().used_bytes == 0);
    }
    CHECK(pipeline.stats().cached_bytes > 0);
    pipeline.clear_cache();
    CHECK(finish(*pipeline.start({5, 6, 0}, greedy(3))).size() == 3);
}

TEST_CASE("cancel from another thread ends the wait for a token") {
    const Model model;
    PipelineOptions options;
    options.max_sequences = 1;
    Pipeline pipeline(model.file.path(), options);
    const auto running = pipeline.start(model.endless, greedy(-1));
    const auto waiting = pipeline.start(model.endless, greedy(-1));
    std::thread canceller([&] { waiting->cancel(); });
    CHECK(finish(*waiting).empty());
    canceller.join();
    CHECK(waiting->finish_reason() == FinishReason::kCancelled);
    running->cancel();
    CHECK(running->done());
    CHECK(running->finish_reason() == FinishReason::kCancelled);
}

TEST_CASE("a reply whose time is up ends, whether it runs or waits") {
    const Model model;
    PipelineOptions options;
    options.max_sequences = 1;
    options.prompt_lookup = false;  // with guesses the reply may be complete before its time is up
    Pipeline pipeline(model.file.path(), options);
    GenerationConfig config = greedy(-1);
    config.max_time = 0.05;
    const auto running = pipeline.start(model.endless, config);
    config.max_time = 0.02;
    const auto waiting = pipeline.start({9}, config);
    CHECK(finish(*waiting).empty());
    CHECK(waiting->finish_reason() == FinishReason::kDeadline);
    CHECK(waiting->progress().seconds >= 0.02);
    finish(*running);
    CHECK(running->finish_reason() == FinishReason::kDeadline);
    for (const double bad : {0.0, -2.0, 1e300}) {
        config.max_time = bad;
        CHECK_THROWS_WITH_AS(pipeline.start({5}, config), doctest::Contains("max_time"), InvalidArgument);
    }
}

TEST_CASE("numbers of a reply") {
    const Model model;
    Pipeline pipeline(model.file.path());
    const auto reply = pipeline.start(std::vector<int32_t>(100, 5), greedy(20));
    const auto n = static_cast<int>(finish(*reply).size());
    const Progress p = reply->progress();
    CHECK(p.prompt_tokens == 100);
    CHECK(p.computed_tokens == 100);
    CHECK(p.cached_tokens == 0);
    CHECK(p.new_tokens == n);
    CHECK(p.queue_seconds <= p.first_token_seconds);
    CHECK(p.first_token_seconds <= p.seconds);
    CHECK(p.tokens_per_second > 0);
}

TEST_CASE("a listener hears of every token and of the end") {
    const Model model;
    Pipeline pipeline(model.file.path());
    std::mutex mutex;
    std::condition_variable changed;
    bool news = false;
    const auto reply = pipeline.start(model.endless, greedy(30));
    reply->on_change([&] {
        const std::lock_guard lock(mutex);
        news = true;
        changed.notify_one();
    });
    std::vector<int32_t> ids;
    while (!reply->done()) {
        int32_t token = 0;
        if (reply->ready()) {
            if (reply->step(token)) ids.push_back(token);
            continue;
        }
        std::unique_lock lock(mutex);
        changed.wait(lock, [&] { return news || reply->ready(); });
        news = false;
    }
    CHECK(ids == finish(*pipeline.start(model.endless, greedy(30))));
}

TEST_CASE("logits come between the tokens of running replies, and can be interrupted") {
    const Model model;
    Pipeline pipeline(model.file.path());
    const std::vector<int32_t> ids{4, 5, 6, 7, 8};
    const auto vocab = static_cast<size_t>(pipeline.config().vocab_size);
    std::vector<float> alone(ids.size() * vocab), together(ids.size() * vocab);
    pipeline.logits(ids, alone.data());
    const auto running = pipeline.start(model.endless, greedy(-1));
    pipeline.logits(ids, together.data());
    CHECK(alone == together);
    CHECK_FALSE(running->done());
    std::vector<float> unused(4000 * vocab);
    CHECK_THROWS_AS(pipeline.logits(std::vector<int32_t>(4000, 5), unused.data(), [] { return true; }),
                    Interrupted);
    pipeline.logits(ids, together.data());
    CHECK(alone == together);
}

TEST_CASE("a pipeline that is closed ends its replies and refuses more") {
    const Model model;
    Pipeline pipeline(model.file.path());
    const auto reply = pipeline.start(model.endless, greedy(-1));
    first_token(*reply);
    std::thread closer([&] { pipeline.close(); });
    finish(*reply);
    closer.join();
    CHECK(reply->finish_reason() == FinishReason::kCancelled);
    CHECK(pipeline.stats().used_bytes == 0);
    CHECK_THROWS_WITH_AS(pipeline.start(model.endless, greedy(1)), doctest::Contains("closed"), Error);
    pipeline.close();
}

TEST_CASE("whoever waits for something else than a reply hears that the pipeline is closed") {
    const Model model;
    Pipeline pipeline(model.file.path());
    const auto reply = pipeline.start(model.endless, greedy(-1));
    first_token(*reply);
    std::promise<void> asked;
    std::thread asker([&] {
        pipeline.clear_cache();
        asked.set_value();
        // Nearly all the time one of these waits for the end of a step.
        CHECK_THROWS_WITH_AS(
            [&] {
                for (;;) pipeline.clear_cache();
            }(),
            doctest::Contains("closed"), Error);
    });
    asked.get_future().wait();
    pipeline.close();
    asker.join();
}

TEST_CASE("a reply that cannot fit in the budget is refused with the numbers") {
    const Model model;
    PipelineOptions options;
    options.cache_memory = 2 * kPageBytes;
    Pipeline pipeline(model.file.path(), options);
    CHECK_THROWS_WITH_AS(pipeline.start({5}, greedy(-1)), doctest::Contains("4096 tokens"),
                         ContextLengthError);
    CHECK(finish(*pipeline.start({5}, greedy(128))).size() == 128);
}

// The thread sanitizer cannot follow threads that a forked process starts.
#if defined(__unix__) && !defined(__SANITIZE_THREAD__)
TEST_CASE("a forked process begins afresh, and leaves the replies of its parent alone") {
    const Model model;
    Pipeline pipeline(model.file.path());
    const auto expected = finish(*pipeline.start(model.endless, greedy(20)));
    const auto kept = pipeline.start(model.endless, greedy(20));
    finish(*kept);
    while (pipeline.stats().running > 0) {
    }
    const pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        int status = 1;
        try {
            const auto reply = pipeline.start(model.endless, greedy(20));
            if (finish(*reply) == expected && reply->progress().cached_tokens == 0) status = 0;
        } catch (const Error& error) {
            // Its thread may have been about to sleep; then the child says that it cannot compute.
            if (std::string(error.what()).find("forked") != std::string::npos) status = 0;
        }
        _exit(status);
    }
    int status = -1;
    waitpid(child, &status, 0);
    CHECK(status == 0);
    CHECK(finish(*pipeline.start(model.endless, greedy(20))) == expected);
}
#endif

namespace {

// A way to ask, and the replies that it gives when nothing else runs.
struct Question {
    std::vector<int32_t> prompt;
    GenerationConfig config;
    int n_replies = 1;
    std::vector<std::vector<int32_t>> replies = {};
};

// Prompts that share beginnings, asked greedily, for two draws, and for the best of some beams.
std::vector<Question> questions_of(const std::string& path, const PipelineOptions& options,
                                   const std::vector<int32_t>& talk) {
    std::mt19937 random(3);
    GenerationConfig drawn = greedy(60), beams = greedy(8);
    drawn.do_sample = true;
    drawn.seed = 5;
    beams.num_beams = 3;
    std::vector<std::vector<int32_t>> prompts;
    std::vector<Question> questions;
    for (int i = 0; i < 24; ++i) {
        std::vector<int32_t> prompt = talk;
        if (i >= 5) {
            prompt = prompts[random() % 5];
            prompt.resize(1 + random() % prompt.size());
        } else if (i > 0) {
            prompt.clear();
        }
        const size_t n = 1 + random() % 200;
        for (size_t k = 0; k < n; ++k) prompt.push_back(static_cast<int32_t>(3 + random() % 150));
        prompts.push_back(prompt);
        questions.push_back({prompt, greedy(60)});
        if (i % 2 == 0) questions.push_back({prompt, drawn, 2});
        if (i % 3 == 0) questions.push_back({prompt, beams, 2});
    }
    for (Question& q : questions) {
        Pipeline alone(path, options);
        for (const auto& reply : alone.start_alternatives(q.prompt, q.config, q.n_replies)) {
            q.replies.push_back(finish(*reply));
        }
    }
    return questions;
}

void soak(const std::string& kv_dtype, int64_t page_bytes, int n_requests) {
    TinyModel tiny;
    tiny.chat_template = "{% for m in messages %}{{ m.role[0] }}{{ m.content }}z{% endfor %}";
    const TemporaryFile file(tiny.build()), session("");
    constexpr int kThreads = 8;
    const int64_t budget = 60 * page_bytes;
    PipelineOptions without_guesses;
    without_guesses.prompt_lookup = false;
    without_guesses.kv_dtype = kv_dtype;
    PipelineOptions options;
    options.kv_dtype = kv_dtype;
    options.max_sequences = 6;
    options.max_queue = 3;
    options.cache_memory = budget;
    options.prefill_chunk = 48;
    options.n_threads = 2;
    options.prompt_lookup = true;
    options.draft = file.path();
    options.draft_tokens = 3;

    Pipeline pipeline(file.path(), options);
    const std::vector<ChatMessage> talk{{"user", std::string(150, 'q')}};
    const auto questions =
        questions_of(file.path(), without_guesses, pipeline.tokenizer().apply_chat_template(talk));
    pipeline.save_session(session.path(), talk);

    std::atomic<int> next{0}, n_busy{0}, n_cancelled{0}, n_wrong{0}, n_complete{0}, n_accepted{0};
    const auto work = [&](unsigned seed) {
        std::mt19937 dice(seed);
        while (next.fetch_add(1) < n_requests) {
            if (dice() % 32 == 0) pipeline.save_session(session.path(), talk);
            if (dice() % 32 == 0) pipeline.load_session(session.path());
            const Question& q = questions[dice() % questions.size()];
            GenerationConfig config = q.config;
            if (config.num_beams == 1) config.max_new_tokens = static_cast<int>(1 + dice() % 60);
            if (dice() % 16 == 0) config.max_time = 1e-3;
            std::vector<std::unique_ptr<Generation>> replies;
            while (replies.empty()) {
                try {
                    replies = pipeline.start_alternatives(q.prompt, config, q.n_replies);
                } catch (const Busy&) {
                    ++n_busy;
                    std::this_thread::yield();
                }
            }
            const size_t stop_after = dice() % 3 == 0 ? dice() % 20 : 1000;
            for (size_t i = 0; i < replies.size(); ++i) {
                Generation& reply = *replies[i];
                std::vector<int32_t> ids;
                int32_t token = 0;
                while (!reply.done() && ids.size() < stop_after) {
                    if (reply.step(token)) ids.push_back(token);
                }
                n_accepted += reply.progress().accepted_tokens;
                const bool late = reply.finish_reason() == FinishReason::kDeadline;
                if (reply.done() && !late) {
                    ++n_complete;
                } else {
                    ++n_cancelled;
                    if (late && config.num_beams > 1) continue;  // the best so far
                }
                const auto& whole = q.replies[i];
                const size_t n = std::min(whole.size(), static_cast<size_t>(config.max_new_tokens));
                if (ids.size() > n || !std::equal(ids.begin(), ids.end(), whole.begin())) ++n_wrong;
                if (reply.done() && !late && ids.size() != n) ++n_wrong;
            }
            if (dice() % 2) {
                for (const auto& reply : replies) reply->cancel();
            }
        }
    };
    std::vector<std::thread> threads;
    for (unsigned i = 0; i < kThreads; ++i) threads.emplace_back(work, i);
    for (std::thread& thread : threads) thread.join();

    // What ends last is what was asked for last.
    finish(*pipeline.start({5}, greedy(1)));
    pipeline.clear_cache();
    finish(*pipeline.start({5}, greedy(1)));
    const PipelineStats stats = pipeline.stats();
    CHECK(n_wrong == 0);
    CHECK(n_complete > 0);
    CHECK(n_cancelled > 0);
    CHECK(n_accepted > 0);
    CHECK(stats.running == 0);
    CHECK(stats.waiting == 0);
    CHECK(stats.used_bytes == 0);
    CHECK(stats.cached_bytes == page_bytes);
    CHECK(stats.allocated_bytes <= budget);
    MESSAGE(n_complete.load(), " complete, ", n_cancelled.load(), " cut, ", n_busy.load(), " refused");
}

}  // namespace

TEST_CASE("soak: random requests from many threads with random ends lose no page and change no reply") {
    const char* wanted = std::getenv("CHATGLM_SOAK_REQUESTS");
    const int n_requests = wanted ? std::atoi(wanted) : 400;
    soak("f16", kPageBytes, n_requests / 2);
    soak("q8_0", kPageBytes * 34 / 64, n_requests - n_requests / 2);
}
