// A model file, ready to answer.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "chatglm/constraint.h"
#include "chatglm/generation.h"
#include "chatglm/message.h"
#include "chatglm/model.h"
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
    std::string kv_dtype = "f16";  // type of the key/value cache: "f16" or "f32"
    std::vector<Lora> loras = {};
    int prefill_chunk = 512;  // tokens of a prompt computed at once; changes speed and memory, never a result
    int expected_length = 2048;  // tokens of prompt and reply together that notes() considers the memory for
};

// One reply being generated. Call step() until done(). Destroying it early gives its memory back. It must not
// outlive the pipeline's last owner: it shares ownership of what it needs, so any order of destruction is
// fine.
class Generation {
  public:
    ~Generation();
    Generation(const Generation&) = delete;
    Generation& operator=(const Generation&) = delete;

    // Computes the next chunk of the prompt or the next token. Returns true when `token` was set; the token
    // that ends the reply (an end-of-turn token) is not given. After done() it returns false. `interrupted`
    // is asked many times a second; when it says true the step is undone and Interrupted is thrown, and a
    // later step() goes on from there.
    bool step(int32_t& token, const std::function<bool()>& interrupted = nullptr);
    bool done() const;
    FinishReason finish_reason() const;
    // Ends the reply, which then counts as complete: a text of GenerationConfig::stop has come.
    void stop();
    // Of the last token that was given; null when the settings do not ask for it.
    const TokenLogprobs* logprobs() const;

    int prompt_tokens() const;    // ids in the prompt
    int cached_tokens() const;    // of these, found in the cache of an earlier call
    int computed_tokens() const;  // of these, in the cache by now: the progress of a long prompt
    int new_tokens() const;       // tokens given so far

  private:
    friend class Pipeline;
    struct State;
    explicit Generation(std::unique_ptr<State> state);
    std::unique_ptr<State> state_;
};

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

    // Begins a reply to `prompt`. Throws ContextLengthError when the prompt does not fit, InvalidArgument for
    // an empty prompt, ids outside the vocabulary or settings out of range, OutOfMemory when its cache cannot
    // be had. With `constraint` the reply's text is what it allows. GenerationConfig::stop is for who turns
    // tokens into text: see TextStreamer and stop().
    std::unique_ptr<Generation> start(std::vector<int32_t> prompt, const GenerationConfig& config,
                                      std::shared_ptr<Constraint> constraint = nullptr);

    // The assistant's reply to a conversation. `on_text` receives the answer, which is the reply's `content`;
    // `on_reasoning` what a reasoning model thinks before it, the reply's `reasoning_content`.
    ChatMessage chat(const std::vector<ChatMessage>& messages, const GenerationConfig& config = {},
                     const TextCallback& on_text = nullptr, const TextCallback& on_reasoning = nullptr);

    // A continuation of `prompt` (base and code models).
    std::string generate(std::string_view prompt, const GenerationConfig& config = {},
                         const TextCallback& on_text = nullptr);

    // Logits of every position: out (ids.size(), vocab_size). Uses an empty cache of its own. `interrupted`
    // as in Generation::step.
    void logits(const std::vector<int32_t>& ids, float* out,
                const std::function<bool()>& interrupted = nullptr);

  private:
    friend class Generation;
    struct Shared;
    std::shared_ptr<Shared> shared_;
};

}  // namespace chatglm
