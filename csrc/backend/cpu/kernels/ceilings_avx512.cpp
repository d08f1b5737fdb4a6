// Compiled with AVX-512 F, BW, VL and VNNI; everything has internal linkage, as in avx2.cpp.
#include "backend/cpu/kernels/ceilings.h"

#if defined(__x86_64__) || (defined(_M_X64) && !defined(_M_ARM64EC))

#include <immintrin.h>

namespace chatglm::cpu {
namespace {

inline __m512i load(const uint8_t* p) {
    return _mm512_loadu_si512(p);
}

inline uint64_t combine(const __m512i* sums, int count) {
    __m512i all = sums[0];
    for (int i = 1; i < count; ++i) all = _mm512_xor_si512(all, sums[i]);
    alignas(64) uint64_t words[8];
    _mm512_store_si512(words, all);
    uint64_t result = 0;
    for (const uint64_t word : words) result ^= word;
    return result;
}

// 0 leaves fetching to the hardware.
template <int kPrefetchBytes>
uint64_t read_forward(const uint8_t* data, int64_t bytes) {
    __m512i sums[4] = {};
    for (int64_t i = 0; i < bytes; i += 256) {
        if constexpr (kPrefetchBytes != 0) {
            // Past the end a prefetch does nothing; the address is computed as a number for that.
            const auto ahead = reinterpret_cast<uintptr_t>(data) + static_cast<uintptr_t>(i + kPrefetchBytes);
            for (uintptr_t line = 0; line < 256; line += 64) {
                _mm_prefetch(reinterpret_cast<const char*>(ahead + line), _MM_HINT_T0);
            }
        }
        for (int k = 0; k < 4; ++k) sums[k] = _mm512_xor_si512(sums[k], load(data + i + 64 * k));
    }
    return combine(sums, 4);
}

uint64_t read_four_streams(const uint8_t* data, int64_t bytes) {
    const int64_t part = bytes / 4;
    __m512i sums[4] = {};
    for (int64_t i = 0; i < part; i += 64) {
        for (int s = 0; s < 4; ++s) sums[s] = _mm512_xor_si512(sums[s], load(data + s * part + i));
    }
    return combine(sums, 4);
}

// Ten sums hide the latency of the additions. Every product takes another vector of the table and every round
// begins at another place of it, so that no compiler can take one for a repetition of the last.
constexpr int kSums = 10;
constexpr int kShifts = 16;

uint64_t multiply_int8(int64_t rounds) {
    alignas(64) int8_t numbers[64 * (kSums + kShifts)];
    for (int i = 0; i < 64 * (kSums + kShifts); ++i) numbers[i] = static_cast<int8_t>(i % 13 - 6);
    const auto* table = reinterpret_cast<const uint8_t*>(numbers);
    const __m512i weight = _mm512_set1_epi8(static_cast<char>(1 + rounds % 2));
    __m512i sums[kSums] = {};
    for (int64_t round = 0; round < rounds; ++round) {
        const uint8_t* x = table + 64 * (round % kShifts);
        for (int i = 0; i < kSums; ++i) sums[i] = _mm512_dpbusd_epi32(sums[i], weight, load(x + 64 * i));
    }
    return combine(sums, kSums);
}

uint64_t multiply_f32(int64_t rounds) {
    const __m512 x = _mm512_set1_ps(0.999f + 1e-9f * static_cast<float>(rounds % 2));
    const __m512 y = _mm512_set1_ps(0.5f);
    __m512 sums[kSums];
    for (int i = 0; i < kSums; ++i) sums[i] = _mm512_set1_ps(static_cast<float>(i));
    for (int64_t round = 0; round < rounds; ++round) {
        for (__m512& sum : sums) sum = _mm512_fmadd_ps(sum, x, y);
    }
    __m512i bits[kSums];
    for (int i = 0; i < kSums; ++i) bits[i] = _mm512_castps_si512(sums[i]);
    return combine(bits, kSums);
}

constexpr Ceilings::Read kReads[] = {{"one stream", read_forward<0>},
                                     {"one stream, fetched 1 KB ahead", read_forward<1024>},
                                     {"one stream, fetched 4 KB ahead", read_forward<4096>},
                                     {"four streams", read_four_streams}};
// The products of four bytes are added to 32 bits at once: there are no sums of 16 bits that could overflow.
constexpr Ceilings::Products kInt8[] = {{1, kSums * 64, multiply_int8}};

}  // namespace

const Ceilings* avx512vnni_ceilings() {
    static constexpr Ceilings table{"avx512vnni", kReads, kInt8, {1, kSums * 16, multiply_f32}};
    return &table;
}

}  // namespace chatglm::cpu

#else

namespace chatglm::cpu {

const Ceilings* avx512vnni_ceilings() {
    return nullptr;
}

}  // namespace chatglm::cpu

#endif
