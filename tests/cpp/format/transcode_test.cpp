#include "format/transcode.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "format/quantize.h"
#include "format/super_block_samples.h"

using namespace chatglm;
using chatglm::test::kSuperTypes;
using chatglm::test::sample_block;
using chatglm::test::scale_offsets;
using chatglm::test::set_half;

namespace {

struct Transcoded {
    bool fits = false;
    std::vector<uint8_t> bytes;
    std::vector<float> before, after;
};

Transcoded transcode(SuperType type, const std::vector<uint8_t>& block) {
    const int64_t n = super_type_info(type).block_size;
    const DType to = transcoded_type(type);
    Transcoded result;
    const auto size = static_cast<size_t>(row_bytes(to, n));
    result.bytes.assign(size + 1, 0xa5);
    result.fits = transcode_row(type, block.data(), result.bytes.data(), n);
    CHECK(result.bytes.back() == 0xa5);
    result.bytes.pop_back();
    result.before.resize(static_cast<size_t>(n));
    result.after.resize(static_cast<size_t>(n));
    dequantize_row(type, block.data(), result.before.data(), n);
    dequantize_row(to, result.bytes.data(), result.after.data(), n);
    return result;
}

float largest(const std::vector<float>& x, size_t begin, size_t end) {
    float result = 0;
    for (size_t i = begin; i < end; ++i) result = std::max(result, std::fabs(x[i]));
    return result;
}

}  // namespace

TEST_CASE("repacked values differ by the rounding of what a block stores, and by no more") {
    for (const SuperType type : kSuperTypes) {
        for (const int seed : {0, 1, 2, 3, 4, 5, 6, 7}) {
            CAPTURE(std::string(super_type_info(type).name));
            const auto block = sample_block(type, seed);
            const Transcoded t = transcode(type, block);
            CHECK(t.fits);
            Unpacked unpacked;
            unpack(type, block.data(), unpacked);
            for (size_t i = 0; i < t.before.size(); ++i) {
                const auto sub = static_cast<int>(i) / unpacked.sub_block;
                // Two products rounded to halves, 2^-11 of each.
                float bound = (std::fabs(unpacked.scale[sub] * static_cast<float>(unpacked.q[i])) +
                               std::fabs(unpacked.minimum[sub])) *
                              0x1.01p-11f;
                if (type == SuperType::iq4_nl) bound = 0;
                if (unpacked.sub_block == 16) {  // half a step of q8_0, and its scale rounded to a half
                    bound = largest(t.before, i / 32 * 32, i / 32 * 32 + 32) * (0.5f / 127 + 0x1.01p-11f);
                }
                CHECK(std::fabs(t.before[i] - t.after[i]) <= bound);
            }
        }
    }
}

TEST_CASE("the codes of q4_K and q5_K are kept") {
    const auto four = sample_block(SuperType::q4_K), five = sample_block(SuperType::q5_K);
    const Transcoded a = transcode(SuperType::q4_K, four), b = transcode(SuperType::q5_K, five);
    // Elements 0 and 16 of the first sub-block are the low nibbles of bytes 0 and 16, and share a byte now.
    const uint8_t *qs = four.data() + 16, *packed = a.bytes.data() + 4;
    CHECK(packed[0] == ((qs[0] & 15) | (qs[16] & 15) << 4));
    CHECK(packed[20 + 5] == (qs[5] >> 4 | (qs[21] >> 4) << 4));
    const uint8_t* fifth = b.bytes.data() + 3 * sizeof(BlockQ5_1) + 4;
    for (size_t j = 0; j < 32; ++j) {
        CHECK((fifth[j / 8] >> (j % 8) & 1) == (five[16 + j] >> 3 & 1));
    }
}

TEST_CASE("tiny scales lose nothing: products of halves and integers are exact in their range") {
    for (const SuperType type : {SuperType::q4_K, SuperType::q5_K, SuperType::iq4_nl, SuperType::iq4_xs}) {
        const Transcoded t = transcode(type, sample_block(type, 3, 0x1p-24f, 0x3p-24f));
        CHECK(t.fits);
        CHECK(t.before == t.after);
        CHECK(largest(t.before, 0, t.before.size()) > 0);
    }
}

TEST_CASE("scales that are no numbers, infinite or too large are told, and nothing else happens") {
    for (const SuperType type : kSuperTypes) {
        CAPTURE(std::string(super_type_info(type).name));
        for (const size_t offset : scale_offsets(type)) {
            for (const uint16_t bits : {0x7c00, 0xfc00, 0x7e00, 0xffff}) {
                auto block = sample_block(type);
                set_half(block, offset, bits);
                CHECK_FALSE(transcode(type, block).fits);
            }
        }
        if (type == SuperType::iq4_nl) continue;  // whose scale is multiplied with nothing
        auto block = sample_block(type);
        set_half(block, scale_offsets(type)[0], 0x7bff);  // 65504
        // A q8_0 scale is the largest value / 127, so q2_K's 15 * 3 * 65504 still fits.
        CHECK(transcode(type, block).fits == (type == SuperType::q2_K || type == SuperType::q3_K));
    }
}

TEST_CASE("any bytes are a block") {
    for (const SuperType type : kSuperTypes) {
        for (unsigned seed = 0; seed < 300; ++seed) {
            std::vector<uint8_t> block(static_cast<size_t>(super_type_info(type).block_bytes));
            uint32_t state = seed * 2654435761u + static_cast<uint32_t>(type);
            for (uint8_t& byte : block) {
                state = state * 1664525u + 1013904223u;
                byte = seed == 0 ? 0xff : static_cast<uint8_t>(state >> 24);
            }
            const Transcoded t = transcode(type, block);
            const bool finite =
                std::all_of(t.after.begin(), t.after.end(), [](float x) { return std::isfinite(x); });
            CHECK((finite || !t.fits));
        }
    }
}
