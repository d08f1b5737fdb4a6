// The table of a level of the ARM architecture (class L, see neon_quantized.h): the levels differ in how they
// multiply bytes and in nothing else.
// Part of neon.cpp, dotprod.cpp and i8mm.cpp and of no other file: see avx2.cpp why everything has internal
// linkage.
#pragma once

#include "backend/cpu/kernels/neon_attention.h"
#include "backend/cpu/kernels/neon_float.h"
#include "backend/cpu/kernels/neon_quantized.h"
#include "backend/cpu/kernels/neon_rows.h"

namespace chatglm::cpu {
namespace {

template <class L>
constexpr Kernels neon_table(const char* name) {
    return {
        .name = name,
        .matmul_f32 = matmul_float<F32>,
        .matmul_f16 = matmul_float<F16>,
        .matmul_bf16 = matmul_float<Bf16>,
        .matmul_q4_0 = matmul_quantized<L, Q4_0>,
        .matmul_q4_1 = matmul_quantized<L, Q4_1>,
        .matmul_q5_0 = matmul_quantized<L, Q5_0>,
        .matmul_q5_1 = matmul_quantized<L, Q5_1>,
        .matmul_q8_0 = matmul_quantized<L, Q8_0>,
        .quantize_row = quantize_row,
        .attend_f32 = attend<F32>,
        .attend_f16 = attend<F16>,
        .attend_q8_0 = attend_blocks<matmul_quantized<L, Q8_0>>,
        .f32_to_f16 = f32_to_f16,
        .f16_to_f32 = f16_to_f32,
        .rms_norm = rms_norm,
        .layer_norm = layer_norm,
        .swiglu = swiglu,
        .gelu = gelu,
        .add_scaled = add_scaled,
    };
}

}  // namespace
}  // namespace chatglm::cpu
