// Speed of the matrix products on one thread: decode (one row of x) in GB/s of weights read, beside the plain
// read bandwidth of the same buffer, and prefill (many rows) in multiply-accumulates per second. Then
// attention (type "attend"): queries of 128 dims against pages of 64 positions, which stay in the
// second-level cache or come from memory.
//
//   c++ -std=c++20 -O3 -I csrc -I csrc/include benchmarks/kernels_bench.cpp
//   BUILD/libchatglm_{backend,format,core}.a
//   ./a.out [table] [type]
//
// With -DCHATGLM_TWIN and tests/cpp/backend/avxvnni_twin.cpp, compiled with -mavx512f -mavx512bw -mavx512vl
// -mavx512vnni -mfma -mf16c, the kernels for AVX-VNNI run on processors with AVX-512 VNNI, too.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "backend/cpu/kernels/kernels.h"
#include "format/quantize.h"

#ifdef CHATGLM_TWIN
namespace chatglm::cpu {
const Kernels* avxvnni_twin_kernels();
}
#endif

using namespace chatglm;
using namespace chatglm::cpu;

namespace {

constexpr int64_t kCols = 4096;
constexpr int64_t kBufferBytes = 256 << 20;  // well past any cache
constexpr int64_t kRange = 256;              // rows of W a call, as a backend might cut them

double seconds_since(std::chrono::steady_clock::time_point start) {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

template <class F>
double best_seconds(int repeats, const F& f) {
    double best = 1e30;
    for (int i = 0; i < repeats; ++i) {
        const auto start = std::chrono::steady_clock::now();
        f();
        best = std::min(best, seconds_since(start));
    }
    return best;
}

uint64_t read_all(const std::vector<uint64_t>& buffer) {
    uint64_t sum[8] = {};
    for (size_t i = 0; i + 8 <= buffer.size(); i += 8) {
        for (size_t k = 0; k < 8; ++k) sum[k] ^= buffer[i + k];
    }
    uint64_t all = 0;
    for (uint64_t s : sum) all ^= s;
    return all;
}

struct Activations {
    std::vector<float> x, d, s;
    std::vector<int8_t> q;

    Activations(const Kernels& k, int64_t n_rows) {
        std::mt19937 engine(1);
        std::normal_distribution<float> normal;
        x.resize(static_cast<size_t>(n_rows * kCols));
        for (float& v : x) v = normal(engine);
        q.resize(x.size());
        d.resize(x.size() / kBlockSize);
        s.resize(d.size());
        k.quantize_row(x.data(), n_rows * kCols, q.data(), d.data(), s.data());
    }
};

void multiply(const Kernels& k, DType type, const uint64_t* weight, int64_t rows, const Activations& a,
              int64_t n_rows, std::vector<float>& y) {
    MatmulArgs args{};
    args.weight = weight;
    args.weight_stride = row_bytes(type, kCols);
    args.n_cols = kCols;
    args.x = a.x.data();
    args.xq = {a.q.data(), a.d.data(), a.s.data(), kCols};
    args.n_rows = n_rows;
    args.y = y.data();
    args.y_stride = rows;
    for (args.row_begin = 0; args.row_begin < rows; args.row_begin = args.row_end) {
        args.row_end = std::min(rows, args.row_begin + kRange);
        k.matmul(type)(args);
    }
}

// Keys and values of some pages (n_pages, 2, kMaxTile, kHeadDim) and queries that attend to all of them.
constexpr int kHeadDim = 128;

double attend_seconds(const Kernels& k, DType type, const uint8_t* pages, int64_t n_pages, int n_queries) {
    const int64_t bytes = row_bytes(type, int64_t{kMaxTile} * kHeadDim);
    std::vector<float> q(static_cast<size_t>(n_queries * kHeadDim), 0.01f), acc(q.size());
    std::vector<float> m(static_cast<size_t>(n_queries)), l(m.size());
    std::vector<int8_t> q8(q.size());
    std::vector<float> scales(q.size() / kBlockSize), sums(scales.size());
    k.quantize_row(q.data(), static_cast<int64_t>(q.size()), q8.data(), scales.data(), sums.data());
    std::vector<const float*> q_rows;
    std::vector<float*> acc_rows;
    for (int i = 0; i < n_queries; ++i) {
        q_rows.push_back(q.data() + i * kHeadDim);
        acc_rows.push_back(acc.data() + i * kHeadDim);
    }
    const std::vector<int> n_visible(static_cast<size_t>(n_queries), kMaxTile);
    AttentionTile tile{};
    tile.n_positions = kMaxTile;
    tile.head_dim = kHeadDim;
    tile.n_queries = n_queries;
    tile.q = q_rows.data();
    tile.xq = {q8.data(), scales.data(), sums.data(), kHeadDim};
    tile.n_visible = n_visible.data();
    tile.scale = 0.1f;
    tile.m = m.data();
    tile.l = l.data();
    tile.acc = acc_rows.data();
    return best_seconds(3, [&] {
        std::fill(m.begin(), m.end(), -1e30f);
        for (int64_t page = 0; page < n_pages; ++page) {
            tile.k = pages + 2 * page * bytes;
            tile.v = pages + (2 * page + 1) * bytes;
            const int64_t next = page + 1 < n_pages ? page + 1 : page;
            tile.next_k = pages + 2 * next * bytes;
            tile.next_v = pages + (2 * next + 1) * bytes;
            tile.next_bytes = bytes;
            k.attend(type)(tile);
        }
    });
}

void print_attention(const Kernels& k, std::vector<uint64_t>& buffer) {
    auto* pages = reinterpret_cast<uint8_t*>(buffer.data());
    std::printf("%-10s %-7s %10s %10s %10s %10s   GMAC/s of queries at once\n", k.name, "attend", "x16",
                "x32", "x16 memory", "x1 memory");
    for (const DType type : {DType::f16, DType::q8_0, DType::f32}) {
        std::vector<float> row(kCols, 0.02f);
        const int64_t bytes = row_bytes(type, kCols);
        for (int64_t at = 0; at + bytes <= kBufferBytes; at += bytes) {
            quantize_row(type, row.data(), pages + at, kCols);
        }
        const int64_t page_bytes = 2 * row_bytes(type, int64_t{kMaxTile} * kHeadDim);
        std::printf("%-10s %-7s", "", dtype_info(type).name);
        const int64_t resident = 131072 / page_bytes, all = kBufferBytes / page_bytes;
        const auto print = [&](int64_t n_pages, int n_queries) {
            const double s = attend_seconds(k, type, pages, n_pages, n_queries);
            const auto macs = static_cast<double>(2 * n_pages * kMaxTile * kHeadDim * n_queries);
            std::printf(" %10.1f", macs / s / 1e9);
            std::fflush(stdout);
        };
        print(resident, 16);
        print(resident, 32);
        print(all, 16);
        print(all, 1);
        std::printf("\n");
    }
}

}  // namespace

int main(int argc, char** argv) {
    const std::string only_table = argc > 1 ? argv[1] : "", only_type = argc > 2 ? argv[2] : "";
    if (!only_type.empty() && only_type != "attend" && !find_dtype(only_type)) {
        std::fprintf(stderr, "There is no type %s.\n", only_type.c_str());
        return 1;
    }
    std::vector<uint64_t> buffer(kBufferBytes / 8);
    uint64_t sink = 0;
    bool found = false;

    int count = 0;
    const Kernels* const* runnable = runnable_kernels(&count);
    std::vector<const Kernels*> tables(runnable, runnable + count);
#ifdef CHATGLM_TWIN
    tables.push_back(avxvnni_twin_kernels());
#endif
    for (const Kernels* table : tables) {
        const Kernels& k = *table;
        if (!only_table.empty() && only_table != k.name) continue;
        found = true;
        std::printf("%-10s %-5s %10s %10s %8s %8s %8s %8s %8s %10s\n", k.name, "type", "read GB/s", "x1 GB/s",
                    "x2", "x3", "x4", "x5", "x8", "x512 GMAC/s");
        const bool slow = std::string(k.name) == "generic";
        if (!slow && (only_type.empty() || only_type == "attend")) print_attention(k, buffer);
        if (only_type == "attend") continue;
        const Activations a(k, 512);
        for (const char* name : {"f32", "f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0"}) {
            if (!only_type.empty() && only_type != name) continue;
            const DType type = find_dtype(name)->type;
            const int64_t bytes = row_bytes(type, kCols);
            const int64_t rows = kBufferBytes / bytes / kRange * kRange;
            std::vector<float> row(a.x.begin(), a.x.begin() + kCols);
            auto* base = reinterpret_cast<uint8_t*>(buffer.data());
            quantize_row(type, row.data(), base, kCols);
            for (int64_t n = 1; n < rows; ++n)
                std::memcpy(base + n * bytes, base, static_cast<size_t>(bytes));

            const double read = best_seconds(5, [&] { sink += read_all(buffer); });
            std::vector<float> y(static_cast<size_t>(std::max<int64_t>(8 * rows, 512 * 512)));
            std::printf("%-10s %-5s %10.1f", "", name, static_cast<double>(kBufferBytes) / read / 1e9);
            for (const int64_t n_rows : {1, 2, 3, 4, 5, 8}) {
                const double s =
                    best_seconds(slow ? 1 : 4, [&] { multiply(k, type, buffer.data(), rows, a, n_rows, y); });
                std::printf(n_rows == 1 ? " %10.1f" : " %8.1f", static_cast<double>(rows * bytes) / s / 1e9);
                std::fflush(stdout);
            }
            const int64_t m = slow ? 64 : 512;
            const double s =
                best_seconds(slow ? 1 : 3, [&] { multiply(k, type, buffer.data(), m, a, 512, y); });
            std::printf(" %10.1f\n", static_cast<double>(m * kCols * 512) / s / 1e9);
        }
    }
    if (!found) std::fprintf(stderr, "This machine cannot run the table %s.\n", only_table.c_str());
    return !found || sink == 1;
}
