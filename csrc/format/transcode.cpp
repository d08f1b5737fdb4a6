// Half floats are multiples of 2^-24, and so are their products with the integer scales of sub-blocks: a
// product in the range of subnormal halves is stored exactly, and rounding costs 2^-11 of it at most.
#include "format/transcode.h"

#include <cmath>
#include <cstddef>
#include <cstring>

#include "core/half.h"
#include "format/block_bits.h"
#include "format/quantize.h"

namespace chatglm {
namespace {

bool is_finite(uint16_t half) {
    return (half & 0x7c00) != 0x7c00;
}

bool has_finite_scales(const Unpacked& block) {
    bool finite = true;
    for (int i = 0; i < block.n / block.sub_block; ++i) {
        finite = finite && std::isfinite(block.scale[i]) && std::isfinite(block.minimum[i]);
    }
    return finite;
}

// Sub-block i, of 32 elements, as it is.
bool repack(const Unpacked& in, int i, BlockQ4_1& out) {
    const auto* levels = reinterpret_cast<const uint8_t*>(in.q + i * kBlockSize);
    out.d = float_to_half(in.scale[i]);
    out.m = float_to_half(-in.minimum[i]);
    pack_nibbles(levels, out.qs);
    return is_finite(out.d) && is_finite(out.m);
}

bool repack(const Unpacked& in, int i, BlockQ5_1& out) {
    const auto* levels = reinterpret_cast<const uint8_t*>(in.q + i * kBlockSize);
    out.d = float_to_half(in.scale[i]);
    out.m = float_to_half(-in.minimum[i]);
    pack_nibbles(levels, out.qs);
    pack_fifth_bits(levels, out.qh);
    return is_finite(out.d) && is_finite(out.m);
}

bool repack(const Unpacked& in, int i, BlockQ8_0& out) {
    out.d = float_to_half(in.scale[i]);
    std::memcpy(out.qs, in.q + i * kBlockSize, sizeof out.qs);
    return is_finite(out.d);
}

template <class Block>
bool repack_block(const Unpacked& in, uint8_t* dst) {
    bool fits = true;
    for (int i = 0; i < in.n / kBlockSize; ++i, dst += sizeof(Block)) {
        Block block;
        fits = repack(in, i, block) && fits;
        std::memcpy(dst, &block, sizeof block);
    }
    return fits;
}

// Two sub-blocks of 16 share a block of 32.
bool requantize_block(const Unpacked& in, uint8_t* dst) {
    float values[kSuperBlockSize];
    dequantize(in, values);
    quantize_row(DType::q8_0, values, dst, in.n);
    bool fits = true;
    for (int i = 0; i < in.n / kBlockSize; ++i) {
        uint16_t d;
        std::memcpy(&d, dst + static_cast<size_t>(i) * sizeof(BlockQ8_0) + offsetof(BlockQ8_0, d), sizeof d);
        fits = fits && is_finite(d);
    }
    return fits;
}

bool transcode_block(SuperType type, const Unpacked& in, uint8_t* dst) {
    switch (type) {
        case SuperType::q4_K:
            return repack_block<BlockQ4_1>(in, dst);
        case SuperType::q5_K:
            return repack_block<BlockQ5_1>(in, dst);
        case SuperType::iq4_nl:
        case SuperType::iq4_xs:
            return repack_block<BlockQ8_0>(in, dst);
        case SuperType::q2_K:
        case SuperType::q3_K:
        case SuperType::q6_K:
            break;
    }
    return requantize_block(in, dst);
}

}  // namespace

DType transcoded_type(SuperType type) {
    switch (type) {
        case SuperType::q4_K:
            return DType::q4_1;
        case SuperType::q5_K:
            return DType::q5_1;
        default:
            return DType::q8_0;
    }
}

bool transcode_row(SuperType type, const void* src, void* dst, int64_t n) {
    const SuperTypeInfo& info = super_type_info(type);
    const int64_t out_bytes = row_bytes(transcoded_type(type), info.block_size);
    const auto* in = static_cast<const uint8_t*>(src);
    auto* out = static_cast<uint8_t*>(dst);
    bool fits = true;
    Unpacked block;
    for (int64_t i = 0; i + info.block_size <= n; i += info.block_size) {
        unpack(type, in, block);
        fits = transcode_block(type, block, out) && has_finite_scales(block) && fits;
        in += info.block_bytes;
        out += out_bytes;
    }
    return fits;
}

}  // namespace chatglm
