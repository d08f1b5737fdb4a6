// AVX-512 F, BW, VL and VNNI: Ice Lake, Zen 4 and newer. Everything in this file and in the avx512_*.h
// headers has internal linkage, as avx2.cpp explains. Kernels of one row are those of AVX2: a row of
// activations is soon done beside a row of products.
#include "backend/cpu/kernels/kernels.h"

#if defined(__x86_64__) || (defined(_M_X64) && !defined(_M_ARM64EC))

#include "backend/cpu/kernels/avx2_quantize.h"
#include "backend/cpu/kernels/avx2_rows.h"
#include "backend/cpu/kernels/avx512_attention.h"
#include "backend/cpu/kernels/avx512_float.h"
#include "backend/cpu/kernels/avx512_quantized.h"

namespace chatglm::cpu {
namespace {

// One row of x waits for memory only, which Zen 4 reads faster along eight rows of W than along sixteen (28
// GB/s against 25 where plain reading gives 29). The sums are the same integers and floats, to the bit.
void matmul_q8_0(const MatmulArgs& args) {
    if (args.n_rows == 1) return matmul_quantized<Q8_0>(args);
    avx512::matmul_quantized<avx512::Q8_0>(args);
}

constexpr Kernels kAvx512Vnni = {
    .name = "avx512vnni",
    .matmul_f32 = avx512::matmul_float<avx512::F32>,
    .matmul_f16 = avx512::matmul_float<avx512::F16>,
    .matmul_bf16 = avx512::matmul_float<avx512::Bf16>,
    .matmul_q4_0 = avx512::matmul_quantized<avx512::Q4_0>,
    .matmul_q4_1 = avx512::matmul_quantized<avx512::Q4_1>,
    .matmul_q5_0 = avx512::matmul_quantized<avx512::Q5_0>,
    .matmul_q5_1 = avx512::matmul_quantized<avx512::Q5_1>,
    .matmul_q8_0 = matmul_q8_0,
    .quantize_row = quantize_row,
    .attend_f32 = avx512::attend<avx512::F32>,
    .attend_f16 = avx512::attend<avx512::F16>,
    .f32_to_f16 = f32_to_f16,
    .f16_to_f32 = f16_to_f32,
    .rms_norm = rms_norm,
    .layer_norm = layer_norm,
    .swiglu = swiglu,
    .gelu = gelu,
    .add_scaled = add_scaled,
};

}  // namespace

const Kernels* avx512vnni_kernels() {
    return &kAvx512Vnni;
}

}  // namespace chatglm::cpu

#else

namespace chatglm::cpu {
const Kernels* avx512vnni_kernels() {
    return nullptr;
}
}  // namespace chatglm::cpu

#endif
