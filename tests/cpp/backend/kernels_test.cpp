// Every instruction set that this machine runs against the generic table, the generic table against double
// precision, and the promise that an element has the same bits however the work is cut.
#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
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

constexpr DType kTypes[] = {DType::f32,  DType::f16,  DType::bf16, DType::q4_0,
                            DType::q4_1, DType::q5_0, DType::q5_1, DType::q8_0};

// A weight matrix in stored form, deliberately at an odd multiple of 2 bytes (4 for f32).
struct Matrix {
    DType type;
    int64_t rows, cols, stride;
    std::vector<uint8_t> bytes;
    int64_t offset;

    Matrix(DType t, int64_t n_rows, int64_t n_cols)
        : type(t), rows(n_rows), cols(n_cols), stride(row_bytes(t, n_cols)), offset(t == DType::f32 ? 4 : 2) {
        bytes.resize(static_cast<size_t>(rows * stride + offset));
    }
    const uint8_t* row(int64_t n) const { return bytes.data() + offset + n * stride; }
    uint8_t* row(int64_t n) { return bytes.data() + offset + n * stride; }
    std::vector<float> values(int64_t n) const {
        std::vector<float> v(static_cast<size_t>(cols));
        dequantize_row(type, row(n), v.data(), cols);
        return v;
    }
};

Matrix random_matrix(DType type, int64_t rows, int64_t cols, uint32_t seed, float scale = 1.0f) {
    Matrix m(type, rows, cols);
    for (int64_t n = 0; n < rows; ++n) {
        const std::vector<float> v = random_floats(cols, seed + static_cast<uint32_t>(n), scale);
        quantize_row(type, v.data(), m.row(n), cols);
    }
    return m;
}

// Every bit of the quants set, or none, with scales up to the greatest half.
Matrix extreme_matrix(DType type, int64_t rows, int64_t cols, uint32_t seed) {
    Matrix m(type, rows, cols);
    std::mt19937 engine(seed);
    const DTypeInfo& info = dtype_info(type);
    const uint16_t scales[] = {0, 0x8000, 0x0001, 0x3c00, 0xbc00, 0x7bff, 0xfbff, 0x03ff};
    const bool has_min = type == DType::q4_1 || type == DType::q5_1;
    for (int64_t n = 0; n < rows; ++n) {
        for (int64_t b = 0; b < cols / info.block_size; ++b) {
            uint8_t* block = m.row(n) + b * info.block_bytes;
            std::memset(block, engine() % 2 ? 0xff : (type == DType::q8_0 ? 0x7f : 0), info.block_bytes);
            if (type == DType::q8_0 && engine() % 2) std::memset(block, 0x81, info.block_bytes);
            std::memcpy(block, &scales[engine() % 8], 2);
            if (has_min) std::memcpy(block + 2, &scales[engine() % 8], 2);
        }
    }
    return m;
}

// Activations (n_rows, n_cols) as the kernels take them.
struct Activations {
    int64_t n_rows, n_cols;
    std::vector<float> x, d, s;
    std::vector<int8_t> q;

    Activations(const Kernels& k, std::vector<float> values, int64_t rows, int64_t cols)
        : n_rows(rows), n_cols(cols), x(std::move(values)) {
        const int64_t blocks = cols / kBlockSize;
        q.resize(static_cast<size_t>(rows * cols));
        d.resize(static_cast<size_t>(rows * blocks));
        s.resize(d.size());
        if (cols % kBlockSize != 0) return;
        for (int64_t r = 0; r < rows; ++r) {
            k.quantize_row(x.data() + r * cols, cols, q.data() + r * cols, d.data() + r * blocks,
                           s.data() + r * blocks);
        }
    }
    double value(DType type, int64_t r, int64_t c) const {
        if (!is_quantized(type)) return static_cast<double>(x[static_cast<size_t>(r * n_cols + c)]);
        const double scale = d[static_cast<size_t>(r * (n_cols / kBlockSize) + c / kBlockSize)];
        return scale * q[static_cast<size_t>(r * n_cols + c)];
    }
};

// y[row0 .. row0 + n_rows) for W rows [begin, end), the rest of y left at `untouched`.
constexpr float kUntouched = 12345.0f;

void run_matmul(const Kernels& k, const Matrix& w, const Activations& a, int64_t row0, int64_t n_rows,
                int64_t begin, int64_t end, std::vector<float>& y) {
    MatmulArgs args{};
    args.weight = w.row(0);
    args.weight_stride = w.stride;
    args.row_begin = begin;
    args.row_end = end;
    args.n_cols = w.cols;
    const int64_t blocks = w.cols / kBlockSize;
    if (is_quantized(w.type)) {
        args.xq = {a.q.data() + row0 * w.cols, a.d.data() + row0 * blocks, a.s.data() + row0 * blocks,
                   w.cols};
    } else {
        args.x = a.x.data() + row0 * w.cols;
    }
    args.n_rows = n_rows;
    args.y_stride = w.rows + 3;
    args.y = y.data() + row0 * args.y_stride;
    k.matmul(w.type)(args);
}

std::vector<float> whole_product(const Kernels& k, const Matrix& w, const Activations& a) {
    std::vector<float> y(static_cast<size_t>(a.n_rows * (w.rows + 3)), kUntouched);
    run_matmul(k, w, a, 0, a.n_rows, 0, w.rows, y);
    return y;
}

void check_product(const Kernels& k, const Matrix& w, const Activations& a) {
    CAPTURE(std::string(k.name));
    CAPTURE(std::string(dtype_info(w.type).name));
    CAPTURE(w.cols);
    CAPTURE(a.n_rows);
    std::vector<double> expected, tolerance;
    for (int64_t r = 0; r < a.n_rows; ++r) {
        for (int64_t n = 0; n < w.rows; ++n) {
            const std::vector<float> row = w.values(n);
            double sum = 0, norm = 0;
            for (int64_t c = 0; c < w.cols; ++c) {
                const double term = static_cast<double>(row[static_cast<size_t>(c)]) * a.value(w.type, r, c);
                sum += term;
                // Unsigned quants and their offset cancel: up to twice 16 scales of rounding for a value near
                // zero.
                norm += std::fabs(term);
            }
            if (is_quantized(w.type)) {
                const int64_t blocks = w.cols / kBlockSize;
                for (int64_t b = 0; b < blocks; ++b) {
                    float largest = 0;
                    for (int j = 0; j < kBlockSize; ++j) {
                        largest = std::max(largest, std::fabs(row[static_cast<size_t>(b * kBlockSize + j)]));
                    }
                    const auto i = static_cast<size_t>(r * blocks + b);
                    norm += 4.0 * static_cast<double>(largest) * std::fabs(static_cast<double>(a.s[i]));
                    norm += static_cast<double>(largest) * static_cast<double>(a.d[i]) * 127;
                }
            }
            expected.push_back(sum);
            // A chain of n roundings, each at most half an ulp of the running sum, which is at most `norm`.
            tolerance.push_back(norm * 0x1p-24 * (4 + std::sqrt(static_cast<double>(w.cols))) + 1e-30);
        }
        for (int i = 0; i < 3; ++i) {
            expected.push_back(kUntouched);
            tolerance.push_back(0);
        }
    }
    check_near(whole_product(k, w, a), expected, tolerance);
}

int64_t columns(DType type, int64_t n) {
    return is_quantized(type) ? n / kBlockSize * kBlockSize : n;
}

}  // namespace

TEST_CASE("every table is complete and generic is last") {
    const auto found = tables();
    REQUIRE(!found.empty());
    CHECK(std::string(found.back()->name) == "generic");
    for (const Kernels* k : found) {
        for (DType type : kTypes) CHECK((k->matmul(type) != nullptr));
        CHECK((k->quantize_row && k->attend_f32 && k->attend_f16 && k->attend_q8_0 && k->f32_to_f16 &&
               k->f16_to_f32 && k->rms_norm && k->layer_norm && k->swiglu && k->gelu && k->add_scaled));
    }
}

TEST_CASE("a product equals the double-precision product of the stored values") {
    for (const Kernels* k : tables()) {
        for (DType type : kTypes) {
            for (int64_t cols : {32, 96, 544, 1120}) {
                const Matrix w = random_matrix(type, 21, cols, 1, 0.05f);
                for (int64_t n_rows : {1, 3, 8}) {
                    check_product(*k, w, Activations(*k, random_floats(n_rows * cols, 7), n_rows, cols));
                }
            }
        }
    }
}

TEST_CASE("float weights take any number of columns") {
    for (const Kernels* k : tables()) {
        for (DType type : {DType::f32, DType::f16, DType::bf16}) {
            for (int64_t cols : {1, 3, 7, 8, 9, 65, 1023, 1025, 2051}) {
                const Matrix w = random_matrix(type, 6, cols, 3);
                check_product(*k, w, Activations(*k, random_floats(5 * cols, 9), 5, cols));
            }
        }
    }
}

TEST_CASE("extreme quants, scales and activations neither overflow nor lose precision") {
    for (const Kernels* k : tables()) {
        for (DType type : kTypes) {
            if (!is_quantized(type)) continue;
            const int64_t cols = 256;
            const Matrix w = extreme_matrix(type, 16, cols, 5);
            std::vector<float> x(6 * cols);
            for (size_t i = 0; i < x.size(); ++i) {
                const size_t r = i / cols;
                const float sign = i % 2 ? 1.0f : -1.0f;
                if (r == 0) x[i] = 1e20f;                       // all 127
                if (r == 1) x[i] = -1e20f;                      // all -127
                if (r == 2) x[i] = sign;                        // alternating
                if (r == 3) x[i] = i % 32 ? 0.0f : sign;        // one value in a block
                if (r == 4) x[i] = 1e-40f * sign;               // denormal
                if (r == 5) x[i] = i / 32 % 2 ? 0.0f : 3e-20f;  // zero blocks
            }
            check_product(*k, w, Activations(*k, x, 6, cols));
        }
    }
}

TEST_CASE("an element has the same bits for any cut of rows, columns and neighbours") {
    for (const Kernels* k : tables()) {
        for (DType type : kTypes) {
            CAPTURE(std::string(k->name));
            CAPTURE(std::string(dtype_info(type).name));
            for (int64_t wanted : {1120, 67}) {
                const int64_t cols = columns(type, wanted), rows = 45, n_rows = 14;
                const Matrix w = random_matrix(type, rows, cols, 11);
                const Activations a(*k, random_floats(n_rows * cols, 12), n_rows, cols);
                const std::vector<float> whole = whole_product(*k, w, a);
                for (int64_t row_step : {1, 2, 3, 4, 5, 6, 9}) {
                    for (int64_t range : {1, 3, 7, 8, 12, 16, 29}) {
                        std::vector<float> y(whole.size(), kUntouched);
                        for (int64_t r = 0; r < n_rows; r += row_step) {
                            for (int64_t n = 0; n < rows; n += range) {
                                run_matmul(*k, w, a, r, std::min(row_step, n_rows - r), n,
                                           std::min(n + range, rows), y);
                            }
                        }
                        CAPTURE(row_step);
                        CAPTURE(range);
                        CHECK(same_bits(y, whole));
                    }
                }
            }
        }
    }
}

TEST_CASE("an element of a long prompt has the same bits as alone") {
    const int64_t cols = 4128, rows = 21;
    for (const Kernels* k : tables()) {
        if (k == generic_kernels()) continue;  // computes one by one anyway
        for (DType type : kTypes) {
            if (!is_quantized(type)) continue;
            CAPTURE(std::string(k->name));
            CAPTURE(std::string(dtype_info(type).name));
            const Matrix w = random_matrix(type, rows, cols, 15);
            for (int64_t n_rows : {25, 131}) {  // more than a kernel takes at once
                const Activations a(*k, random_floats(n_rows * cols, 16), n_rows, cols);
                std::vector<float> y(static_cast<size_t>(n_rows * (rows + 3)), kUntouched);
                for (int64_t r = 0; r < n_rows; ++r) run_matmul(*k, w, a, r, 1, 0, rows, y);
                CHECK(same_bits(y, whole_product(*k, w, a)));
            }
        }
    }
}

TEST_CASE("the levels of the ARM architecture give the same bits as one another") {
    std::vector<const Kernels*> levels;
    for (const Kernels* k : tables()) {
        if (k == neon_kernels() || k == dotprod_kernels() || k == i8mm_kernels()) levels.push_back(k);
    }
    for (DType type : kTypes) {
        const Matrix w = random_matrix(type, 27, 1120, 13);
        for (int64_t n_rows : {1, 2, 7}) {
            std::vector<float> first;
            for (const Kernels* k : levels) {
                CAPTURE(std::string(k->name));
                CAPTURE(std::string(dtype_info(type).name));
                const Activations a(*k, random_floats(n_rows * 1120, 14), n_rows, 1120);
                const std::vector<float> y = whole_product(*k, w, a);
                if (first.empty()) first = y;
                CHECK(same_bits(y, first));
            }
        }
    }
}

TEST_CASE("an empty product touches nothing") {
    for (const Kernels* k : tables()) {
        for (DType type : kTypes) {
            const Matrix w = random_matrix(type, 8, 32, 2);
            const Activations a(*k, random_floats(3 * 32, 3), 3, 32);
            std::vector<float> y(3 * 11, kUntouched);
            const std::vector<float> before = y;
            run_matmul(*k, w, a, 0, 0, 0, 8, y);
            run_matmul(*k, w, a, 0, 3, 5, 5, y);
            CHECK(same_bits(y, before));
        }
    }
}

TEST_CASE("quantized activations are the same bits in every table") {
    std::vector<float> x = random_floats(32 * 40, 21);
    const auto fill = [&](int block, float value) { std::fill_n(x.begin() + block * 32, 32, value); };
    fill(0, 0.0f);
    fill(1, -0.0f);
    fill(2, 1e-40f);
    fill(3, std::numeric_limits<float>::max());
    fill(4, -1.0f);
    x[5 * 32 + 3] = kInf;
    x[6 * 32 + 31] = std::numeric_limits<float>::quiet_NaN();
    fill(7, 0x1p-119f);
    fill(8, 0x1.fffffep-120f);
    fill(9, 1e-44f);
    x[9 * 32] = 1e-36f;
    for (int j = 0; j < 32; ++j) {
        x[static_cast<size_t>(10 * 32 + j)] = static_cast<float>(j) - 15.5f;  // ties, once divided by d = 1
        x[static_cast<size_t>(11 * 32 + j)] = 0x1p-130f * static_cast<float>(j);
    }
    x[10 * 32] = 127.0f;
    fill(12, 0x1.fffffep117f);
    fill(13, -0x1p118f);

    const Activations reference(*generic_kernels(), x, 1, static_cast<int64_t>(x.size()));
    CHECK(reference.q[10 * 32 + 1] == -14);
    CHECK(reference.q[10 * 32 + 2] == -14);
    CHECK(std::isnan(reference.d[5]));
    CHECK(std::isnan(reference.s[6]));
    CHECK(reference.d[2] == 0.0f);
    CHECK(std::isfinite(16 * reference.s[12]));
    CHECK(std::isnan(reference.d[3]));
    CHECK(std::isnan(reference.d[13]));
    for (size_t i = 14 * 32; i < x.size(); ++i) {
        const float d = reference.d[i / 32];
        CHECK(std::fabs(d * static_cast<float>(reference.q[i]) - x[i]) <= d * 0.5001f);
    }
    for (size_t b = 14; b < reference.s.size(); ++b) {
        int sum = 0;
        for (size_t j = 0; j < 32; ++j) sum += reference.q[b * 32 + j];
        CHECK(reference.s[b] == reference.d[b] * static_cast<float>(sum));
    }
    for (const Kernels* k : tables()) {
        CAPTURE(std::string(k->name));
        const Activations a(*k, x, 1, static_cast<int64_t>(x.size()));
        CHECK(a.q == reference.q);
        for (size_t b = 0; b < a.d.size(); ++b) {
            CAPTURE(b);
            const bool nan = std::isnan(reference.d[b]);
            CHECK((nan ? std::isnan(a.d[b]) : a.d[b] == reference.d[b]));
            CHECK((nan ? std::isnan(a.s[b]) : a.s[b] == reference.s[b]));
        }
    }
}

TEST_CASE("a value that is not finite reaches every output that depends on it") {
    for (const Kernels* k : tables()) {
        for (DType type : kTypes) {
            const Matrix w = random_matrix(type, 9, 64, 31);
            std::vector<float> x = random_floats(2 * 64, 32);
            x[40] = std::numeric_limits<float>::quiet_NaN();
            const std::vector<float> y = whole_product(*k, w, Activations(*k, x, 2, 64));
            for (size_t n = 0; n < 9; ++n) {
                CHECK(std::isnan(y[n]));
                CHECK(std::isfinite(y[12 + n]));
            }
        }
    }
}

TEST_CASE("every half converts to f32 and back, and f32 rounds as the portable conversion does") {
    std::vector<uint16_t> halves;
    for (uint32_t h = 0; h < 0x10000; ++h) halves.push_back(static_cast<uint16_t>(h));
    std::vector<float> x = random_floats(4099, 51);
    std::mt19937 engine(52);
    for (int i = 0; i < 100000; ++i) x.push_back(std::bit_cast<float>(static_cast<uint32_t>(engine())));
    for (float edge :
         {65504.0f, 65519.996f, 65520.0f, -65520.0f, kInf, 0x1p-24f, 0x1p-25f, 0x1.8p-25f, 0x1p-14f}) {
        x.push_back(edge);
    }
    for (const Kernels* k : tables()) {
        CAPTURE(std::string(k->name));
        std::vector<float> wide(halves.size());
        k->f16_to_f32(halves.data(), wide.data(), static_cast<int64_t>(halves.size()));
        std::vector<uint16_t> back(halves.size());
        k->f32_to_f16(wide.data(), back.data(), static_cast<int64_t>(wide.size()));
        size_t wrong = 0;
        for (size_t i = 0; i < halves.size(); ++i) {
            const float expected = half_to_float(halves[i]);
            if (std::isnan(expected)) {
                wrong += !std::isnan(wide[i]) || !std::isnan(half_to_float(back[i]));
            } else {
                wrong += wide[i] != expected || back[i] != halves[i];
            }
        }
        CHECK(wrong == 0);
        for (int64_t n : {int64_t{0}, int64_t{1}, int64_t{7}, int64_t{13}, static_cast<int64_t>(x.size())}) {
            std::vector<uint16_t> narrow(x.size() + 1, 0x1234);
            k->f32_to_f16(x.data(), narrow.data(), n);
            wrong = 0;
            for (size_t i = 0; i < static_cast<size_t>(n); ++i) wrong += narrow[i] != float_to_half(x[i]);
            CHECK(wrong == 0);
            CHECK(narrow[static_cast<size_t>(n)] == 0x1234);
        }
    }
}

TEST_CASE("norms equal their definitions in double precision") {
    for (const Kernels* k : tables()) {
        for (int64_t n : {1, 5, 8, 31, 32, 100, 4096, 4099}) {
            CAPTURE(std::string(k->name));
            CAPTURE(n);
            std::vector<float> x = random_floats(n, 61);
            for (float& v : x) v += 3.0f;
            const std::vector<float> weight = random_floats(n, 62), bias = random_floats(n, 63);
            double mean = 0, square = 0, variance = 0;
            for (float v : x) {
                mean += static_cast<double>(v) / static_cast<double>(n);
                square += static_cast<double>(v) * static_cast<double>(v) / static_cast<double>(n);
            }
            for (float v : x) variance += std::pow(static_cast<double>(v) - mean, 2) / static_cast<double>(n);
            const double eps = static_cast<double>(1e-5f);
            std::vector<double> rms, layer, tolerance;
            for (size_t i = 0; i < x.size(); ++i) {
                rms.push_back(static_cast<double>(x[i]) / std::sqrt(square + eps) *
                              static_cast<double>(weight[i]));
                layer.push_back((static_cast<double>(x[i]) - mean) / std::sqrt(variance + eps) *
                                    static_cast<double>(weight[i]) +
                                static_cast<double>(bias[i]));
                // the mean cancels the offset: 3 of 1e-7 relative, divided by the deviation (~sqrt(eps) when
                // n = 1)
                tolerance.push_back(2e-6 * (1 + std::fabs(rms.back()) + std::fabs(layer.back())) *
                                    (1 + 0.1 / std::sqrt(variance + eps)));
            }
            std::vector<float> y(x.size());
            k->rms_norm(x.data(), weight.data(), 1e-5f, y.data(), n);
            check_near(y, rms, tolerance);
            k->layer_norm(x.data(), weight.data(), bias.data(), 1e-5f, y.data(), n);
            check_near(y, layer, tolerance);
        }
    }
}

TEST_CASE("activation functions equal double precision, also in the tails, in place and when cut") {
    std::vector<float> x = random_floats(1003, 71, 4.0f);
    for (float v : {0.0f, -0.0f, 20.0f, -20.0f, 87.0f, -87.0f, 90.0f, -90.0f, 1e4f, -1e4f, 1e30f, -1e30f}) {
        x.push_back(v);
    }
    const std::vector<float> up = random_floats(static_cast<int64_t>(x.size()), 72);
    const auto n = static_cast<int64_t>(x.size());
    std::vector<double> swiglu, gelu, swiglu_tolerance, gelu_tolerance;
    for (size_t i = 0; i < x.size(); ++i) {
        const double v = x[i];
        swiglu.push_back(v / (1 + std::exp(-v)) * static_cast<double>(up[i]));
        const double u = 0.7978845608028654 * (v + 0.044715 * v * v * v);
        gelu.push_back(v / (1 + std::exp(-2 * u)));
        swiglu_tolerance.push_back(1e-6 * std::fabs(swiglu[i]) + 1e-35);
        // exp(-2u) has the relative error of rounding u
        gelu_tolerance.push_back(1e-6 * std::fabs(gelu[i]) * (1 + std::fabs(u)) + 1e-33);
    }
    for (const Kernels* k : tables()) {
        CAPTURE(std::string(k->name));
        std::vector<float> y(x.size());
        k->swiglu(x.data(), up.data(), y.data(), n);
        check_near(y, swiglu, swiglu_tolerance);
        std::vector<float> cut = x;
        for (int64_t i = 0; i < n; i += 40) {
            k->swiglu(cut.data() + i, up.data() + i, cut.data() + i, std::min<int64_t>(40, n - i));
        }
        CHECK(same_bits(cut, y));

        k->gelu(x.data(), y.data(), n);
        check_near(y, gelu, gelu_tolerance);
        cut = x;
        for (int64_t i = 0; i < n; i += 24)
            k->gelu(cut.data() + i, cut.data() + i, std::min<int64_t>(24, n - i));
        CHECK(same_bits(cut, y));

        y = up;
        k->add_scaled(x.data(), 0.25f, y.data(), n);
        cut = up;
        for (int64_t i = 0; i < n; i += 8)
            k->add_scaled(x.data() + i, 0.25f, cut.data() + i, std::min<int64_t>(8, n - i));
        CHECK(same_bits(cut, y));
        std::vector<double> sum, tolerance;
        for (size_t i = 0; i < x.size(); ++i) {
            sum.push_back(static_cast<double>(up[i]) + 0.25 * static_cast<double>(x[i]));
            tolerance.push_back(
                1.2e-7 * (std::fabs(static_cast<double>(up[i])) + std::fabs(static_cast<double>(x[i]))));
        }
        check_near(y, sum, tolerance);
        const float before = y.back();
        k->add_scaled(x.data(), 1.0f, y.data() + y.size() - 1, 0);
        CHECK(y.back() == before);
    }
}
