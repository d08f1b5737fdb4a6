// Attention of every instruction set that this machine runs against double precision, and the promise that a
// query has the same bits whatever its neighbours and the page's length.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "backend/cpu/kernels/kernels.h"
#include "backend/kernels_samples.h"
#include "core/half.h"
#include "format/quantize.h"

using namespace chatglm;
using namespace chatglm::cpu;
using namespace chatglm::test;

namespace {

constexpr DType kCacheTypes[] = {DType::f32, DType::f16, DType::q8_0};

// Rows of `dim` elements, each filled up with zeros to whole blocks of a type.
std::vector<float> padded_rows(const std::vector<float>& x, int dim, int64_t padded_dim) {
    std::vector<float> rows;
    for (size_t at = 0; at < x.size(); at += static_cast<size_t>(dim)) {
        const auto row = x.begin() + static_cast<std::ptrdiff_t>(at);
        rows.insert(rows.end(), row, row + dim);
        rows.resize(rows.size() + static_cast<size_t>(padded_dim - dim));
    }
    return rows;
}

// A page of keys and values and some queries, and one attention step over it.
struct Page {
    int n_positions, head_dim, n_queries;
    DType type;
    int64_t row_size, row_bytes;  // elements and bytes of a stored row
    std::vector<uint8_t> k, v;
    std::vector<float> q;
    std::vector<int8_t> q8;  // for q8_0: the queries in 8 bits, their scales and sums
    std::vector<float> q8_d, q8_s;
    std::vector<float> key_values, value_values, query_values;  // what the stored bytes mean

    Page(int positions, int dim, int queries, DType cache_type, float scale)
        : n_positions(positions), head_dim(dim), n_queries(queries), type(cache_type) {
        const int64_t block = dtype_info(type).block_size;
        row_size = (dim + block - 1) / block * block;
        row_bytes = chatglm::row_bytes(type, row_size);
        set_keys(random_floats(int64_t{positions} * dim, 41, scale));
        set_values(random_floats(int64_t{positions} * dim, 42));
        set_queries(random_floats(int64_t{queries} * dim, 43, scale));
    }

    void set_keys(const std::vector<float>& x) { store(x, k, key_values); }
    void set_values(const std::vector<float>& x) { store(x, v, value_values); }
    void set_queries(const std::vector<float>& x) {
        q = x;
        query_values = padded_rows(x, head_dim, row_size);
        if (type != DType::q8_0) return;
        q8.resize(query_values.size());
        q8_d.resize(q8.size() / kBlockSize);
        q8_s.resize(q8_d.size());
        generic_kernels()->quantize_row(query_values.data(), static_cast<int64_t>(q8.size()), q8.data(),
                                        q8_d.data(), q8_s.data());
        for (size_t i = 0; i < q8.size(); ++i)
            query_values[i] = q8_d[i / kBlockSize] * static_cast<float>(q8[i]);
    }

  private:
    void store(const std::vector<float>& x, std::vector<uint8_t>& bytes, std::vector<float>& values) const {
        const std::vector<float> rows = padded_rows(x, head_dim, row_size);
        bytes.resize(static_cast<size_t>(chatglm::row_bytes(type, static_cast<int64_t>(rows.size()))));
        values.resize(rows.size());
        quantize_row(type, rows.data(), bytes.data(), static_cast<int64_t>(rows.size()));
        dequantize_row(type, bytes.data(), values.data(), static_cast<int64_t>(rows.size()));
    }
};

struct State {
    std::vector<float> m, l, acc;
    State(int n_queries, int head_dim)
        : m(static_cast<size_t>(n_queries), -kInf),
          l(static_cast<size_t>(n_queries), 0.0f),
          acc(static_cast<size_t>(n_queries * head_dim), 0.0f) {}
};

// Queries [first, first + count) over the page cut to `positions`.
void attend(const Kernels& kernels, const Page& page, int first, int count, int positions,
            std::vector<int> visible, float scale, State& state) {
    std::vector<const float*> q;
    std::vector<float*> acc;
    for (int i = first; i < first + count; ++i) {
        q.push_back(page.q.data() + i * page.head_dim);
        acc.push_back(state.acc.data() + i * page.head_dim);
    }
    // The page in a buffer of exactly its size, so that a sanitizer sees a read past `positions`.
    const int64_t bytes = positions * page.row_bytes, blocks = page.row_size / kBlockSize;
    const std::vector<uint8_t> k(page.k.begin(), page.k.begin() + bytes),
        v(page.v.begin(), page.v.begin() + bytes);
    AttentionTile tile{};
    tile.k = k.data();
    tile.v = v.data();
    tile.n_positions = positions;
    tile.head_dim = page.head_dim;
    tile.n_queries = count;
    tile.q = q.data();
    tile.n_visible = visible.data();
    tile.scale = scale;
    tile.m = state.m.data() + first;
    tile.l = state.l.data() + first;
    tile.acc = acc.data();
    if (page.type == DType::q8_0) {
        tile.xq = {page.q8.data() + first * page.row_size, page.q8_d.data() + first * blocks,
                   page.q8_s.data() + first * blocks, page.row_size};
    }
    kernels.attend(page.type)(tile);
}

std::vector<int> staircase(const Page& page) {
    std::vector<int> visible;
    for (int i = 0; i < page.n_queries; ++i)
        visible.push_back(std::max(0, page.n_positions - page.n_queries + i + 1));
    return visible;
}

struct Term {
    double score;
    int position;
};

double score(const Page& page, int query, int position) {
    double sum = 0;
    for (int64_t c = 0; c < page.head_dim; ++c) {
        sum += double{page.query_values[static_cast<size_t>(query * page.row_size + c)]} *
               double{page.key_values[static_cast<size_t>(position * page.row_size + c)]};
    }
    return sum;
}

// The state of one query against the softmax over all its terms in double precision.
void check_state(const Page& page, int query, const std::vector<Term>& terms, const State& state) {
    const auto i = static_cast<size_t>(query);
    const auto d = static_cast<size_t>(page.head_dim);
    double top = -kInf, l = 0;
    for (const Term& term : terms) top = std::max(top, term.score);
    std::vector<double> acc(d), bound(d);
    for (const Term& term : terms) {
        const double p = std::exp(term.score - top);
        l += p;
        for (size_t c = 0; c < d; ++c) {
            const size_t at = static_cast<size_t>(term.position * page.row_size) + c;
            const double value = p * double{page.value_values[at]};
            acc[c] += value;
            bound[c] += std::fabs(value) * 5e-5;  // scores of some tens carry a few 1e-6 into the exponent
        }
    }
    CHECK(double{state.l[i]} == doctest::Approx(l).epsilon(5e-5));
    if (!terms.empty()) CHECK(double{state.m[i]} == doctest::Approx(top).epsilon(1e-5));
    const auto begin = state.acc.begin() + static_cast<std::ptrdiff_t>(i * d);
    check_near({begin, begin + page.head_dim}, acc, bound);
}

}  // namespace

TEST_CASE("attention is the softmax-weighted sum of the values, also over several steps") {
    for (const Kernels* k : tables()) {
        for (const DType type : kCacheTypes) {
            for (int head_dim : {1, 7, 16, 32, 36, 64, 80, 128, 131, 300}) {
                for (int positions : {1, 3, 5, 8, 31, 64}) {
                    CAPTURE(std::string(k->name));
                    CAPTURE(dtype_info(type).name);
                    CAPTURE(head_dim);
                    CAPTURE(positions);
                    const Page page(positions, head_dim, 5, type, 1.5f);
                    const std::vector<int> visible = staircase(page);
                    State state(5, head_dim);
                    std::vector<Term> terms[5];
                    for (float step :
                         {1.0f, -1.0f, 1.5f}) {  // other scales: other scores, and a maximum that moves
                        const float scale = step / std::sqrt(static_cast<float>(head_dim));
                        attend(*k, page, 0, 5, positions, visible, scale, state);
                        for (int i = 0; i < 5; ++i) {
                            for (int j = 0; j < visible[static_cast<size_t>(i)]; ++j) {
                                terms[i].push_back({double{scale} * score(page, i, j), j});
                            }
                            check_state(page, i, terms[i], state);
                        }
                    }
                }
            }
        }
    }
}

TEST_CASE("a query's attention has the same bits whatever its neighbours and the page's length") {
    for (const Kernels* k : tables()) {
        for (const DType type : kCacheTypes) {
            for (int head_dim : {20, 64, 128}) {
                CAPTURE(std::string(k->name));
                CAPTURE(dtype_info(type).name);
                CAPTURE(head_dim);
                const Page page(64, head_dim, 17, type, 1.0f);
                for (int step : {0, 1, 5}) {
                    std::vector<int> visible;
                    for (int i = 0; i < 17; ++i)
                        visible.push_back(std::min(64, 1 + i * step + 3 * (step == 0)));
                    State together(17, head_dim), alone(17, head_dim);
                    attend(*k, page, 0, 17, 64, visible, 0.2f, together);
                    for (int i = 0; i < 17; ++i) {
                        const int n = visible[static_cast<size_t>(i)];
                        attend(*k, page, i, 1, n, {n}, 0.2f, alone);
                    }
                    CHECK(same_bits(together.m, alone.m));
                    CHECK(same_bits(together.l, alone.l));
                    CHECK(same_bits(together.acc, alone.acc));
                }
            }
        }
    }
}

TEST_CASE("values that a query does not see cannot reach it") {
    for (const Kernels* k : tables()) {
        for (const DType type : kCacheTypes) {
            Page page(16, 24, 3, type, 1.0f);
            State clean(3, 24), dirty(3, 24);
            const std::vector<int> visible = {9, 12, 16};
            attend(*k, page, 0, 3, 16, visible, 0.2f, clean);
            std::fill(page.k.begin() + static_cast<std::ptrdiff_t>(page.k.size() / 16 * 12), page.k.end(),
                      0xff);  // NaN
            std::fill(page.v.begin() + static_cast<std::ptrdiff_t>(page.v.size() / 16 * 12), page.v.end(),
                      0xff);
            attend(*k, page, 0, 3, 16, visible, 0.2f, dirty);
            for (size_t i = 0; i < 2 * 24; ++i) CHECK(clean.acc[i] == dirty.acc[i]);
            CHECK(clean.l[1] == dirty.l[1]);
            CHECK(std::isnan(dirty.acc[2 * 24]));
        }
    }
}

TEST_CASE("scores far apart underflow to exact zeros") {
    for (const Kernels* k : tables()) {
        Page page(2, 8, 1, DType::f32, 0.0f);
        const std::vector<float> keys = {0, 0, 0, 0, 0, 0, 0, 0, 200, 0, 0, 0, 0, 0, 0, 0};
        std::memcpy(page.k.data(), keys.data(), keys.size() * sizeof(float));
        page.q[0] = 1.0f;
        State state(1, 8);
        attend(*k, page, 0, 1, 2, {2}, 1.0f, state);
        CHECK(state.m[0] == 200.0f);
        CHECK(state.l[0] == 1.0f);
        for (size_t c = 0; c < 8; ++c) CHECK(state.acc[c] == page.value_values[8 + c]);
    }
}

TEST_CASE("a q8_0 cache takes extreme, tiny and damaged scales") {
    const int head_dim = 72;  // two blocks and a part of one
    const auto with_scales = [](const std::vector<float>& x, std::initializer_list<float> scales) {
        std::vector<float> scaled = x;
        for (size_t i = 0; i < x.size(); ++i) scaled[i] *= scales.begin()[i / kBlockSize % scales.size()];
        return scaled;
    };
    for (const Kernels* k : tables()) {
        CAPTURE(std::string(k->name));
        Page page(33, head_dim, 7, DType::q8_0, 1.0f);
        const auto n_keys = int64_t{33} * head_dim, n_queries = int64_t{7} * head_dim;
        // Keys near the largest scale against tiny queries, and the other way round; zeros; denormal halves.
        page.set_keys(with_scales(random_floats(n_keys, 61), {1e6f, 1e-6f, 0.0f, 1e-3f, 1e5f}));
        page.set_queries(
            with_scales(random_floats(n_queries, 62), {1e-6f, 1e-30f, 1e3f, 1e-4f, 0.0f, 1e-5f}));
        page.set_values(with_scales(random_floats(n_keys, 63), {1e6f, 1e-7f, 0.0f, 2e-6f, 1.0f}));
        const std::vector<int> visible(7, 33);
        State state(7, head_dim);
        attend(*k, page, 0, 7, 33, visible, 1e-2f, state);
        for (int i = 0; i < 7; ++i) {
            std::vector<Term> terms;
            for (int j = 0; j < 33; ++j) terms.push_back({1e-2 * score(page, i, j), j});
            check_state(page, i, terms, state);
        }

        // A query, a key and a value that are not finite reach what depends on them and nothing else.
        Page damaged(40, head_dim, 7, DType::q8_0, 1.0f);
        std::vector<float> queries = damaged.q;
        queries[static_cast<size_t>(3 * head_dim + 70)] = std::numeric_limits<float>::quiet_NaN();
        damaged.set_queries(queries);
        const uint16_t nan_half = 0x7e00;
        const int64_t last_block = damaged.row_bytes - static_cast<int64_t>(sizeof(BlockQ8_0));
        std::memcpy(damaged.k.data() + 39 * damaged.row_bytes + last_block, &nan_half, sizeof nan_half);
        std::memcpy(damaged.v.data() + 38 * damaged.row_bytes + last_block, &nan_half, sizeof nan_half);
        State reached(7, head_dim);
        attend(*k, damaged, 0, 7, 40, {38, 39, 40, 38, 38, 38, 38}, 0.1f, reached);
        const auto is_nan = [&](int query, int column) {
            return std::isnan(reached.acc[static_cast<size_t>(query * head_dim + column)]);
        };
        for (int column : {0, 63, 64, 71}) {
            CHECK(!is_nan(0, column));
            CHECK(is_nan(1, column) == (column >= 64));
            CHECK(is_nan(2, column));
            CHECK(is_nan(3, column));
            CHECK(!is_nan(4, column));
        }
    }
}
