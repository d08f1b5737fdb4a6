// Compiled with AVX2 and FMA; everything has internal linkage, as in avx2.cpp.
#include "backend/cpu/kernels/ceilings.h"

#if defined(__x86_64__) || (defined(_M_X64) && !defined(_M_ARM64EC))

#include <immintrin.h>

namespace chatglm::cpu {
namespace {

inline __m256i load(const uint8_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}

inline uint64_t combine(const __m256i* sums, int count) {
    __m256i all = sums[0];
    for (int i = 1; i < count; ++i) all = _mm256_xor_si256(all, sums[i]);
    alignas(32) uint64_t words[4];
    _mm256_store_si256(reinterpret_cast<__m256i*>(words), all);
    return words[0] ^ words[1] ^ words[2] ^ words[3];
}

// 0 leaves fetching to the hardware.
template <int kPrefetchBytes>
uint64_t read_forward(const uint8_t* data, int64_t bytes) {
    __m256i sums[8] = {};
    for (int64_t i = 0; i < bytes; i += 256) {
        if constexpr (kPrefetchBytes != 0) {
            // Past the end a prefetch does nothing; the address is computed as a number for that.
            const auto ahead = reinterpret_cast<uintptr_t>(data) + static_cast<uintptr_t>(i + kPrefetchBytes);
            for (uintptr_t line = 0; line < 256; line += 64) {
                _mm_prefetch(reinterpret_cast<const char*>(ahead + line), _MM_HINT_T0);
            }
        }
        for (int k = 0; k < 8; ++k) sums[k] = _mm256_xor_si256(sums[k], load(data + i + 32 * k));
    }
    return combine(sums, 8);
}

uint64_t read_four_streams(const uint8_t* data, int64_t bytes) {
    const int64_t part = bytes / 4;
    __m256i sums[8] = {};
    for (int64_t i = 0; i < part; i += 64) {
        for (int s = 0; s < 4; ++s) {
            const uint8_t* p = data + s * part + i;
            sums[2 * s] = _mm256_xor_si256(sums[2 * s], load(p));
            sums[2 * s + 1] = _mm256_xor_si256(sums[2 * s + 1], load(p + 32));
        }
    }
    return combine(sums, 8);
}

// Four sums hide the latency of the additions. Every product takes another vector of the table and every
// round begins at another place of it, so that no compiler can take one for a repetition of the last; the
// loads go through ports that the products leave free.
constexpr int kSums = 4;
constexpr int kShifts = 16;

template <int kSummed>
uint64_t multiply_int8(int64_t rounds) {
    constexpr int kOperands = kSums * kSummed;
    alignas(32) int8_t numbers[32 * (kOperands + kShifts)];
    for (int i = 0; i < 32 * (kOperands + kShifts); ++i) numbers[i] = static_cast<int8_t>(i % 13 - 6);
    const auto* table = reinterpret_cast<const uint8_t*>(numbers);
    const __m256i weight = _mm256_set1_epi8(static_cast<char>(1 + rounds % 2));
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i sums[kSums] = {};
    for (int64_t round = 0; round < rounds; ++round) {
        const uint8_t* x = table + 32 * (round % kShifts);
        for (int i = 0; i < kSums; ++i) {
            __m256i pairs = _mm256_maddubs_epi16(weight, load(x + 32 * i * kSummed));
            for (int k = 1; k < kSummed; ++k) {
                const __m256i product = _mm256_maddubs_epi16(weight, load(x + 32 * (i * kSummed + k)));
                pairs = _mm256_add_epi16(pairs, product);
            }
            sums[i] = _mm256_add_epi32(sums[i], _mm256_madd_epi16(pairs, ones));
        }
    }
    return combine(sums, kSums);
}

// Two a cycle with a latency of four or five: ten sums keep them busy.
constexpr int kFloatSums = 10;

uint64_t multiply_f32(int64_t rounds) {
    const __m256 x = _mm256_set1_ps(0.999f + 1e-9f * static_cast<float>(rounds % 2));
    const __m256 y = _mm256_set1_ps(0.5f);
    __m256 sums[kFloatSums];
    for (int i = 0; i < kFloatSums; ++i) sums[i] = _mm256_set1_ps(static_cast<float>(i));
    for (int64_t round = 0; round < rounds; ++round) {
        for (__m256& sum : sums) sum = _mm256_fmadd_ps(sum, x, y);
    }
    __m256i bits[kFloatSums];
    for (int i = 0; i < kFloatSums; ++i) bits[i] = _mm256_castps_si256(sums[i]);
    return combine(bits, kFloatSums);
}

constexpr Ceilings::Read kReads[] = {{"one stream", read_forward<0>},
                                     {"one stream, fetched 1 KB ahead", read_forward<1024>},
                                     {"one stream, fetched 4 KB ahead", read_forward<4096>},
                                     {"four streams", read_four_streams}};
constexpr Ceilings::Products kInt8[] = {{1, kSums * 1 * 32, multiply_int8<1>},
                                        {2, kSums * 2 * 32, multiply_int8<2>},
                                        {4, kSums * 4 * 32, multiply_int8<4>},
                                        {8, kSums * 8 * 32, multiply_int8<8>}};

}  // namespace

const Ceilings* avx2_ceilings() {
    static constexpr Ceilings table{"avx2", kReads, kInt8, {1, kFloatSums * 8, multiply_f32}};
    return &table;
}

}  // namespace chatglm::cpu

#else

namespace chatglm::cpu {

const Ceilings* avx2_ceilings() {
    return nullptr;
}

}  // namespace chatglm::cpu

#endif
