#include "tools/bench/bench.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <mutex>
#include <numeric>
#include <random>
#include <span>

#include "chatglm/error.h"
#include "chatglm/pipeline.h"
#include "chatglm/tokenizer.h"
#include "core/memory.h"
#include "core/thread_pool.h"
#include "format/gguf.h"
#include "model/glm_model.h"
#include "model/kv_cache.h"
#include "model/model_file.h"

namespace chatglm {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kMaxTokens = 1 << 20;
constexpr int kMaxBatch = 1024;
constexpr int kMaxRepetitions = 1000;

double seconds_since(Clock::time_point start) {
    // A clock may be coarser than a tiny model is fast.
    return std::max(std::chrono::duration<double>(Clock::now() - start).count(), 1e-9);
}

std::string gigabytes(double bytes) {
    const std::string tenths = std::to_string(static_cast<int64_t>(bytes / 1e8));
    return (tenths.size() > 1 ? tenths.substr(0, tenths.size() - 1) : "0") + "." + tenths.back() + " GB";
}

void check_range(const char* what, int value, int low, int high) {
    if (value >= low && value <= high) return;
    throw InvalidArgument(std::string(what) + " is " + std::to_string(value) + "; it must be between " +
                          std::to_string(low) + " and " + std::to_string(high) + ".");
}

// Ids that are no special ones of ChatGLM-6B, whose positions hang on these: there they come first, so that
// all others count as the reply, which may be cut anywhere.
std::vector<int32_t> make_ids(const ModelConfig& config, int count) {
    std::vector<int32_t> ids(static_cast<size_t>(count));
    for (int i = 0; i < count; ++i) {
        auto id = static_cast<int32_t>((int64_t{i} * 7919 + 11) % config.vocab_size);
        for (int tries = 0; tries < 2 && (id == config.gmask_token_id || id == config.sop_token_id);
             ++tries) {
            id = (id + 1) % config.vocab_size;
        }
        ids[static_cast<size_t>(i)] = id;
    }
    if (config.positions == PositionKind::glm_2d) {
        if (count > 0) ids[0] = config.gmask_token_id;
        if (count > 1) ids[1] = config.sop_token_id;
    }
    return ids;
}

}  // namespace

void BenchOptions::validate() const {
    for (const int n : prompts) check_range("The size of a prompt", n, 0, kMaxTokens);
    for (const int n : tokens) check_range("The length of a reply", n, 0, kMaxTokens);
    for (const int n : depths) check_range("A depth", n, 0, kMaxTokens);
    for (const int n : batches) check_range("A batch", n, 1, kMaxBatch);
    for (const int n : threads) check_range("The number of threads", n, 0, ThreadPool::kMaxThreads);
    for (const std::string& name : kv_dtypes) cache_type(name);
    check_range("The number of repetitions", repetitions, 1, kMaxRepetitions);
    const auto some = [](const std::vector<int>& sizes) {
        return std::any_of(sizes.begin(), sizes.end(), [](int n) { return n > 0; });
    };
    const bool measures = (some(prompts) || (some(tokens) && !batches.empty())) && !depths.empty() &&
                          !threads.empty() && !kv_dtypes.empty();
    if (!measures) {
        throw InvalidArgument("Nothing is left to measure: give the size of a prompt or of a reply.");
    }
}

struct Bench::State {
    State(const std::string& path, int n_threads, const std::string& kv_dtype)
        : file(open_model_file(path)),
          tokenizer(Tokenizer::from_gguf(file)),
          backend(make_cpu_backend(n_threads)),
          model(file, backend),
          cache(backend, model.kv_layout(cache_type(kv_dtype))) {}

    GgufFile file;
    std::unique_ptr<Tokenizer> tokenizer;
    TimedBackend backend;
    GlmModel model;
    KvCache cache;
    double load_seconds = 0;

    std::vector<KvCache::SequenceId> sequences;  // all of `depth` tokens between two samples
    int depth = 0;
    std::vector<float> logits;
    std::mutex measuring;

    // Throws when another thread, or a signal handler of this one, is in the middle of a sample.
    std::unique_lock<std::mutex> begin() {
        std::unique_lock lock(measuring, std::try_to_lock);
        if (!lock) throw Error("This bench is measuring already; make another one to measure beside it.");
        return lock;
    }

    void check(int n_tokens, int new_depth, int batch) const {
        check_range("The number of tokens", n_tokens, 1, kMaxTokens);
        check_range("The depth", new_depth, 0, kMaxTokens);
        check_range("The batch", batch, 1, kMaxBatch);
        const ModelConfig& c = model.config();
        if (new_depth + n_tokens > c.max_length) {
            throw InvalidArgument("A depth of " + std::to_string(new_depth) + " and " +
                                  std::to_string(n_tokens) + " tokens more are beyond the " +
                                  std::to_string(c.max_length) + " that the model was made for.");
        }
        const KvLayout& layout = cache.layout();
        const int64_t pages = (c.prefix_length + new_depth + n_tokens) / layout.page_size + 1;
        const double bytes = static_cast<double>(pages) * batch * static_cast<double>(layout.page_bytes());
        if (const int64_t memory = memory_state().total; memory > 0 && bytes > static_cast<double>(memory)) {
            throw InvalidArgument("The cache of " + std::to_string(batch) + " sequences of " +
                                  std::to_string(new_depth + n_tokens) + " tokens takes " + gigabytes(bytes) +
                                  ", and this machine has " + gigabytes(static_cast<double>(memory)) +
                                  ". Use a smaller depth or batch.");
        }
    }

    // `batch` sequences of `new_depth` tokens; between two samples they stay as they are.
    void prepare(int n_tokens, int new_depth, int batch) {
        check(n_tokens, new_depth, batch);
        if (new_depth != depth) shrink(0);
        depth = new_depth;
        shrink(static_cast<size_t>(batch));
        while (sequences.size() < static_cast<size_t>(batch)) {
            sequences.push_back(model.create_sequence(cache));
            try {
                fill(sequences.back());
            } catch (...) {
                shrink(sequences.size() - 1);
                throw;
            }
        }
    }

    void shrink(size_t count) {
        while (sequences.size() > count) {
            cache.release(sequences.back());
            sequences.pop_back();
        }
    }

    // Forgets what a sample has added, however far it came.
    void rewind() {
        for (const auto id : sequences) {
            cache.truncate(id, std::min(cache.length(id), model.config().prefix_length + depth));
        }
    }

    // Random keys and values for the first `depth` slots behind the prefix.
    void fill(KvCache::SequenceId id) {
        if (depth == 0) return;
        const KvLayout& layout = cache.layout();
        const int start = cache.length(id);
        cache.extend(id, depth);
        const int n_rows = std::min(depth, layout.page_size);
        const auto row = static_cast<size_t>(layout.n_kv_heads) * static_cast<size_t>(layout.head_dim);
        std::mt19937 engine(1);
        std::normal_distribution<float> normal;
        std::vector<float> numbers(2 * row * static_cast<size_t>(n_rows));
        for (float& number : numbers) number = normal(engine);
        const auto buffer = backend.allocate(numbers.size() * sizeof(float));
        backend.upload(numbers.data(), buffer.get(), numbers.size() * sizeof(float));
        const auto* k = reinterpret_cast<const float*>(buffer.get());
        const float* v = k + row * static_cast<size_t>(n_rows);
        std::vector<int32_t> slots;
        for (int begin = 0; begin < depth; begin += n_rows) {
            const int count = std::min(n_rows, depth - begin);
            slots.resize(static_cast<size_t>(count));
            std::iota(slots.begin(), slots.end(), start + begin);
            const SequenceRows rows{0, count, cache.pages(id)};
            for (int layer = 0; layer < layout.n_layers; ++layer) {
                backend.store_kv(layout, layer, {{&rows, 1}, slots, {}}, k, v, static_cast<int64_t>(row));
            }
        }
    }

    // Runs `passes` and takes the account of it.
    template <class Passes>
    BenchSample sample(const Passes& passes) {
        struct Rewind {
            State& state;
            ~Rewind() { state.rewind(); }
        } const rewind{*this};
        backend.reset();
        const auto start = Clock::now();
        passes();
        return {seconds_since(start), backend.work()};
    }
};

Bench::Bench(const std::string& path, int n_threads, const std::string& kv_dtype) {
    check_range("The number of threads", n_threads, 0, ThreadPool::kMaxThreads);
    const auto start = Clock::now();
    state_ = std::make_unique<State>(path, n_threads, kv_dtype);
    state_->load_seconds = seconds_since(start);
}

Bench::~Bench() = default;

const ModelConfig& Bench::config() const {
    return state_->model.config();
}
const char* Bench::isa() const {
    return state_->backend.isa();
}
int Bench::n_threads() const {
    return state_->backend.n_threads();
}
double Bench::load_seconds() const {
    return state_->load_seconds;
}

void Bench::check(int n_tokens, int depth, int batch) const {
    state_->check(n_tokens, depth, batch);
}

BenchSample Bench::prompt(int n_tokens, int depth, const Interrupt& interrupted) {
    State& s = *state_;
    const auto lock = s.begin();
    s.prepare(n_tokens, depth, 1);
    const int end = depth + n_tokens, chunk = PipelineOptions().prefill_chunk;
    const auto ids = make_ids(config(), end);
    s.logits.resize(static_cast<size_t>(config().vocab_size));
    return s.sample([&] {
        for (int begin = depth; begin < end; begin += chunk) {
            Batch batch;
            batch.add(config(), ids, begin, std::min(end, begin + chunk), s.sequences[0]);
            if (begin + chunk >= end) batch.wants_logits.back() = 1;
            s.model.forward(batch, s.cache, s.logits.data(), {}, interrupted);
        }
    });
}

BenchSample Bench::decode(int n_tokens, int depth, int n_sequences, const Interrupt& interrupted) {
    State& s = *state_;
    const auto lock = s.begin();
    s.prepare(n_tokens, depth, n_sequences);
    const auto ids = make_ids(config(), depth + n_tokens);
    s.logits.resize(static_cast<size_t>(n_sequences) * static_cast<size_t>(config().vocab_size));
    return s.sample([&] {
        for (int i = depth; i < depth + n_tokens; ++i) {
            Batch batch;
            for (const auto id : s.sequences) batch.add(config(), ids, i, i + 1, id);
            std::fill(batch.wants_logits.begin(), batch.wants_logits.end(), uint8_t{1});
            s.model.forward(batch, s.cache, s.logits.data(), {}, interrupted);
        }
    });
}

namespace {

void evaluate(std::vector<BenchSample> samples, int n_tokens, const MeasuredCeilings& ceilings,
              BenchRow& row) {
    std::sort(samples.begin(), samples.end(),
              [](const BenchSample& a, const BenchSample& b) { return a.seconds < b.seconds; });
    const size_t middle = samples.size() / 2;
    const double seconds = samples.size() % 2 == 1
                               ? samples[middle].seconds
                               : (samples[middle - 1].seconds + samples[middle].seconds) / 2;
    row.tokens_per_second = n_tokens / seconds;
    row.slowest = n_tokens / samples.back().seconds;
    row.fastest = n_tokens / samples.front().seconds;

    const Work& work = samples.front().work;  // the same in all but for the times
    double products = work.attention_products;
    double compute_seconds = work.attention_products / ceilings.f32_rate;
    for (const auto& [type, count] : work.products) {
        products += count;
        compute_seconds += count / ceilings.product_rate(type);
    }
    row.bytes_per_second = work.bytes / seconds;
    row.products_per_second = products / seconds;
    row.memory_share = work.bytes / ceilings.read_rate / seconds;
    row.compute_share = compute_seconds / seconds;

    double total = 0;
    for (const BenchSample& sample : samples) {
        total += sample.seconds;
        row.matmul_time += sample.work.product_seconds;
        row.attention_time += sample.work.attention_seconds;
    }
    row.matmul_time /= total;
    row.attention_time /= total;
    row.other_time = std::max(0.0, 1 - row.matmul_time - row.attention_time);
}

// The sizes to measure, in order.
std::vector<BenchRow> plan(const BenchOptions& options) {
    std::vector<BenchRow> rows;
    for (const int depth : options.depths) {
        const auto add = [&](bool is_prompt, int n_tokens, int batch) {
            if (n_tokens == 0) return;
            BenchRow row;
            row.is_prompt = is_prompt;
            row.n_tokens = n_tokens;
            row.depth = depth;
            row.batch = batch;
            rows.push_back(row);
        };
        for (const int n : options.prompts) add(true, n, 1);
        for (const int n : options.tokens) {
            for (const int batch : options.batches) add(false, n, batch);
        }
    }
    return rows;
}

void measure(Bench& bench, const MeasuredCeilings& ceilings, int repetitions, const Interrupt& interrupted,
             BenchRow& row) {
    const auto run = [&](int n_tokens) {
        return row.is_prompt ? bench.prompt(n_tokens, row.depth, interrupted)
                             : bench.decode(n_tokens, row.depth, row.batch, interrupted);
    };
    // The first pass brings the pages of the file and memory for activations; it is not counted.
    run(row.is_prompt ? std::min(row.n_tokens, PipelineOptions().prefill_chunk) : 1);
    std::vector<BenchSample> samples;
    for (int i = 0; i < repetitions; ++i) samples.push_back(run(row.n_tokens));
    evaluate(std::move(samples), row.n_tokens * row.batch, ceilings, row);
    row.resident_bytes = resident_memory();
}

}  // namespace

void run_bench(const std::string& path, const BenchOptions& options, BenchListener& listener,
               const Interrupt& interrupted) {
    options.validate();
    std::map<int, MeasuredCeilings> measured;  // by threads
    for (const int n_threads : options.threads) {
        for (const std::string& kv_dtype : options.kv_dtypes) {
            Bench bench(path, n_threads, kv_dtype);
            std::vector<BenchRow> rows = plan(options);
            // What cannot be measured shall be known at once, not after an hour.
            for (const BenchRow& row : rows) bench.check(row.n_tokens, row.depth, row.batch);
            if (!measured.contains(bench.n_threads())) {
                measured[bench.n_threads()] = measure_ceilings(bench.n_threads(), interrupted);
            }
            const MeasuredCeilings& ceilings = measured[bench.n_threads()];
            listener.on_ready(bench, ceilings);
            for (BenchRow& row : rows) {
                row.kv_dtype = kv_dtype;
                row.n_threads = bench.n_threads();
                measure(bench, ceilings, options.repetitions, interrupted, row);
                listener.on_row(row);
            }
        }
    }
}

}  // namespace chatglm
