#include "tools/bench/measured_ceilings.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstring>
#include <memory>
#include <new>
#include <thread>

#include "backend/cpu/kernels/ceilings.h"
#include "chatglm/error.h"
#include "core/machine.h"
#include "core/memory.h"
#include "core/thread_pool.h"

namespace chatglm {
namespace {

// Other processes disturb most runs on a busy machine, so runs go on until some in a row brought nothing new.
constexpr int kPatience = 16;
constexpr int kMaxRuns = 200;
constexpr double kNewBest = 0.99;  // of the best before

constexpr int64_t kSlice = 1 << 20;          // bytes that a thread reads at once
constexpr int64_t kLeastBuffer = 256 << 20;  // of it a last-level cache holds little
constexpr int64_t kWindows = 8;  // of the buffer, of which a run reads one, in turn: runs are short

// Products are timed in chunks that are long beside the 2 us of taking one, and short beside the turns that
// the system gives to processes: the median chunk of a thread was not interrupted, however busy the machine.
constexpr double kChunkSeconds = 0.5e-3;
constexpr int64_t kChunksPerThread = 4;  // in a run
constexpr int kKept = 16;                // chunks of each thread that are timed

// What a tenth of the runs stayed below: one lucky run alone, or one in which the clock jumped, counts
// nothing.
template <class Body>
double undisturbed_seconds(const std::function<bool()>& interrupted, const Body& body) {
    std::vector<double> all;
    double best = 1e30;
    for (int run = 0, last_new = 0; run < kMaxRuns && run - last_new < kPatience; ++run) {
        if (interrupted && interrupted()) throw Interrupted();
        const auto start = std::chrono::steady_clock::now();
        body(run);
        const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
        all.push_back(std::max(seconds.count(), 1e-9));
        if (all.back() < kNewBest * best) last_new = run;
        best = std::min(best, all.back());
    }
    const auto chosen = all.begin() + static_cast<std::ptrdiff_t>(all.size() / 10);
    std::nth_element(all.begin(), chosen, all.end());
    return *chosen;
}

// Far more than the last-level cache, yet a part only of a small machine's memory.
int64_t buffer_size() {
    int64_t bytes = std::max(kLeastBuffer, 4 * last_level_cache());
    if (const int64_t memory = memory_state().total; memory > 0) bytes = std::min(bytes, memory / 8);
    constexpr int64_t kWhole = kWindows * kSlice;
    return std::max(kWhole, bytes / kWhole * kWhole);
}

struct AlignedDelete {
    void operator()(uint8_t* p) const { ::operator delete(p, std::align_val_t{4096}); }
};

// Somewhere to put results, so that nothing is left out because nobody wants it.
std::atomic<uint64_t> sink;

void measure_reads(const cpu::Ceilings& loops, ThreadPool& pool, const std::function<bool()>& interrupted,
                   MeasuredCeilings& found) {
    const int64_t bytes = buffer_size(), window = bytes / kWindows;
    const std::unique_ptr<uint8_t, AlignedDelete> buffer(static_cast<uint8_t*>(
        ::operator new(static_cast<size_t>(bytes), std::align_val_t{4096}, std::nothrow)));
    if (!buffer) {
        throw OutOfMemory("There is no memory for the " + std::to_string(bytes >> 20) +
                          " MiB that the bandwidth is measured with. Close other programs.");
    }
    uint8_t* const data = buffer.get();
    pool.parallel_for(bytes / kSlice, [&](int64_t slice, int) {
        std::memset(data + slice * kSlice, static_cast<int>(slice % 251), static_cast<size_t>(kSlice));
    });
    for (const auto& read : loops.reads) {
        const double seconds = undisturbed_seconds(interrupted, [&](int run) {
            const uint8_t* begin = data + run % kWindows * window;
            pool.parallel_for(window / kSlice, [&](int64_t slice, int) {
                sink.fetch_xor(read.run(begin + slice * kSlice, kSlice), std::memory_order_relaxed);
            });
        });
        const double rate = static_cast<double>(window) / seconds;
        if (rate > found.read_rate) {
            found.read_rate = rate;
            found.read_way = read.name;
        }
    }
}

struct ChunkTimes {
    std::array<double, kKept> seconds{};
    int count = 0;
};

double measure_products(const cpu::Ceilings::Products& products, ThreadPool& pool,
                        const std::function<bool()>& interrupted) {
    const auto timed = [&](int64_t rounds) {
        const auto start = std::chrono::steady_clock::now();
        sink.fetch_xor(products.run(rounds), std::memory_order_relaxed);
        const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
        return std::max(seconds.count(), 1e-9);
    };
    constexpr int64_t kTrial = 10000;
    const double trial = undisturbed_seconds(interrupted, [&](int) { timed(kTrial); });
    const int64_t rounds =
        std::max<int64_t>(1, static_cast<int64_t>(kChunkSeconds / trial * static_cast<double>(kTrial)));
    std::vector<ChunkTimes> threads(static_cast<size_t>(pool.size()));
    const auto some_lack = [&] {
        return std::any_of(threads.begin(), threads.end(), [](const auto& t) { return t.count < kKept; });
    };
    for (int run = 0; run < kMaxRuns && some_lack(); ++run) {
        if (interrupted && interrupted()) throw Interrupted();
        pool.parallel_for(kChunksPerThread * pool.size(), [&](int64_t, int thread) {
            ChunkTimes& times = threads[static_cast<size_t>(thread)];
            const double seconds = timed(rounds);
            if (times.count < kKept) times.seconds[static_cast<size_t>(times.count++)] = seconds;
        });
    }
    double rate = 0;
    for (ChunkTimes& times : threads) {
        if (times.count == 0) continue;  // it never got a processor
        const auto middle = times.seconds.begin() + times.count / 2;
        std::nth_element(times.seconds.begin(), middle, times.seconds.begin() + times.count);
        rate += static_cast<double>(rounds * products.per_round) / *middle;
    }
    // Threads beyond the processors take turns, and the chunks show each of them while it is running.
    const unsigned n_processors = std::thread::hardware_concurrency();
    if (n_processors > 0) rate *= std::min(1.0, static_cast<double>(n_processors) / pool.size());
    return rate;
}

// Largest absolute value of the integers that a block of the type stores; 0: it stores floats.
int largest_weight(DType type) {
    switch (type) {
        case DType::q4_0:
        case DType::q4_1:
            return 15;  // unsigned; the offset is taken from the sum
        case DType::q5_0:
        case DType::q5_1:
            return 31;
        default:
            return is_quantized(type) ? 128 : 0;
    }
}

}  // namespace

double MeasuredCeilings::product_rate(DType type) const {
    const int largest = largest_weight(type);
    if (largest == 0) return f32_rate;
    double best = 0;
    for (const Int8& way : int8) {
        if (way.n_summed == 1 || way.n_summed * 2 * 127 * largest < (1 << 15))
            best = std::max(best, way.rate);
    }
    return best;
}

MeasuredCeilings measure_ceilings(int n_threads, const std::function<bool()>& interrupted) {
    const cpu::Ceilings& loops = cpu::ceilings();
    ThreadPool pool(n_threads);
    MeasuredCeilings found;
    found.n_threads = pool.size();
    found.isa = loops.name;
    measure_reads(loops, pool, interrupted, found);
    for (const auto& products : loops.int8) {
        found.int8.push_back({products.n_summed, measure_products(products, pool, interrupted)});
    }
    found.f32_rate = measure_products(loops.f32, pool, interrupted);
    return found;
}

}  // namespace chatglm
