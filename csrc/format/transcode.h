// Types that the engine reads and does not compute with, repacked as types that it computes with.
#pragma once

#include <cstdint>

#include "format/dtype.h"
#include "format/super_blocks.h"

namespace chatglm {

// The type that keeps the most of `type`.
//
// q4_K and q5_K become q4_1 and q5_1: the codes stay, the products of the scales are rounded to half floats.
// iq4_nl and iq4_xs become q8_0, whose codes are the values of the codebook: the former exactly, the latter
// with the same rounding. q2_K, q3_K and q6_K have other scales every 16 elements and are quantized anew as
// q8_0; of Gaussian weights that adds to the mean squared error that they have already 0.03 %, 0.05 % and
// 5.5 %.
DType transcoded_type(SuperType type);

// One row: n elements, a whole number of blocks of `type` -> row_bytes(transcoded_type(type), n) at dst.
// False when a scale is not finite, or so large that a half float cannot hold it; the row is whole then too.
bool transcode_row(SuperType type, const void* src, void* dst, int64_t n);

}  // namespace chatglm
