#include "format/super_blocks.h"

#include <doctest/doctest.h>

#include <array>
#include <string>
#include <vector>

#include "core/half.h"
#include "format/stored_type.h"
#include "format/super_block_samples.h"

using namespace chatglm;
using chatglm::test::kSuperTypes;
using chatglm::test::sample_block;

namespace {

// Elements of sample_block(type) at kPlaces (kSmallPlaces of iq4_nl), as gguf.quants 0.19 gives them.
struct Expected {
    SuperType type;
    std::array<float, 8> values;
};
constexpr size_t kPlaces[] = {0, 17, 40, 77, 111, 140, 190, 255};
constexpr size_t kSmallPlaces[] = {0, 1, 17, 31};
constexpr Expected kExpected[] = {
    {SuperType::q2_K,
     {0.0f, 0.0455932617f, 0.431945801f, 0.594818115f, 0.497039795f, 0.712097168f, 0.182373047f,
      0.640411377f}},
    {SuperType::q3_K,
     {-0.282867432f, 0.442749023f, 0.147583008f, 0.295166016f, 0.258270264f, -0.159881592f, 0.418151855f,
      0.036895752f}},
    {SuperType::q4_K,
     {3.07519531f, 1.5501709f, 3.7411499f, 0.136779785f, 0.231567383f, 8.51593018f, 4.20068359f,
      9.85592651f}},
    {SuperType::q5_K,
     {5.74398804f, 6.50650024f, 10.4315796f, 7.01168823f, 0.539031982f, 20.6546326f, 1.00305176f,
      12.7460938f}},
    {SuperType::q6_K,
     {-20.3172607f, -22.0390625f, 6.80111694f, 14.2663574f, -4.27990723f, -28.2744446f, 27.2044678f,
      3.24682617f}},
    {SuperType::iq4_nl, {0.651824951f, 0.012298584f, -0.270568848f, -1.02078247f}},
    {SuperType::iq4_xs,
     {17.353302f, 10.2447205f, -3.074646f, -24.9907227f, -25.0153198f, -13.688324f, 1.3036499f,
      -0.0983886719f}},
};

}  // namespace

TEST_CASE("blocks of every type unpack to the floats of ggml's reference") {
    for (const Expected& expected : kExpected) {
        const SuperTypeInfo& info = super_type_info(expected.type);
        CAPTURE(std::string(info.name));
        std::vector<uint8_t> bytes(1, 0);  // a block may start at any byte
        for (const uint8_t byte : sample_block(expected.type)) bytes.push_back(byte);
        std::vector<float> y(static_cast<size_t>(info.block_size));
        dequantize_row(expected.type, bytes.data() + 1, y.data(), info.block_size);
        const bool small = info.block_size == 32;
        for (size_t i = 0; i < (small ? std::size(kSmallPlaces) : std::size(kPlaces)); ++i) {
            CHECK(y[small ? kSmallPlaces[i] : kPlaces[i]] == expected.values[i]);
        }
    }
}

TEST_CASE("a row of several blocks is a block after another") {
    for (const SuperType type : kSuperTypes) {
        const auto n = static_cast<size_t>(super_type_info(type).block_size);
        std::vector<uint8_t> bytes = sample_block(type, 1);
        const std::vector<uint8_t> second = sample_block(type, 2);
        std::vector<float> one(n), two(n), both(2 * n);
        dequantize_row(type, bytes.data(), one.data(), static_cast<int64_t>(n));
        dequantize_row(type, second.data(), two.data(), static_cast<int64_t>(n));
        bytes.insert(bytes.end(), second.begin(), second.end());
        dequantize_row(type, bytes.data(), both.data(), static_cast<int64_t>(2 * n));
        CHECK(std::vector<float>(both.begin(), both.begin() + static_cast<std::ptrdiff_t>(n)) == one);
        CHECK(std::vector<float>(both.begin() + static_cast<std::ptrdiff_t>(n), both.end()) == two);
    }
}

TEST_CASE("every type of ggml has a name and a size, and other numbers have none") {
    for (const SuperType type : kSuperTypes) {
        const auto number = static_cast<uint32_t>(type);
        CHECK(find_super_type(number) == find_super_type(super_type_info(type).name));
        REQUIRE(find_stored_type(number));
        CHECK(find_stored_type(number)->block_bytes == super_type_info(type).block_bytes);
    }
    for (uint32_t number = 0; number <= 42; ++number) {
        CAPTURE(number);
        const auto type = find_stored_type(number);
        REQUIRE(type.has_value() == (number != 4 && number != 5));
        if (type) CHECK(type->number == number);
    }
    CHECK(std::string(find_stored_type(16)->name) == "iq2_xxs");
    CHECK(std::string(find_stored_type(39)->name) == "mxfp4");
    CHECK_FALSE(find_stored_type(43));
    CHECK_FALSE(find_stored_type(0xffffffffu));
    CHECK(find_super_type(8u) == nullptr);
    CHECK(find_super_type("q8_0") == nullptr);
}
