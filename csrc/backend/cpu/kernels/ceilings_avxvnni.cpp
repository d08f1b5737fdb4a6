// Compiled with AVX2 and AVX-VNNI; everything has internal linkage, as in avx2.cpp.
#include "backend/cpu/kernels/ceilings.h"

#if defined(__AVXVNNI__) || (defined(_M_X64) && !defined(_M_ARM64EC))

#include <immintrin.h>

namespace chatglm::cpu {
namespace {

// As in ceilings_avx2.cpp, with one instruction for a product and its sum: two a cycle with a latency of
// five, so ten sums keep them busy.
constexpr int kSums = 10;
constexpr int kShifts = 16;

uint64_t multiply_int8(int64_t rounds) {
    alignas(32) int8_t numbers[32 * (kSums + kShifts)];
    for (int i = 0; i < 32 * (kSums + kShifts); ++i) numbers[i] = static_cast<int8_t>(i % 13 - 6);
    const auto* table = reinterpret_cast<const __m256i*>(numbers);
    const __m256i weight = _mm256_set1_epi8(static_cast<char>(1 + rounds % 2));
    __m256i sums[kSums] = {};
    for (int64_t round = 0; round < rounds; ++round) {
        const __m256i* x = table + round % kShifts;
        for (int i = 0; i < kSums; ++i) {
            sums[i] = _mm256_dpbusd_avx_epi32(sums[i], weight, _mm256_load_si256(x + i));
        }
    }
    __m256i all = sums[0];
    for (int i = 1; i < kSums; ++i) all = _mm256_xor_si256(all, sums[i]);
    alignas(32) uint64_t words[4];
    _mm256_store_si256(reinterpret_cast<__m256i*>(words), all);
    return words[0] ^ words[1] ^ words[2] ^ words[3];
}

// The products of four bytes are added to 32 bits at once: there are no sums of 16 bits that could overflow.
constexpr Ceilings::Products kInt8[] = {{1, kSums * 32, multiply_int8}};

}  // namespace

const Ceilings* avxvnni_ceilings() {
    static const Ceilings table{"avxvnni", avx2_ceilings()->reads, kInt8, avx2_ceilings()->f32};
    return &table;
}

}  // namespace chatglm::cpu

#else

namespace chatglm::cpu {

const Ceilings* avxvnni_ceilings() {
    return nullptr;
}

}  // namespace chatglm::cpu

#endif
