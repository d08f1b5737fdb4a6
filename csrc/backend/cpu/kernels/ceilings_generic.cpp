// Plain loops, as fast as a compiler makes them for the oldest processor of the family.
#include <cstring>

#include "backend/cpu/kernels/ceilings.h"

namespace chatglm::cpu {
namespace {

uint64_t read_forward(const uint8_t* data, int64_t bytes) {
    uint64_t sums[8] = {};
    for (int64_t i = 0; i < bytes; i += 64) {
        uint64_t words[8];
        std::memcpy(words, data + i, sizeof words);
        for (int k = 0; k < 8; ++k) sums[k] ^= words[k];
    }
    return sums[0] ^ sums[1] ^ sums[2] ^ sums[3] ^ sums[4] ^ sums[5] ^ sums[6] ^ sums[7];
}

uint64_t read_four_streams(const uint8_t* data, int64_t bytes) {
    const int64_t part = bytes / 4;
    uint64_t sums[4][4] = {};
    for (int64_t i = 0; i < part; i += 32) {
        for (int s = 0; s < 4; ++s) {
            uint64_t words[4];
            std::memcpy(words, data + s * part + i, sizeof words);
            for (int k = 0; k < 4; ++k) sums[s][k] ^= words[k];
        }
    }
    uint64_t all = 0;
    for (const auto& stream : sums) all ^= stream[0] ^ stream[1] ^ stream[2] ^ stream[3];
    return all;
}

constexpr int kLength = 512;
constexpr int kShifts = 32;  // rounds begin at other elements, so that none is the round before

uint64_t multiply_int8(int64_t rounds) {
    static constexpr struct Numbers {
        int8_t a[kLength + kShifts], b[kLength];
        constexpr Numbers() : a(), b() {
            for (int i = 0; i < kLength + kShifts; ++i) a[i] = static_cast<int8_t>(i % 15 - 7);
            for (int i = 0; i < kLength; ++i) b[i] = static_cast<int8_t>(i % 13 - 6);
        }
    } numbers;
    uint32_t sum = 0;
    for (int64_t round = 0; round < rounds; ++round) {
        const int8_t* a = numbers.a + round % kShifts;
        int dot = 0;
        for (int i = 0; i < kLength; ++i) dot += int{a[i]} * int{numbers.b[i]};
        sum += static_cast<uint32_t>(dot);
    }
    return sum;
}

constexpr int kFloats = 32;

uint64_t multiply_f32(int64_t rounds) {
    float sums[kFloats];
    for (int i = 0; i < kFloats; ++i) sums[i] = static_cast<float>(i);
    const float x = 0.999f + 1e-9f * static_cast<float>(rounds % 2), y = 0.5f;
    for (int64_t round = 0; round < rounds; ++round) {
        for (int i = 0; i < kFloats; ++i) sums[i] = sums[i] * x + y;
    }
    float all = 0;
    for (const float sum : sums) all += sum;
    return static_cast<uint64_t>(all);
}

constexpr Ceilings::Read kReads[] = {{"one stream", read_forward}, {"four streams", read_four_streams}};
constexpr Ceilings::Products kInt8[] = {{1, kLength, multiply_int8}};

}  // namespace

const Ceilings* generic_ceilings() {
    static constexpr Ceilings table{"generic", kReads, kInt8, {1, kFloats, multiply_f32}};
    return &table;
}

}  // namespace chatglm::cpu
