// The loops that a bench divides by do all of their work, and the peak that a type is judged by can be had.
#include <doctest/doctest.h>

#include <cstring>
#include <random>
#include <string_view>
#include <vector>

#include "backend/cpu/kernels/ceilings.h"
#include "backend/cpu/kernels/kernels.h"
#include "chatglm/error.h"
#include "tools/bench/measured_ceilings.h"

using namespace chatglm;

namespace {

// Tables that this machine can run.
std::vector<const cpu::Ceilings*> tables() {
    std::vector<const cpu::Ceilings*> found;
    int count = 0;
    const cpu::Kernels* const* kernels = cpu::runnable_kernels(&count);
    for (int i = 0; i < count; ++i) {
        for (const cpu::Ceilings* table :
             {cpu::avx512vnni_ceilings(), cpu::avx2_ceilings(), cpu::i8mm_ceilings(), cpu::dotprod_ceilings(),
              cpu::neon_ceilings(), cpu::generic_ceilings()}) {
            if (table && std::string_view(table->name) == kernels[i]->name) found.push_back(table);
        }
    }
    return found;
}

}  // namespace

TEST_CASE("every way to read memory reads all of it") {
    std::vector<uint64_t> words(2 * 4096 / 8);
    std::mt19937_64 engine(1);
    uint64_t expected = 0;
    for (uint64_t& word : words) expected ^= word = engine();
    const auto* data = reinterpret_cast<const uint8_t*>(words.data());
    const auto bytes = static_cast<int64_t>(words.size() * sizeof(uint64_t));
    REQUIRE(!tables().empty());
    for (const cpu::Ceilings* table : tables()) {
        for (const auto& read : table->reads) {
            CAPTURE(table->name);
            CAPTURE(read.name);
            CHECK(read.run(data, bytes) == expected);
            words[600] ^= 1;
            CHECK(read.run(data, bytes) == (expected ^ 1));
            words[600] ^= 1;
        }
    }
}

TEST_CASE("the first peak of int8 widens every product, the others more at once") {
    for (const cpu::Ceilings* table : tables()) {
        CAPTURE(table->name);
        int last = 0;
        for (const auto& products : table->int8) {
            CHECK(products.n_summed == (last == 0 ? 1 : 2 * last));
            CHECK(products.per_round > 0);
            last = products.n_summed;
        }
        CHECK(last >= 1);
    }
}

TEST_CASE("a type is judged by the fastest sums that cannot overflow for its weights") {
    MeasuredCeilings c;
    c.int8 = {{1, 100}, {2, 150}, {4, 180}, {8, 190}, {16, 1000}};
    c.f32_rate = 50;
    CHECK(c.product_rate(DType::q4_0) == 190);
    CHECK(c.product_rate(DType::q4_1) == 190);
    CHECK(c.product_rate(DType::q5_0) == 180);
    CHECK(c.product_rate(DType::q5_1) == 180);
    CHECK(c.product_rate(DType::q8_0) == 100);
    for (const DType type : {DType::f32, DType::f16, DType::bf16}) CHECK(c.product_rate(type) == 50);
    c.int8 = {{1, 200}, {2, 150}};
    CHECK(c.product_rate(DType::q4_0) == 200);
}

TEST_CASE("measuring the ceilings can be interrupted") {
    int asked = 0;
    CHECK_THROWS_AS(measure_ceilings(1, [&] { return ++asked == 3; }), Interrupted);
    CHECK(asked == 3);
}
