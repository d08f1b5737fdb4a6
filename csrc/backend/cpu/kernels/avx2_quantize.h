// The quantization of activations.
// Part of avx2.cpp and avx512.cpp and of no other file: see avx2.cpp why everything has internal linkage.
#pragma once

#include "backend/cpu/kernels/avx2_vector.h"
#include "format/dtype.h"

namespace chatglm::cpu {
namespace {

// The rule is that of generic.cpp, to the bit.
void quantize_row(const float* x, int64_t n, int8_t* q, float* d, float* s) {
    const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    for (int64_t b = 0; b < n / kBlockSize; ++b, x += kBlockSize, q += kBlockSize) {
        __m256 v[4];
        __m256i top = _mm256_setzero_si256();
        for (int i = 0; i < 4; ++i) {
            v[i] = _mm256_loadu_ps(x + 8 * i);
            top = _mm256_max_epi32(top, _mm256_and_si256(_mm256_castps_si256(v[i]), magnitude));
        }
        __m128i m = _mm_max_epi32(_mm256_castsi256_si128(top), _mm256_extracti128_si256(top, 1));
        m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0x4e));
        m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0xb1));
        const float absmax = _mm_cvtss_f32(_mm_castsi128_ps(m));
        if (!(absmax >= 0x1p-119f && absmax < 0x1p118f)) {
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(q), _mm256_setzero_si256());
            d[b] = s[b] = absmax < 0x1p-119f ? 0.0f : NAN;
            continue;
        }
        d[b] = absmax / 127.0f;
        const __m256 id = _mm256_set1_ps(1.0f / d[b]);
        __m256i r[4];
        for (int i = 0; i < 4; ++i) r[i] = _mm256_cvtps_epi32(_mm256_mul_ps(v[i], id));  // ties to even
        const __m256i packed = _mm256_permutevar8x32_epi32(
            _mm256_packs_epi16(_mm256_packs_epi32(r[0], r[1]), _mm256_packs_epi32(r[2], r[3])), order);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(q), packed);
        const __m256i sums = widen_pairs(_mm256_maddubs_epi16(_mm256_set1_epi8(1), packed));
        __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
        sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4e));
        sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xb1));
        s[b] = d[b] * static_cast<float>(_mm_cvtsi128_si32(sum));
    }
}

}  // namespace
}  // namespace chatglm::cpu
