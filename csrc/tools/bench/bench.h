// How fast a model file runs here: prompts and replies of the sizes asked for, each beside the most that the
// machine could do.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "chatglm/model.h"
#include "tools/bench/measured_ceilings.h"
#include "tools/bench/timed_backend.h"

namespace chatglm {

// Every combination of the lists is measured; a batch concerns replies alone.
struct BenchOptions {
    std::vector<int> prompts = {128, 512};  // tokens of a prompt; 0: none
    std::vector<int> tokens = {32};         // tokens of a reply; 0: none
    std::vector<int> depths = {0};          // tokens that are in the cache before
    std::vector<int> batches = {1};         // replies that are computed together
    std::vector<int> threads = {0};         // 0: the fast physical cores
    std::vector<std::string> kv_dtypes = {"f16"};
    int repetitions = 5;

    // Throws InvalidArgument when a value is out of its range or nothing is left to measure.
    void validate() const;
};

using Interrupt = std::function<bool()>;

// One run of one size.
struct BenchSample {
    double seconds = 0;
    Work work;
};

// A model and its cache, ready to be measured.
class Bench {
  public:
    // Throws what opening a Pipeline throws.
    Bench(const std::string& path, int n_threads, const std::string& kv_dtype);
    ~Bench();
    Bench(const Bench&) = delete;
    Bench& operator=(const Bench&) = delete;

    const ModelConfig& config() const;
    const char* isa() const;
    int n_threads() const;
    double load_seconds() const;  // from opening the file until everything stood ready, the tokenizer too

    // Throws InvalidArgument when the sizes are out of their range, or the model's context or the machine's
    // memory is too small for them.
    void check(int n_tokens, int depth, int batch) const;

    // Computes a prompt of n_tokens behind `depth` tokens, up to the logits of its last. What is in the cache
    // before is random numbers: they cost what real ones cost and need no computing. Throws what check()
    // throws, and Interrupted when `interrupted`, which is asked many times a second, says true.
    BenchSample prompt(int n_tokens, int depth, const Interrupt& interrupted = nullptr);

    // Computes n_tokens for each of `batch` sequences, one token of each at a time, behind `depth` tokens.
    // The tokens are given, not drawn. Throws alike.
    BenchSample decode(int n_tokens, int depth, int batch, const Interrupt& interrupted = nullptr);

  private:
    struct State;
    std::unique_ptr<State> state_;
};

struct BenchRow {
    bool is_prompt = true;
    int n_tokens = 0;  // of the prompt, or of each reply
    int depth = 0, batch = 1;
    std::string kv_dtype;
    int n_threads = 0;

    double tokens_per_second = 0;     // of all sequences together, the median of the repetitions
    double slowest = 0, fastest = 0;  // likewise
    double bytes_per_second = 0;      // of weights and cache read
    double products_per_second = 0;   // multiply-adds
    // Of the ceilings: the time that reading alone would take there, and multiplying alone, by the time
    // taken.
    double memory_share = 0, compute_share = 0;
    double matmul_time = 0, attention_time = 0, other_time = 0;  // shares, 1 together
    int64_t resident_bytes = 0;                                  // memory of the process afterwards

    double seconds_per_token() const { return 1 / tokens_per_second; }
};

// Hears of results as they come.
class BenchListener {
  public:
    virtual ~BenchListener() = default;
    // Once for each number of threads and type of the cache.
    virtual void on_ready(const Bench& bench, const MeasuredCeilings& ceilings) = 0;
    virtual void on_row(const BenchRow& row) = 0;
};

// Throws what its parts throw.
void run_bench(const std::string& path, const BenchOptions& options, BenchListener& listener,
               const Interrupt& interrupted = nullptr);

}  // namespace chatglm
