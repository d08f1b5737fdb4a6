#include "chatglm/pipeline.h"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <optional>
#include <span>
#include <thread>

#include "chatglm/error.h"
#include "core/thread_pool.h"
#include "format/gguf.h"
#include "generate/lora_choice.h"
#include "generate/sampler.h"
#include "model/glm_model.h"
#include "model/load_config.h"
#include "model/memory_need.h"
#include "model/model_file.h"
#include "text/utf8_stream.h"

namespace chatglm {
namespace {

// Tokens of a prompt that may be computed at once; their activations need memory.
constexpr int kMaxChunk = 1 << 16;

const PipelineOptions& checked(const PipelineOptions& options) {
    if (options.n_threads < 0 || options.n_threads > ThreadPool::kMaxThreads) {
        throw InvalidArgument("n_threads is " + std::to_string(options.n_threads) +
                              "; it must be between 0 (choose) "
                              "and " +
                              std::to_string(ThreadPool::kMaxThreads) + ".");
    }
    if (options.prefill_chunk < 1 || options.prefill_chunk > kMaxChunk) {
        throw InvalidArgument("prefill_chunk is " + std::to_string(options.prefill_chunk) +
                              "; it must be between 1 and " + std::to_string(kMaxChunk) + ".");
    }
    return options;
}

DType kv_type(const std::string& name) {
    if (name == "f16") return DType::f16;
    if (name == "f32") return DType::f32;
    throw InvalidArgument("kv_dtype is '" + name + "'; the cache can be 'f16' or 'f32'.");
}

// That the memory is short for the model and the context that is expected; usually empty.
std::string note_of_memory(const GgufFile& file, DType kv, const PipelineOptions& options) {
    const ModelConfig config = load_config(file);
    const int n_tokens = std::clamp(options.expected_length, 1, config.max_length);
    const MemoryNeed need = memory_need(file, config, kv, n_tokens, options.prefill_chunk);
    return memory_note(need.total(), n_tokens, memory_state());
}

}  // namespace

// What the generations of one pipeline share. Everything below `mutex` is used with it held.
struct Pipeline::Shared {
    Shared(const std::string& path, const PipelineOptions& options_in)
        : options(checked(options_in)),
          kv(kv_type(options.kv_dtype)),
          file(open_model_file(path)),
          tokenizer(Tokenizer::from_gguf(file)),
          backend(make_cpu_backend(options.n_threads)),
          memory(note_of_memory(file, kv, options)),
          model(file, *backend),
          loras(choose_loras(options.loras, model.config(), *backend)),
          cache(*backend, model.kv_layout(kv)) {
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

    // For a file that is not in memory yet; where it does not fit, reading ahead would push out what is
    // needed first.
    void read_ahead() const {
        for (const GgufTensor& tensor : file.tensors()) {
            if (tensor.supported) file.will_need(tensor.data);
        }
    }

    // Takes `mutex` for a computation. A Python signal handler runs inside a computation of its own thread;
    // what it asks for there could never begin.
    class Turn {
      public:
        explicit Turn(Shared& shared) : shared_(shared) {
            if (shared.owner.load() == std::this_thread::get_id()) {
                throw Error("This pipeline is computing in the same thread: a signal handler cannot use it.");
            }
            lock_ = std::unique_lock(shared.mutex);
            shared.owner.store(std::this_thread::get_id());
            shared.collect_ended();
        }
        ~Turn() { shared_.owner.store({}); }
        Turn(const Turn&) = delete;
        Turn& operator=(const Turn&) = delete;

      private:
        Shared& shared_;
        std::unique_lock<std::mutex> lock_;
    };

    PipelineOptions options;
    DType kv;
    GgufFile file;
    std::unique_ptr<Tokenizer> tokenizer;
    std::unique_ptr<Backend> backend;
    std::string memory;  // a note of what was free before the model took its share
    GlmModel model;

    std::mutex loras_mutex;
    std::shared_ptr<const LoraChoice> loras;
    std::shared_ptr<const LoraChoice> current_loras() {
        const std::lock_guard lock(loras_mutex);
        return loras;
    }

    std::mutex mutex;
    std::atomic<std::thread::id> owner;  // who holds it
    KvCache cache;

    // The cached tokens of the last finished generation: the next turn of a conversation begins with them.
    struct Idle {
        KvCache::SequenceId sequence;
        std::vector<int32_t> ids;
        std::shared_ptr<const LoraChoice> loras;  // that it was computed with
    };
    std::optional<Idle> idle;

    // Generations that ended while another one was computing. Ending one never waits for `mutex`: whoever
    // ends it may hold a lock (Python's) that the computing thread needs.
    std::mutex ended_mutex;
    std::vector<Idle> ended;

    void end(Idle generation) {
        {
            std::lock_guard lock(ended_mutex);
            ended.push_back(std::move(generation));
        }
        // Locking again in the thread that holds it is not allowed, even to try.
        if (owner.load() == std::this_thread::get_id()) return;
        if (const std::unique_lock lock(mutex, std::try_to_lock); lock) collect_ended();
    }

    // Releases what ended; the last one stays as `idle`. With `mutex` held.
    void collect_ended() {
        std::vector<Idle> all;
        {
            std::lock_guard lock(ended_mutex);
            all.swap(ended);
        }
        for (Idle& generation : all) {
            if (idle) cache.release(idle->sequence);
            generation.ids.resize(static_cast<size_t>(n_tokens(generation.sequence)));
            idle = std::move(generation);
        }
    }

    // A sequence that holds the longest known beginning of `prompt`, shorter than the prompt itself.
    KvCache::SequenceId take_sequence(const std::vector<int32_t>& prompt,
                                      const std::shared_ptr<const LoraChoice>& with) {
        // ChatGLM-6B numbers and masks a prompt by its length: nothing of another prompt's can be used.
        if (idle && idle->loras == with && model.config().positions == PositionKind::causal) {
            const size_t limit = std::min(idle->ids.size(), prompt.size() - 1);
            const auto end = prompt.begin() + static_cast<std::ptrdiff_t>(limit);
            const auto common = std::mismatch(prompt.begin(), end, idle->ids.begin()).first - prompt.begin();
            if (common > 0) {
                const auto sequence = idle->sequence;
                idle.reset();
                cache.truncate(sequence, n_prefix() + static_cast<int>(common));
                return sequence;
            }
        }
        return model.create_sequence(cache);
    }

    int n_prefix() const { return model.config().prefix_length; }

    // Tokens of a sequence in the cache.
    int n_tokens(KvCache::SequenceId sequence) const { return cache.length(sequence) - n_prefix(); }
};

struct Generation::State {
    std::shared_ptr<Pipeline::Shared> shared;
    std::shared_ptr<const LoraChoice> loras;
    GenerationConfig config;
    Sampler sampler;
    std::vector<int32_t> ids;  // the prompt, then the reply
    int n_prompt;
    int max_length;
    int n_cached;    // found in the cache
    int n_computed;  // in the cache by now
    KvCache::SequenceId sequence;
    std::vector<float> logits;  // (vocab_size,)
    FinishReason finish = FinishReason::kNone;

    State(std::shared_ptr<Pipeline::Shared> shared_in, const GenerationConfig& config_in,
          std::vector<int32_t> prompt, int max_length_in, std::shared_ptr<Constraint> constraint)
        : shared(std::move(shared_in)),
          loras(shared->current_loras()),
          config(config_in),
          sampler(config_in, shared->tokenizer->eos_ids(), std::move(constraint)),
          ids(std::move(prompt)),
          n_prompt(static_cast<int>(ids.size())),
          max_length(max_length_in),
          logits(static_cast<size_t>(shared->model.config().vocab_size)) {
        const Pipeline::Shared::Turn turn(*shared);
        sequence = shared->take_sequence(ids, loras);
        n_cached = n_computed = shared->n_tokens(sequence);
    }

    ~State() { shared->end({sequence, std::move(ids), std::move(loras)}); }

    // Puts the next chunk of ids into the cache; the last one leaves its logits.
    void compute(const std::function<bool()>& interrupted) {
        const ModelConfig& model = shared->model.config();
        const int end =
            std::min(static_cast<int>(ids.size()),
                     std::max(n_computed + shared->options.prefill_chunk, first_chunk(model, ids)));
        Batch batch;
        batch.add(model, ids, n_computed, end, sequence);
        batch.wants_logits.back() = end == static_cast<int>(ids.size());
        const Pipeline::Shared::Turn turn(*shared);
        shared->model.forward(batch, shared->cache, logits.data(), loras->active, interrupted);
        n_computed = end;
    }

    void check_length() {
        const int new_tokens = static_cast<int>(ids.size()) - n_prompt;
        if (static_cast<int>(ids.size()) >= max_length ||
            (config.max_new_tokens >= 0 && new_tokens >= config.max_new_tokens)) {
            finish = FinishReason::kLength;
        }
    }
};

Generation::Generation(std::unique_ptr<State> state) : state_(std::move(state)) {}
Generation::~Generation() = default;

bool Generation::step(int32_t& token, const std::function<bool()>& interrupted) {
    State& s = *state_;
    if (done()) return false;
    s.compute(interrupted);
    if (s.n_computed < static_cast<int>(s.ids.size())) return false;
    // Rows of the embedding beyond the vocabulary are padding: no token has such an id.
    const size_t n_tokens = std::min(s.logits.size(), static_cast<size_t>(s.shared->tokenizer->vocab_size()));
    if (!all_finite(s.logits)) {
        s.finish = FinishReason::kCancelled;  // there is nothing to go on from
        throw Error(
            "The model computed something that is no number: its file is damaged, or the scale of an "
            "adapter is too large.");
    }
    try {
        token = s.sampler.sample(std::span(s.logits).first(n_tokens), s.ids, static_cast<size_t>(s.n_prompt));
    } catch (...) {
        s.finish = FinishReason::kCancelled;
        throw;
    }
    if (s.sampler.is_end(token)) {
        s.finish = FinishReason::kStop;
        return false;
    }
    s.ids.push_back(token);
    s.check_length();
    if (s.sampler.complete()) s.finish = FinishReason::kStop;
    return true;
}

void Generation::stop() {
    state_->finish = FinishReason::kStop;
}

const TokenLogprobs* Generation::logprobs() const {
    return state_->sampler.logprobs();
}

bool Generation::done() const {
    return state_->finish != FinishReason::kNone;
}
FinishReason Generation::finish_reason() const {
    return state_->finish;
}
int Generation::prompt_tokens() const {
    return state_->n_prompt;
}
int Generation::cached_tokens() const {
    return state_->n_cached;
}
int Generation::computed_tokens() const {
    return std::min(state_->n_computed, state_->n_prompt);
}
int Generation::new_tokens() const {
    return static_cast<int>(state_->ids.size()) - state_->n_prompt;
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
const char* Pipeline::isa() const {
    return shared_->backend->isa();
}
std::vector<std::string> Pipeline::notes() const {
    std::vector<std::string> notes = shared_->model.notes();
    if (!shared_->memory.empty()) notes.push_back(shared_->memory);
    return notes;
}

void Pipeline::set_loras(const std::vector<Lora>& wanted) {
    auto next = choose_loras(wanted, config(), *shared_->backend, shared_->current_loras());
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

}  // namespace

std::unique_ptr<Generation> Pipeline::start(std::vector<int32_t> prompt, const GenerationConfig& config,
                                            std::shared_ptr<Constraint> constraint) {
    config.validate();
    config.validate_ids(this->config().vocab_size);
    if (constraint && !(config.stop.empty() && config.stop_token_ids.empty() && !config.ignore_eos)) {
        throw InvalidArgument(
            "stop, stop_token_ids and ignore_eos end a reply where its format may not end; leave them out of "
            "a reply of a given format.");
    }
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
    check_cache_memory(shared_->cache.layout(), static_cast<int>(prompt.size()), memory_state());
    auto state = std::make_unique<Generation::State>(shared_, config, std::move(prompt), max_length,
                                                     std::move(constraint));
    if (config.max_new_tokens == 0) state->finish = FinishReason::kLength;
    return std::unique_ptr<Generation>(new Generation(std::move(state)));
}

namespace {

// Runs a generation to its end, handing pieces of its text to `on_text`, and of its thought to
// `on_reasoning`; returns what came.
ChatMessage run(Generation& generation, TextStreamer& streamer, const Pipeline::TextCallback& on_text,
                const Pipeline::TextCallback& on_reasoning = nullptr) {
    ChatMessage message{ChatMessage::kRoleAssistant, ""};
    const auto give = [](const std::string& text, const Pipeline::TextCallback& to) {
        return text.empty() || !to || to(text);
    };
    const auto add = [&](const std::string& text) {
        message.reasoning_content += streamer.reasoning();
        message.content += text;
        if (message.tool_call_error.empty()) message.tool_call_error = streamer.tool_call_error();
    };
    bool wanted = true;
    int32_t token = 0;
    while (wanted && !generation.done()) {
        if (!generation.step(token)) continue;
        const std::string text = streamer.put(token);
        add(text);
        if (streamer.stopped()) generation.stop();
        wanted = give(streamer.reasoning(), on_reasoning) && give(text, on_text);
    }
    const std::string text = streamer.finish();
    add(text);
    if (wanted && give(streamer.reasoning(), on_reasoning)) give(text, on_text);
    message.tool_calls = streamer.tool_calls();
    return message;
}

}  // namespace

ChatMessage Pipeline::chat(const std::vector<ChatMessage>& messages, const GenerationConfig& config,
                           const TextCallback& on_text, const TextCallback& on_reasoning) {
    const auto generation = start(tokenizer().apply_chat_template(messages), config);
    TextStreamer streamer(tokenizer(), TextStreamer::kReply, config.stop);
    return run(*generation, streamer, on_text, on_reasoning);
}

std::string Pipeline::generate(std::string_view prompt, const GenerationConfig& config,
                               const TextCallback& on_text) {
    const auto generation = start(tokenizer().encode(prompt), config);
    TextStreamer streamer(tokenizer(), TextStreamer::kPlain, config.stop);
    return run(*generation, streamer, on_text).content;
}

void Pipeline::logits(const std::vector<int32_t>& ids, float* out, const std::function<bool()>& interrupted) {
    if (ids.size() > static_cast<size_t>(config().max_length)) {
        throw ContextLengthError("There are " + std::to_string(ids.size()) +
                                 " tokens, and the model's context has " +
                                 std::to_string(config().max_length) + ".");
    }
    const std::shared_ptr<const LoraChoice> loras = shared_->current_loras();
    const Shared::Turn turn(*shared_);
    const auto sequence = shared_->model.create_sequence(shared_->cache);
    try {
        const int n = static_cast<int>(ids.size());
        for (int begin = 0; begin < n;) {
            const int end =
                std::min(n, std::max(begin + shared_->options.prefill_chunk, first_chunk(config(), ids)));
            Batch batch;
            batch.add(config(), ids, begin, end, sequence);
            std::fill(batch.wants_logits.begin(), batch.wants_logits.end(), uint8_t{1});
            shared_->model.forward(batch, shared_->cache, out + int64_t{begin} * config().vocab_size,
                                   loras->active, interrupted);
            begin = end;
        }
    } catch (...) {
        shared_->cache.release(sequence);
        throw;
    }
    shared_->cache.release(sequence);
}

}  // namespace chatglm
