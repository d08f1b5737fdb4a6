#include "chatglm/pipeline.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <mutex>
#include <optional>

#include "chatglm/error.h"
#include "core/thread_pool.h"
#include "format/gguf.h"
#include "generate/engine.h"
#include "generate/session_task.h"
#include "model/glm_model.h"
#include "model/kv_cache.h"
#include "model/load_config.h"
#include "model/memory_need.h"
#include "model/model_file.h"
#include "text/chat_format.h"

namespace chatglm {
namespace {

// Tokens of a prompt that may be computed at once; their activations need memory.
constexpr int kMaxChunk = 1 << 16;
constexpr int kMaxRequests = 1 << 16;
constexpr int kMaxDraftTokens = 16;

const PipelineOptions& checked(const PipelineOptions& options) {
    const auto require = [](bool ok, const char* name, const auto& value, const std::string& range) {
        if (!ok) {
            throw InvalidArgument(std::string(name) + " is " + std::to_string(value) + "; it must be " +
                                  range + ".");
        }
    };
    const auto between = [&](const char* name, int value, int least, int most, const char* of_least = "") {
        require(value >= least && value <= most, name, value,
                "between " + std::to_string(least) + of_least + " and " + std::to_string(most));
    };
    between("n_threads", options.n_threads, 0, ThreadPool::kMaxThreads, " (choose)");
    between("prefill_chunk", options.prefill_chunk, 1, kMaxChunk);
    between("max_sequences", options.max_sequences, 1, kMaxRequests);
    between("max_queue", options.max_queue, 0, kMaxRequests);
    between("draft_tokens", options.draft_tokens, 0, kMaxDraftTokens, " (choose)");
    require(options.draft_tokens == 0 || !options.draft.empty(), "draft_tokens", options.draft_tokens,
            "0 without a draft model");
    require(options.max_pause > 0 && std::isfinite(options.max_pause), "max_pause", options.max_pause,
            "a positive number of seconds");
    require(options.cache_memory >= 0, "cache_memory", options.cache_memory,
            "a number of bytes, or 0 (choose)");
    return options;
}

// That the memory is short for the model and the context that is expected; usually empty.
std::string note_of_memory(const GgufFile& file, DType kv, const PipelineOptions& options) {
    const ModelConfig config = load_config(file);
    const int n_tokens = std::clamp(options.expected_length, 1, config.max_length);
    int64_t bytes = memory_need(file, config, kv, n_tokens, options.prefill_chunk).total();
    if (!options.draft.empty()) {
        bytes += draft_memory_need(options.draft, kv, n_tokens, options.prefill_chunk);
    }
    return memory_note(bytes, n_tokens, memory_state());
}

}  // namespace

// What the generations of one pipeline share.
struct Pipeline::Shared {
    Shared(const std::string& path, const PipelineOptions& options_in)
        : options(checked(options_in)),
          kv(cache_type(options.kv_dtype)),
          file(open_model_file(path)),
          tokenizer(Tokenizer::from_gguf(file)),
          backend(make_cpu_backend(options.n_threads)),
          memory(note_of_memory(file, kv, options)),
          model(file, *backend),
          draft(options.draft.empty() ? nullptr
                                      : std::make_unique<DraftFile>(options.draft, *backend, *tokenizer,
                                                                    model.config().vocab_size)),
          loras(choose_loras(options.loras, model.config(), *backend)),
          engine_(make_engine()) {
        if (memory.empty()) read_ahead();
        const int vocab = model.config().vocab_size;
        for (const auto* ids : {&tokenizer->prefix_ids(), &tokenizer->suffix_ids(), &tokenizer->eos_ids()}) {
            for (const int32_t id : *ids) {
                if (id >= 0 && id < vocab) continue;
                throw FormatError("'" + path + "' names the special token " + std::to_string(id) +
                                  ", but its embedding has " + std::to_string(vocab) +
                                  " rows. Convert the checkpoint again.");
            }
        }
    }
    ~Shared() {
        if (!engine_.load()->in_this_process()) static_cast<void>(owner_.release());
    }

    // For a file that is not in memory yet; where it does not fit, reading ahead would push out what is
    // needed first.
    void read_ahead() const {
        for (const GgufTensor& tensor : file.tensors()) {
            if (tensor.supported) file.will_need(tensor.data);
        }
    }

    PipelineOptions options;
    DType kv;
    GgufFile file;
    std::unique_ptr<Tokenizer> tokenizer;
    std::unique_ptr<Backend> backend;
    std::string memory;  // a note of what was free before the model took its share
    GlmModel model;
    std::unique_ptr<DraftFile> draft;

    std::mutex loras_mutex;
    std::shared_ptr<const LoraChoice> loras;
    std::shared_ptr<const LoraChoice> current_loras() {
        const std::lock_guard lock(loras_mutex);
        return loras;
    }

    // In a forked process the engine of the parent is left behind and another one takes its place.
    Engine& engine() {
        Engine* engine = engine_.load();
        if (engine->in_this_process()) return *engine;
        const std::lock_guard lock(fork_mutex_);  // never locked in the parent
        engine = engine_.load();
        if (engine->in_this_process()) return *engine;
        if (closed_.load()) throw Error("The pipeline was closed: nothing more is computed.");
        if (engine->computing()) {
            throw Error(
                "This process was forked while the pipeline was computing, so the pipeline cannot be used in "
                "it. Open the model again.");
        }
        static_cast<void>(owner_.release());
        engine_.store(make_engine());
        return *engine_.load();
    }

    SessionContext session_context(const std::function<bool()>& interrupted) {
        return {engine(),       model.config(),  file,       options.kv_dtype,
                backend->isa(), current_loras(), interrupted};
    }

    bool in_engine_thread() const { return engine_.load()->in_own_thread(); }

    void close() {
        Engine* engine = engine_.load();
        engine->refuse_own_thread();
        closed_.store(true);
        if (engine->in_this_process()) engine->stop();
    }

  private:
    Engine* make_engine() {
        owner_ = std::make_unique<Engine>(model, *backend, *tokenizer, options, kv, draft.get());
        return owner_.get();
    }

    std::mutex fork_mutex_;
    std::unique_ptr<Engine> owner_;
    std::atomic<bool> closed_{false};
    std::atomic<Engine*> engine_;
};

struct Generation::State {
    std::shared_ptr<Pipeline::Shared> shared;
    Engine* engine;                  // of the process that began the reply
    std::shared_ptr<Outbox> outbox;  // shares the ownership of its request

    bool foreign() const { return !engine->in_this_process(); }
};

Generation::Generation(std::unique_ptr<State> state) : state_(std::move(state)) {}

Generation::~Generation() {
    if (state_->foreign()) {
        static_cast<void>(state_.release());  // its locks may be held for ever
    } else {
        state_->outbox->cancel();
    }
}

bool Generation::step(int32_t& token, const std::function<bool()>& interrupted) {
    if (state_->foreign()) {
        throw Error("This reply was begun before the process was forked; only the parent can go on with it.");
    }
    if (!ready()) state_->engine->refuse_own_thread();
    return state_->outbox->take(token, interrupted);
}

bool Generation::ready() const {
    return state_->outbox->ready();
}
bool Generation::done() const {
    return state_->outbox->done();
}
FinishReason Generation::finish_reason() const {
    return state_->outbox->finish_reason();
}
Progress Generation::progress() const {
    return state_->outbox->progress();
}
void Generation::cancel() {
    if (!state_->foreign()) state_->outbox->cancel();
}
void Generation::stop() {
    if (!state_->foreign()) state_->outbox->stop();
}
std::optional<TokenLogprobs> Generation::logprobs() const {
    return state_->outbox->logprobs();
}
void Generation::on_change(std::function<void()> listener) {
    state_->outbox->on_change(std::move(listener));
}

Pipeline::Pipeline(const std::string& path, const PipelineOptions& options)
    : shared_(std::make_shared<Shared>(path, options)) {}
Pipeline::~Pipeline() = default;

const ModelConfig& Pipeline::config() const {
    return shared_->model.config();
}
const Tokenizer& Pipeline::tokenizer() const {
    return *shared_->tokenizer;
}
int Pipeline::n_threads() const {
    return shared_->backend->n_threads();
}
const std::string& Pipeline::kv_dtype() const {
    return shared_->options.kv_dtype;
}
int Pipeline::max_sequences() const {
    return shared_->options.max_sequences;
}
const char* Pipeline::isa() const {
    return shared_->backend->isa();
}
std::vector<std::string> Pipeline::notes() const {
    std::vector<std::string> notes = shared_->model.notes();
    if (!shared_->memory.empty()) notes.push_back(shared_->memory);
    return notes;
}

void Pipeline::set_loras(const std::vector<Lora>& wanted) {
    const auto current = shared_->current_loras();
    auto next = choose_loras(wanted, config(), *shared_->backend, current);
    if (next->same_as(*current)) return;  // what was computed with them stays of use
    const std::lock_guard lock(shared_->loras_mutex);
    shared_->loras = std::move(next);
}
std::vector<Lora> Pipeline::loras() const {
    return shared_->current_loras()->named;
}

namespace {

// Keeps the prefix tokens and the end of a prompt that is longer than `limit`.
void cut_prompt(std::vector<int32_t>& prompt, const std::vector<int32_t>& prefix, int limit) {
    const auto n = static_cast<std::ptrdiff_t>(prompt.size());
    if (n <= limit) return;
    const bool has_prefix = !prefix.empty() && static_cast<int>(prefix.size()) < limit &&
                            std::equal(prefix.begin(), prefix.end(), prompt.begin());
    const auto keep = has_prefix ? static_cast<std::ptrdiff_t>(prefix.size()) : 0;
    prompt.erase(prompt.begin() + keep, prompt.begin() + keep + (n - limit));
}

void check_beams(const GenerationConfig& config, int n, bool constrained, int max_sequences) {
    if (config.num_beams > max_sequences) {
        throw InvalidArgument("num_beams is " + std::to_string(config.num_beams) +
                              "; it must be between 1 and " + std::to_string(max_sequences) +
                              " (max_sequences of the pipeline).");
    }
    if (n > config.num_beams) {
        throw InvalidArgument("alternatives is " + std::to_string(n) + ", and " +
                              std::to_string(config.num_beams) +
                              " beams have no more replies than that. Raise num_beams.");
    }
    if (constrained) {
        throw InvalidArgument(
            "A reply of a given format cannot be searched for with beams. Leave out num_beams.");
    }
}

}  // namespace

std::unique_ptr<Generation> Pipeline::start(std::vector<int32_t> prompt, const GenerationConfig& config,
                                            std::shared_ptr<Constraint> constraint) {
    return std::move(start_alternatives(std::move(prompt), config, 1, {std::move(constraint)}).front());
}

std::vector<std::unique_ptr<Generation>> Pipeline::start_alternatives(
    std::vector<int32_t> prompt, const GenerationConfig& config, int n,
    std::vector<std::shared_ptr<Constraint>> constraints) {
    config.validate();
    config.validate_ids(this->config().vocab_size);
    if (n < 1 || n > shared_->options.max_sequences) {
        throw InvalidArgument("alternatives is " + std::to_string(n) + "; it must be between 1 and " +
                              std::to_string(shared_->options.max_sequences) +
                              " (max_sequences of the pipeline).");
    }
    constraints.resize(static_cast<size_t>(n));
    const bool constrained = std::any_of(constraints.begin(), constraints.end(),
                                         [](const auto& constraint) { return constraint != nullptr; });
    if (constrained && !(config.stop.empty() && config.stop_token_ids.empty() && !config.ignore_eos)) {
        throw InvalidArgument(
            "stop, stop_token_ids and ignore_eos end a reply where its format may not end; leave them out of "
            "a reply of a given format.");
    }
    if (config.num_beams > 1) check_beams(config, n, constrained, shared_->options.max_sequences);
    if (prompt.empty()) throw InvalidArgument("The prompt is empty: give at least one token.");
    for (const int32_t id : prompt) {
        if (id < 0 || id >= this->config().vocab_size) {
            throw InvalidArgument("The prompt holds the token id " + std::to_string(id) +
                                  ", outside the vocabulary of " + std::to_string(this->config().vocab_size) +
                                  ".");
        }
    }
    if (config.max_context_length > 0)
        cut_prompt(prompt, tokenizer().prefix_ids(), config.max_context_length);
    const int max_length = std::min(config.max_length, this->config().max_length);
    if (prompt.size() >= static_cast<size_t>(max_length)) {
        const bool by_model = max_length == this->config().max_length;
        throw ContextLengthError("The prompt has " + std::to_string(prompt.size()) + " tokens, and " +
                                 std::to_string(max_length) + " are allowed for prompt and reply together (" +
                                 (by_model ? "the model's context length" : "max_length") + "). " +
                                 (by_model ? "Shorten it" : "Raise max_length, shorten the prompt") +
                                 ", or set max_context_length to keep only its last tokens.");
    }
    check_cache_memory(shared_->model.kv_layout(shared_->kv), static_cast<int>(prompt.size()),
                       memory_state());
    Engine& engine = shared_->engine();
    const auto loras = shared_->current_loras();
    // The replies of a beam search are the best ones of a single request.
    const bool together = config.num_beams > 1;
    std::vector<std::shared_ptr<Request>> requests;
    std::vector<std::shared_ptr<Outbox>> outboxes;
    for (int i = 0; i < (together ? 1 : n); ++i) {
        requests.push_back(std::make_shared<Request>(prompt, config.alternative(i), max_length,
                                                     this->config(), loras, tokenizer().eos_ids(),
                                                     std::move(constraints[static_cast<size_t>(i)])));
        const auto& request = requests.back();
        for (int j = 1; together && j < n; ++j) {
            request->other_outboxes.push_back(std::make_unique<Outbox>(request->n_prompt));
        }
        for (Outbox* outbox : request->outboxes()) outboxes.emplace_back(request, outbox);
    }
    if (config.max_new_tokens == 0) {
        for (const auto& outbox : outboxes) outbox->end(FinishReason::kLength);
    } else {
        engine.submit(requests);
    }
    std::vector<std::unique_ptr<Generation>> generations;
    for (auto& outbox : outboxes) {
        generations.emplace_back(
            new Generation(std::make_unique<Generation::State>(shared_, &engine, std::move(outbox))));
    }
    return generations;
}

void Pipeline::logits(const std::vector<int32_t>& ids, float* out, const std::function<bool()>& interrupted) {
    if (ids.size() > static_cast<size_t>(config().max_length)) {
        throw ContextLengthError("There are " + std::to_string(ids.size()) +
                                 " tokens, and the model's context has " +
                                 std::to_string(config().max_length) + ".");
    }
    const std::shared_ptr<const LoraChoice> loras = shared_->current_loras();
    Engine& engine = shared_->engine();
    const int n = static_cast<int>(ids.size());
    std::optional<KvCache::SequenceId> sequence;
    const auto release = [&] {
        if (sequence) engine.run([&](BatchLoop& loop, const auto&) { loop.cache().release(*sequence); });
    };
    try {
        // One chunk a turn: replies that are being written go on between them.
        for (int begin = 0; begin < n;) {
            engine.run(
                [&](BatchLoop& loop, const std::function<bool()>& unwanted) {
                    if (!sequence) sequence = shared_->model.create_sequence(loop.cache());
                    begin = loop.compute_logits(ids, begin, *sequence, loras->active,
                                                out + int64_t{begin} * config().vocab_size, unwanted);
                },
                interrupted);
        }
    } catch (...) {
        release();
        throw;
    }
    release();
}

void Pipeline::embed(const std::vector<std::vector<int32_t>>& texts, float* out,
                     const EmbeddingOptions& options, const std::function<bool()>& interrupted) {
    for (size_t i = 0; i < texts.size(); ++i) {
        const std::string name = "Text " + std::to_string(i);
        if (texts[i].empty()) throw InvalidArgument(name + " has no tokens, so there is nothing to embed.");
        if (texts[i].size() > static_cast<size_t>(config().max_length)) {
            throw ContextLengthError(name + " has " + std::to_string(texts[i].size()) +
                                     " tokens, and the model's context has " +
                                     std::to_string(config().max_length) + ". Cut it into parts.");
        }
        for (const int32_t id : texts[i]) {
            if (id >= 0 && id < config().vocab_size) continue;
            throw InvalidArgument(name + " holds the token id " + std::to_string(id) +
                                  ", outside the vocabulary of " + std::to_string(config().vocab_size) + ".");
        }
    }
    EmbeddingJob job(texts, options, shared_->current_loras(), out);
    Engine& engine = shared_->engine();
    try {
        // One batch a turn: replies that are being written go on between them.
        while (!job.done()) {
            engine.run([&](BatchLoop& loop, const auto& unwanted) { loop.compute_embeddings(job, unwanted); },
                       interrupted);
        }
    } catch (...) {
        engine.run([&](BatchLoop& loop, const auto&) { job.release(loop.cache()); });
        throw;
    }
}

std::vector<float> Pipeline::embed(std::string_view text, const EmbeddingOptions& options) {
    std::vector<float> result(static_cast<size_t>(config().hidden_size));
    embed({tokenizer().encode(text)}, result.data(), options);
    return result;
}

int Pipeline::save_session(const std::string& path, const std::vector<ChatMessage>& messages,
                           const std::string& tools, const std::function<bool()>& interrupted) {
    PromptOptions options;
    options.tools = tools;
    options.add_generation_prompt = false;
    const std::vector<int32_t> ids = ChatFormat::encode(tokenizer(), messages, options);
    return chatglm::save_session(shared_->session_context(interrupted), path, {messages, tools}, ids);
}

Session Pipeline::load_session(const std::string& path, const std::function<bool()>& interrupted) {
    return chatglm::load_session(shared_->session_context(interrupted), path);
}

PipelineStats Pipeline::stats() const {
    return shared_->engine().stats();
}

void Pipeline::clear_cache() {
    shared_->engine().run([](BatchLoop& loop, const auto&) { loop.clear_prefixes(); });
}

void Pipeline::close() {
    shared_->close();
}

bool Pipeline::in_engine_thread() const {
    return shared_->in_engine_thread();
}

}  // namespace chatglm
