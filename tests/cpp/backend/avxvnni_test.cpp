// The kernels for AVX-VNNI against those of AVX2, whose bits they must give.
#include <doctest/doctest.h>

#include <cstdint>
#include <cstring>
#include <random>
#include <string_view>
#include <vector>

#include "backend/cpu/kernels/kernels.h"
#include "format/dtype.h"
#include "format/quantize.h"

#if defined(__x86_64__) || defined(_M_X64)

namespace chatglm::cpu {

const Kernels* avxvnni_twin_kernels();

namespace {

// The kernels themselves where the processor has them, else their twin in another encoding; null where it has
// neither.
const Kernels* find_kernels() {
    int count = 0;
    const Kernels* const* tables = runnable_kernels(&count);
    const Kernels* found = nullptr;
    for (int i = 0; i < count; ++i) {
        if (tables[i]->name == std::string_view("avxvnni")) return tables[i];
        if (tables[i]->name == std::string_view("avx512vnni")) found = avxvnni_twin_kernels();
    }
    return found;
}

std::vector<float> multiply(const Kernels& kernels, DType type, const std::vector<uint8_t>& weight,
                            int64_t n_out, int64_t n_cols, const std::vector<float>& x, int64_t n_rows) {
    const int64_t n_blocks = n_cols / kBlockSize;
    std::vector<int8_t> q(x.size());
    std::vector<float> d(static_cast<size_t>(n_rows * n_blocks)), s(d.size());
    for (int64_t r = 0; r < n_rows; ++r) {
        kernels.quantize_row(x.data() + r * n_cols, n_cols, q.data() + r * n_cols, d.data() + r * n_blocks,
                             s.data() + r * n_blocks);
    }
    std::vector<float> y(static_cast<size_t>(n_rows * n_out), -1.0f);
    MatmulArgs args{};
    args.weight = weight.data();
    args.weight_stride = row_bytes(type, n_cols);
    args.row_end = n_out;
    args.n_cols = n_cols;
    args.xq = {q.data(), d.data(), s.data(), n_cols};
    args.n_rows = n_rows;
    args.y = y.data();
    args.y_stride = n_out;
    kernels.matmul(type)(args);
    return y;
}

}  // namespace

TEST_CASE("the kernels for AVX-VNNI give the bits of AVX2") {
    const Kernels* kernels = find_kernels();
    if (!kernels) {
        MESSAGE("this processor has no instruction of the kind");
        return;
    }
    std::mt19937 dice(7);
    std::normal_distribution<float> normal;
    std::uniform_int_distribution<int> byte(0, 255), nothing(0, 9);
    for (const DType type : {DType::q4_0, DType::q4_1, DType::q5_0, DType::q5_1, DType::q8_0}) {
        for (const int64_t n_cols : {32, 288, 1344}) {
            const int64_t n_out = 37;
            std::vector<float> w(static_cast<size_t>(n_out * n_cols));
            for (float& v : w) v = normal(dice);
            std::vector<uint8_t> weight(static_cast<size_t>(n_out * row_bytes(type, n_cols)));
            for (int64_t r = 0; r < n_out; ++r) {
                quantize_row(type, w.data() + r * n_cols, weight.data() + r * row_bytes(type, n_cols),
                             n_cols);
            }
            if (type == DType::q8_0) {  // every number that a file may hold, -128 too
                for (size_t i = 2; i < weight.size(); ++i) {
                    if (i % sizeof(BlockQ8_0) >= 2) weight[i] = static_cast<uint8_t>(byte(dice));
                }
            }
            for (int64_t n_rows = 1; n_rows <= 13; ++n_rows) {
                std::vector<float> x(static_cast<size_t>(n_rows * n_cols));
                for (float& v : x) v = normal(dice);
                for (size_t b = 0; b < x.size();
                     b += kBlockSize) {  // blocks of zeros, of one sign, of tiny numbers
                    const int kind = nothing(dice);
                    for (size_t i = b; i < b + kBlockSize; ++i) {
                        if (kind == 0) x[i] = 0;
                        if (kind == 1) x[i] = 1;
                        if (kind == 2) x[i] = -1;
                        if (kind == 3) x[i] *= 0x1p-118f;
                    }
                }
                const auto expected = multiply(*avx2_kernels(), type, weight, n_out, n_cols, x, n_rows);
                const auto found = multiply(*kernels, type, weight, n_out, n_cols, x, n_rows);
                CAPTURE(dtype_info(type).name);
                CAPTURE(n_cols);
                CAPTURE(n_rows);
                REQUIRE(std::memcmp(expected.data(), found.data(), expected.size() * sizeof(float)) == 0);
            }
        }
    }
}

}  // namespace chatglm::cpu

#endif
