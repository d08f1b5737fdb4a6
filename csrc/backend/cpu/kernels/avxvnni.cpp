// AVX-VNNI: Intel's cores since Alder Lake that have no AVX-512, and Zen 5. The files of AVX2 with one
// instruction for a product of four bytes and its sum; all results are those of AVX2, to the bit. Everything
// has internal linkage, as avx2.cpp explains.
#include "backend/cpu/kernels/kernels.h"

// tests/cpp/backend/avxvnni_twin.cpp compiles this with AVX-512's encoding of the same instruction, for
// processors that have only that one.
#if defined(CHATGLM_AVXVNNI_TWIN) || defined(__AVXVNNI__) || (defined(_M_X64) && !defined(_M_ARM64EC))

#include <immintrin.h>

#if defined(CHATGLM_AVXVNNI_TWIN)
#define CHATGLM_DPBUSD _mm256_dpbusd_epi32
#else
#define CHATGLM_DPBUSD _mm256_dpbusd_avx_epi32
#endif
#include "backend/cpu/kernels/avx2_quantized.h"

namespace chatglm::cpu {

#if defined(CHATGLM_AVXVNNI_TWIN)
const Kernels* avxvnni_twin_kernels() {
#else
const Kernels* avxvnni_kernels() {
#endif
    static const Kernels table = [] {
        Kernels t = *avx2_kernels();
        t.name = "avxvnni";
        t.matmul_q4_0 = matmul_quantized<Q4_0>;
        t.matmul_q4_1 = matmul_quantized<Q4_1>;
        t.matmul_q5_0 = matmul_quantized<Q5_0>;
        t.matmul_q5_1 = matmul_quantized<Q5_1>;
        t.matmul_q8_0 = matmul_quantized<Q8_0>;
        return t;
    }();
    return &table;
}

}  // namespace chatglm::cpu

#else

namespace chatglm::cpu {
const Kernels* avxvnni_kernels() {
    return nullptr;
}
}  // namespace chatglm::cpu

#endif
