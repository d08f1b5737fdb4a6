// Each float operation is in the order of ggml's reference; without contraction (see quantize.cpp) the
// results are the same to the bit.
#include "format/super_blocks.h"

#include <cstring>

#include "core/half.h"

namespace chatglm {
namespace {

constexpr SuperTypeInfo kTypes[] = {
    {SuperType::q2_K, "q2_K", kSuperBlockSize, sizeof(BlockQ2_K)},
    {SuperType::q3_K, "q3_K", kSuperBlockSize, sizeof(BlockQ3_K)},
    {SuperType::q4_K, "q4_K", kSuperBlockSize, sizeof(BlockQ4_K)},
    {SuperType::q5_K, "q5_K", kSuperBlockSize, sizeof(BlockQ5_K)},
    {SuperType::q6_K, "q6_K", kSuperBlockSize, sizeof(BlockQ6_K)},
    {SuperType::iq4_nl, "iq4_nl", 32, sizeof(BlockIQ4_NL)},
    {SuperType::iq4_xs, "iq4_xs", kSuperBlockSize, sizeof(BlockIQ4_XS)},
};

constexpr int8_t kCodebook[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

void set_layout(Unpacked& out, int n, int sub_block) {
    out.n = n;
    out.sub_block = sub_block;
    std::memset(out.minimum, 0, sizeof out.minimum);
}

// The 8 scales and 8 minima of q4_K and q5_K, six bits each. The first four of both lie in the low bits of
// bytes 0-3 and 4-7; the others in the nibbles of bytes 8-11 below the two high bits of bytes 0-3 and 4-7.
void unpack_scales(const uint8_t* packed, uint16_t d_bits, uint16_t dmin_bits, Unpacked& out) {
    const float d = half_to_float(d_bits), dmin = half_to_float(dmin_bits);
    for (int i = 0; i < 4; ++i) {
        const uint8_t scale = packed[i], minimum = packed[i + 4], rest = packed[i + 8];
        out.scale[i] = d * static_cast<float>(scale & 63);
        out.minimum[i] = dmin * static_cast<float>(minimum & 63);
        out.scale[i + 4] = d * static_cast<float>((rest & 15) | (scale >> 6) << 4);
        out.minimum[i + 4] = dmin * static_cast<float>((rest >> 4) | (minimum >> 6) << 4);
    }
}

// 128 bytes of nibbles: each 32 bytes hold 32 elements in their low halves, then 32 in their high ones.
void unpack_nibble_pairs(const uint8_t* qs, int8_t* q) {
    for (int i = 0; i < 4; ++i, qs += 32, q += 64) {
        for (int j = 0; j < 32; ++j) {
            q[j] = static_cast<int8_t>(qs[j] & 15);
            q[j + 32] = static_cast<int8_t>(qs[j] >> 4);
        }
    }
}

// 64 bytes of two bits an element: each 32 bytes hold 4 groups of 32 elements, the lowest bits first.
void unpack_bit_pairs(const uint8_t* qs, int8_t* q) {
    for (int half = 0; half < 2; ++half, qs += 32) {
        for (int shift = 0; shift < 8; shift += 2, q += 32) {
            for (int j = 0; j < 32; ++j) q[j] = static_cast<int8_t>(qs[j] >> shift & 3);
        }
    }
}

// 16 bytes of indices into the codebook, of 32 elements.
void unpack_codes(const uint8_t* qs, int8_t* q) {
    for (int j = 0; j < 16; ++j) {
        q[j] = kCodebook[qs[j] & 15];
        q[j + 16] = kCodebook[qs[j] >> 4];
    }
}

void unpack(const BlockQ2_K& block, Unpacked& out) {
    set_layout(out, kSuperBlockSize, 16);
    const float d = half_to_float(block.d), dmin = half_to_float(block.dmin);
    for (int i = 0; i < 16; ++i) {
        out.scale[i] = d * static_cast<float>(block.scales[i] & 15);
        out.minimum[i] = dmin * static_cast<float>(block.scales[i] >> 4);
    }
    unpack_bit_pairs(block.qs, out.q);
}

void unpack(const BlockQ3_K& block, Unpacked& out) {
    set_layout(out, kSuperBlockSize, 16);
    const float d = half_to_float(block.d);
    for (int i = 0; i < 16; ++i) {
        // Four bits in the nibbles of bytes 0-7, the upper two in the bit pairs of bytes 8-11.
        const int low = block.scales[i % 8] >> (i / 8 * 4) & 15;
        const int high = block.scales[8 + i % 4] >> (i / 4 * 2) & 3;
        out.scale[i] = d * static_cast<float>((low | high << 4) - 32);
    }
    unpack_bit_pairs(block.qs, out.q);
    for (int bit = 0; bit < 8; ++bit) {
        int8_t* q = out.q + 32 * bit;
        for (int j = 0; j < 32; ++j) {
            q[j] = static_cast<int8_t>(q[j] + (block.hmask[j] >> bit & 1) * 4 - 4);
        }
    }
}

void unpack(const BlockQ4_K& block, Unpacked& out) {
    set_layout(out, kSuperBlockSize, 32);
    unpack_scales(block.scales, block.d, block.dmin, out);
    unpack_nibble_pairs(block.qs, out.q);
}

void unpack(const BlockQ5_K& block, Unpacked& out) {
    set_layout(out, kSuperBlockSize, 32);
    unpack_scales(block.scales, block.d, block.dmin, out);
    unpack_nibble_pairs(block.qs, out.q);
    for (int bit = 0; bit < 8; ++bit) {
        int8_t* q = out.q + 32 * bit;
        for (int j = 0; j < 32; ++j) q[j] = static_cast<int8_t>(q[j] | (block.qh[j] >> bit & 1) << 4);
    }
}

void unpack(const BlockQ6_K& block, Unpacked& out) {
    set_layout(out, kSuperBlockSize, 16);
    const float d = half_to_float(block.d);
    for (int i = 0; i < 16; ++i) out.scale[i] = d * static_cast<float>(block.scales[i]);
    // 128 elements: 64 bytes of lower nibbles (64 elements low, 64 high), 32 bytes of upper bit pairs.
    for (int half = 0; half < 2; ++half) {
        const uint8_t *ql = block.ql + 64 * half, *qh = block.qh + 32 * half;
        int8_t* q = out.q + 128 * half;
        for (int j = 0; j < 32; ++j) {
            q[j] = static_cast<int8_t>(((ql[j] & 15) | (qh[j] & 3) << 4) - 32);
            q[j + 32] = static_cast<int8_t>(((ql[j + 32] & 15) | (qh[j] >> 2 & 3) << 4) - 32);
            q[j + 64] = static_cast<int8_t>(((ql[j] >> 4) | (qh[j] >> 4 & 3) << 4) - 32);
            q[j + 96] = static_cast<int8_t>(((ql[j + 32] >> 4) | (qh[j] >> 6) << 4) - 32);
        }
    }
}

void unpack(const BlockIQ4_NL& block, Unpacked& out) {
    set_layout(out, 32, 32);
    out.scale[0] = half_to_float(block.d);
    unpack_codes(block.qs, out.q);
}

void unpack(const BlockIQ4_XS& block, Unpacked& out) {
    set_layout(out, kSuperBlockSize, 32);
    const float d = half_to_float(block.d);
    for (int i = 0; i < 8; ++i) {
        const int low = block.scales_l[i / 2] >> (i % 2 * 4) & 15;
        const int high = block.scales_h >> (2 * i) & 3;
        out.scale[i] = d * static_cast<float>((low | high << 4) - 32);
        unpack_codes(block.qs + 16 * i, out.q + 32 * i);
    }
}

template <class Block>
void unpack_as(const void* bytes, Unpacked& out) {
    Block block;
    std::memcpy(&block, bytes, sizeof block);
    unpack(block, out);
}

}  // namespace

const SuperTypeInfo* find_super_type(uint32_t ggml_type) {
    for (const SuperTypeInfo& info : kTypes) {
        if (static_cast<uint32_t>(info.type) == ggml_type) return &info;
    }
    return nullptr;
}

const SuperTypeInfo* find_super_type(std::string_view name) {
    for (const SuperTypeInfo& info : kTypes) {
        if (name == info.name) return &info;
    }
    return nullptr;
}

const SuperTypeInfo& super_type_info(SuperType type) {
    const SuperTypeInfo* info = find_super_type(static_cast<uint32_t>(type));
    return info ? *info : kTypes[0];  // every enumerator is in the table
}

void unpack(SuperType type, const void* block, Unpacked& out) {
    switch (type) {
        case SuperType::q2_K:
            return unpack_as<BlockQ2_K>(block, out);
        case SuperType::q3_K:
            return unpack_as<BlockQ3_K>(block, out);
        case SuperType::q4_K:
            return unpack_as<BlockQ4_K>(block, out);
        case SuperType::q5_K:
            return unpack_as<BlockQ5_K>(block, out);
        case SuperType::q6_K:
            return unpack_as<BlockQ6_K>(block, out);
        case SuperType::iq4_nl:
            return unpack_as<BlockIQ4_NL>(block, out);
        case SuperType::iq4_xs:
            return unpack_as<BlockIQ4_XS>(block, out);
    }
}

void dequantize(const Unpacked& block, float* y) {
    for (int begin = 0; begin < block.n; begin += block.sub_block) {
        const float scale = block.scale[begin / block.sub_block];
        const float minimum = block.minimum[begin / block.sub_block];
        for (int j = begin; j < begin + block.sub_block; ++j) {
            y[j] = scale * static_cast<float>(block.q[j]) - minimum;
        }
    }
}

void dequantize_row(SuperType type, const void* src, float* dst, int64_t n) {
    const SuperTypeInfo& info = super_type_info(type);
    const auto* in = static_cast<const uint8_t*>(src);
    Unpacked block;
    for (int64_t i = 0; i + info.block_size <= n; i += info.block_size, in += info.block_bytes) {
        unpack(type, in, block);
        dequantize(block, dst + i);
    }
}

}  // namespace chatglm
