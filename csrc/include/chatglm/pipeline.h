// A model file, ready to answer.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "chatglm/chat.h"
#include "chatglm/constraint.h"
#include "chatglm/generation.h"
#include "chatglm/message.h"
#include "chatglm/model.h"
#include "chatglm/session.h"
#include "chatglm/tokenizer.h"

namespace chatglm {

// A LoRA adapter in use.
struct Lora {
    std::string path;    // GGUF file, in llama.cpp's conventions for adapters
    float scale = 1.0f;  // multiplies the adapter's own scale; 0 switches it off
    bool operator==(const Lora&) const = default;
};

struct PipelineOptions {
    int n_threads = 0;             // 0: the fast physical cores
    std::string kv_dtype = "f16";  // type of the key/value cache: "f16", "q8_0" (half the memory) or "f32"
    std::vector<Lora> loras = {};
    // Tokens of prompt and reply together that notes() considers the memory for.
    int expected_length = 2048;
    // What follows changes speed and memory, never a result.
    int prefill_chunk = 512;  // most tokens of prompts computed in one step
    double max_pause = 0.25;  // seconds by which prompts may hold up each token of replies being written
    int max_sequences = 16;   // replies computed at the same time
    int max_queue = 256;      // requests that may wait beyond these; one more is refused with Busy
    // Bytes for keys and values: those of running replies, and of earlier ones for as long as there is room.
    // 0: 1 GiB or 8192 tokens, whichever is more; a reply that runs alone may then use whatever it needs.
    int64_t cache_memory = 0;
    // Guess the next tokens of a reply from what followed the last ones earlier in its prompt and text, and
    // check several in one step: when that pays, always (true), or never.
    std::optional<bool> prompt_lookup = std::nullopt;
    // A smaller model (GGUF file) with the same vocabulary that guesses where the text itself gives none;
    // empty for none. Its keys and values take up to a quarter of the bytes of the model's, in addition.
    std::string draft = {};
    int draft_tokens = 0;  // that it guesses each time; 0: as many as pay
};

struct PipelineStats {
    int running = 0, waiting = 0;  // replies
    int64_t used_bytes = 0;        // of keys and values that running replies need
    int64_t cached_bytes = 0;      // of earlier replies, for later ones that begin alike; some may be in use
    int64_t allocated_bytes = 0;   // in all
};

// How the states of a text's tokens become one vector.
enum class Pooling {
    mean,  // of all tokens
    last,  // the last token's alone, which has seen all others
};

struct EmbeddingOptions {
    Pooling pooling = Pooling::mean;
    bool normalize = true;  // to length 1, so that a product of two vectors is the cosine between them
};

// One reply being generated, by a thread that computes all replies of the pipeline, together where it can.
// Fetch its tokens until done(); destroying it early cancels it. It shares ownership of what it needs, so any
// order of destruction is fine.
class Generation {
  public:
    ~Generation();
    Generation(const Generation&) = delete;
    Generation& operator=(const Generation&) = delete;

    // Waits for what comes next. Returns true when `token` was set; the token that ends the reply (an
    // end-of-turn token) is not given. Returns false when a part of the prompt was computed (see progress) or
    // the reply has ended. `interrupted` is asked many times a second; when it says true Interrupted is
    // thrown, and a later step() goes on from there. Throws what went wrong with the reply, and then it has
    // ended.
    bool step(int32_t& token, const std::function<bool()>& interrupted = nullptr);
    // Whether step() would not wait.
    bool ready() const;
    bool done() const;
    FinishReason finish_reason() const;
    // Ends the reply: its computation stops within one token, or at the next layer when nothing else is
    // computed with it. Tokens that were not fetched are dropped. May be called from any thread.
    void cancel();
    // The same for a reply that then counts as complete: a text of GenerationConfig::stop has come.
    void stop();
    // Of the last token that was fetched; empty when the settings do not ask for it.
    std::optional<TokenLogprobs> logprobs() const;
    Progress progress() const;
    // Calls `listener` whenever ready() may have become true, from another thread: it must be short and must
    // not throw. It may be called once more after this object has gone.
    void on_change(std::function<void()> listener);

  private:
    friend class Pipeline;
    struct State;
    explicit Generation(std::unique_ptr<State> state);
    std::unique_ptr<State> state_;
};

// All methods may be called from any thread at any time. In a process forked while nothing was computed it
// begins afresh, with an empty cache; otherwise it refuses to compute there.
class Pipeline {
  public:
    // Receives pieces of a reply's text as they come; false stops the generation.
    using TextCallback = std::function<bool(std::string_view text)>;

    // Maps the GGUF file at `path` (UTF-8). Throws FileError, FormatError, InvalidArgument, OutOfMemory.
    explicit Pipeline(const std::string& path, const PipelineOptions& options = {});
    ~Pipeline();
    Pipeline(const Pipeline&) = delete;
    Pipeline& operator=(const Pipeline&) = delete;

    const ModelConfig& config() const;
    const Tokenizer& tokenizer() const;
    int n_threads() const;
    const std::string& kv_dtype() const;
    int max_sequences() const;
    const char* isa() const;  // name of the kernels in use, for example "avx2"
    // Sentences that a program may show its user: what loading the file took beyond mapping it, and that the
    // memory was short when it was loaded. Usually none.
    std::vector<std::string> notes() const;

    // The adapters that generations use which start from now on; those that run keep what they began with.
    // The files are read here, those in use already only if they have changed. Throws FileError; FormatError
    // for a file that is no adapter of this model; InvalidArgument for a scale that is not finite or a file
    // named twice. After an exception nothing has changed.
    void set_loras(const std::vector<Lora>& loras);
    std::vector<Lora> loras() const;

    // Begins a reply to `prompt` and returns at once. Throws ContextLengthError when the prompt does not fit,
    // InvalidArgument for an empty prompt, ids outside the vocabulary or settings out of range, OutOfMemory
    // when the prompt's cache cannot be had, Busy when too many replies wait. With `constraint` the reply's
    // text is what it allows; it is called by the thread that computes. GenerationConfig::stop is for who
    // turns tokens into text: see TextStreamer and Generation::stop.
    std::unique_ptr<Generation> start(std::vector<int32_t> prompt, const GenerationConfig& config,
                                      std::shared_ptr<Constraint> constraint = nullptr);

    // The same for `n` replies to one prompt, which is computed once: reply i is the one that
    // start(prompt, config.alternative(i)) gives. All of them begin, or none. `constraints` has one for each
    // reply, or is empty. Throws InvalidArgument unless `n` is between 1 and PipelineOptions::max_sequences.
    std::vector<std::unique_ptr<Generation>> start_alternatives(
        std::vector<int32_t> prompt, const GenerationConfig& config, int n,
        std::vector<std::shared_ptr<Constraint>> constraints = {});

    // Begins the assistant's reply to a conversation and returns at once. Throws as start(), and
    // InvalidArgument for what the model's chat format does not know.
    std::unique_ptr<ChatStream> stream_chat(const std::vector<ChatMessage>& messages,
                                            const GenerationConfig& config = {},
                                            const ChatOptions& options = {});
    // The whole reply. `on_delta` receives its pieces as they come; false ends it there.
    using DeltaCallback = std::function<bool(const DeltaMessage& delta)>;
    ChatMessage chat(const std::vector<ChatMessage>& messages, const GenerationConfig& config,
                     const ChatOptions& options, const DeltaCallback& on_delta = nullptr);
    // The same for a conversation without tools. `on_text` receives the answer, which is the reply's
    // `content`; `on_reasoning` what a reasoning model thinks before it, the reply's `reasoning_content`.
    ChatMessage chat(const std::vector<ChatMessage>& messages, const GenerationConfig& config = {},
                     const TextCallback& on_text = nullptr, const TextCallback& on_reasoning = nullptr);

    // A continuation of `prompt` (base and code models); begun, or whole.
    std::unique_ptr<ChatStream> stream_generate(std::string_view prompt, const GenerationConfig& config = {});
    std::string generate(std::string_view prompt, const GenerationConfig& config = {},
                         const TextCallback& on_text = nullptr);

    // Logits of every position: out (ids.size(), vocab_size). Uses an empty cache of its own. `interrupted`
    // as in Generation::step.
    void logits(const std::vector<int32_t>& ids, float* out,
                const std::function<bool()>& interrupted = nullptr);

    // A vector for each text: out (texts.size(), hidden_size), made of the hidden states after the final
    // norm. Texts are ids, as Tokenizer::encode gives them. They are computed several at a time, beside
    // replies and without a place in their queue. Throws InvalidArgument for a text without ids or an id
    // outside the vocabulary, ContextLengthError for a text longer than the context. `interrupted` as in
    // Generation::step.
    void embed(const std::vector<std::vector<int32_t>>& texts, float* out,
               const EmbeddingOptions& options = {}, const std::function<bool()>& interrupted = nullptr);
    std::vector<float> embed(std::string_view text, const EmbeddingOptions& options = {});

    // Puts a conversation aside in the file at `path`, with the keys and values that the cache has of it, in
    // whole pages of 64 tokens; returns of how many tokens. `tools` are those that its prompts told of. What
    // was at `path` is replaced at once, or stays as it is. Throws FileError, and InvalidArgument for a
    // conversation that the chat format does not know. `interrupted` as in Generation::step.
    int save_session(const std::string& path, const std::vector<ChatMessage>& messages,
                     const std::string& tools = {}, const std::function<bool()>& interrupted = nullptr);
    // The conversation in such a file, whose keys and values the cache has afterwards as if it had been held
    // just now. Throws InvalidArgument when it was saved with another model file, type of cache or adapters
    // than those in use; FileError, FormatError, OutOfMemory.
    Session load_session(const std::string& path, const std::function<bool()>& interrupted = nullptr);

    PipelineStats stats() const;
    // Forgets what earlier replies left for later ones.
    void clear_cache();
    // Cancels all replies and ends the thread that computes; afterwards start() and logits() throw Error.
    void close();
    // Whether this is the thread that computes, as it is in a constraint. It must not wait for a reply, close
    // the pipeline or destroy it.
    bool in_engine_thread() const;

  private:
    friend class Generation;
    struct Shared;
    std::shared_ptr<Shared> shared_;
};

}  // namespace chatglm
