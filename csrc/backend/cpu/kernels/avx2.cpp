// AVX2 + FMA + F16C. This file is compiled with those flags and linked with files that are not, so everything
// in it and in the avx2_*.h headers has internal linkage: an inline function of a shared header emitted here
// could be the copy that the linker keeps for all, and crash older processors. avx512.cpp includes the same
// headers, for what 512 bits do not make faster.
#include "backend/cpu/kernels/kernels.h"

#if defined(__x86_64__) || (defined(_M_X64) && !defined(_M_ARM64EC))

#include "backend/cpu/kernels/avx2_attention.h"
#include "backend/cpu/kernels/avx2_float.h"
#include "backend/cpu/kernels/avx2_quantize.h"
#include "backend/cpu/kernels/avx2_quantized.h"
#include "backend/cpu/kernels/avx2_rows.h"

namespace chatglm::cpu {
namespace {

constexpr Kernels kAvx2 = {
    .name = "avx2",
    .matmul_f32 = matmul_float<F32>,
    .matmul_f16 = matmul_float<F16>,
    .matmul_bf16 = matmul_float<Bf16>,
    .matmul_q4_0 = matmul_quantized<Q4_0>,
    .matmul_q4_1 = matmul_quantized<Q4_1>,
    .matmul_q5_0 = matmul_quantized<Q5_0>,
    .matmul_q5_1 = matmul_quantized<Q5_1>,
    .matmul_q8_0 = matmul_quantized<Q8_0>,
    .quantize_row = quantize_row,
    .attend_f32 = attend<F32>,
    .attend_f16 = attend<F16>,
    .f32_to_f16 = f32_to_f16,
    .f16_to_f32 = f16_to_f32,
    .rms_norm = rms_norm,
    .layer_norm = layer_norm,
    .swiglu = swiglu,
    .gelu = gelu,
    .add_scaled = add_scaled,
};

}  // namespace

const Kernels* avx2_kernels() {
    return &kAvx2;
}

}  // namespace chatglm::cpu

#else

namespace chatglm::cpu {
const Kernels* avx2_kernels() {
    return nullptr;
}
}  // namespace chatglm::cpu

#endif
