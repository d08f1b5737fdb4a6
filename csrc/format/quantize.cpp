// The reference quantizers. Each float operation is in the order of ggml's reference, and this file must be
// compiled without contraction (-ffp-contract=off): one fused multiply-add moves values across rounding ties.
#include "format/quantize.h"

#include <cmath>
#include <cstring>

#include "core/half.h"
#include "format/block_bits.h"

namespace chatglm {
namespace {

struct Range {
    float min, max;
};

// Lanes instead of one running minimum let the compiler use vector instructions; NaN compares false and is
// skipped.
Range block_range(const float* x) {
    constexpr int kLanes = 8;
    float lo[kLanes], hi[kLanes];
    for (int i = 0; i < kLanes; ++i) lo[i] = hi[i] = x[i];
    for (int j = kLanes; j < kBlockSize; j += kLanes) {
        for (int i = 0; i < kLanes; ++i) {
            lo[i] = x[j + i] < lo[i] ? x[j + i] : lo[i];
            hi[i] = x[j + i] > hi[i] ? x[j + i] : hi[i];
        }
    }
    Range range{lo[0], hi[0]};
    for (int i = 1; i < kLanes; ++i) {
        range.min = lo[i] < range.min ? lo[i] : range.min;
        range.max = hi[i] > range.max ? hi[i] : range.max;
    }
    return range;
}

// The value of largest magnitude with its sign; of equal ones the first, so that its sign is well defined.
float signed_absmax(const float* x) {
    const Range range = block_range(x);
    if (range.max > -range.min) return range.max;
    if (range.max < -range.min) return range.min;
    for (int j = 0; j < kBlockSize; ++j) {
        if (std::fabs(x[j]) == range.max) return x[j];
    }
    return range.max;  // NaN
}

float reciprocal(float d) {
    return d != 0.0f ? 1.0f / d : 0.0f;
}

// Truncated to an integer in [0, top]; NaN gives 0. Only rows with NaN, infinity or denormals leave that
// range.
uint8_t to_level(float v, float top) {
    v = v > 0.0f ? v : 0.0f;
    v = v < top ? v : top;
    return static_cast<uint8_t>(static_cast<int>(v));
}

void quantize(const float* x, BlockQ4_0& block) {
    const float d = signed_absmax(x) / -8.0f;
    const float id = reciprocal(d);
    block.d = float_to_half(d);
    uint8_t levels[kBlockSize];
    for (int j = 0; j < kBlockSize; ++j) levels[j] = to_level(x[j] * id + 8.5f, 15.0f);
    pack_nibbles(levels, block.qs);
}

void quantize(const float* x, BlockQ4_1& block) {
    const Range range = block_range(x);
    const float d = (range.max - range.min) / 15.0f;
    const float id = reciprocal(d);
    block.d = float_to_half(d);
    block.m = float_to_half(range.min);
    uint8_t levels[kBlockSize];
    for (int j = 0; j < kBlockSize; ++j) levels[j] = to_level((x[j] - range.min) * id + 0.5f, 15.0f);
    pack_nibbles(levels, block.qs);
}

void quantize(const float* x, BlockQ5_0& block) {
    const float d = signed_absmax(x) / -16.0f;
    const float id = reciprocal(d);
    block.d = float_to_half(d);
    uint8_t levels[kBlockSize];
    for (int j = 0; j < kBlockSize; ++j) levels[j] = to_level(x[j] * id + 16.5f, 31.0f);
    pack_nibbles(levels, block.qs);
    pack_fifth_bits(levels, block.qh);
}

void quantize(const float* x, BlockQ5_1& block) {
    const Range range = block_range(x);
    const float d = (range.max - range.min) / 31.0f;
    const float id = reciprocal(d);
    block.d = float_to_half(d);
    block.m = float_to_half(range.min);
    uint8_t levels[kBlockSize];
    for (int j = 0; j < kBlockSize; ++j) levels[j] = to_level((x[j] - range.min) * id + 0.5f, 31.0f);
    pack_nibbles(levels, block.qs);
    pack_fifth_bits(levels, block.qh);
}

// Halves away from zero, unlike the quantization of activations: the file format fixes it.
int round_half_away(float v) {
    v = v > -127.0f ? v : -127.0f;  // also NaN
    v = v < 127.0f ? v : 127.0f;
    const int whole = static_cast<int>(v);
    const float rest = v - static_cast<float>(whole);  // exact
    return whole + static_cast<int>(2.0f * rest);
}

void quantize(const float* x, BlockQ8_0& block) {
    const Range range = block_range(x);
    const float d = std::fabs(range.max > -range.min ? range.max : range.min) / 127.0f;
    const float id = reciprocal(d);
    block.d = float_to_half(d);
    int codes[kBlockSize];  // narrowed in a loop of its own: in one, GCC 12 uses no vectors
    for (int j = 0; j < kBlockSize; ++j) codes[j] = round_half_away(x[j] * id);
    for (int j = 0; j < kBlockSize; ++j) block.qs[j] = static_cast<int8_t>(codes[j]);
}

void dequantize(const BlockQ4_0& block, float* y) {
    const float d = half_to_float(block.d);
    uint8_t levels[kBlockSize];
    unpack_nibbles(block.qs, levels);
    for (int j = 0; j < kBlockSize; ++j) y[j] = d * static_cast<float>(levels[j] - 8);
}

void dequantize(const BlockQ4_1& block, float* y) {
    const float d = half_to_float(block.d), m = half_to_float(block.m);
    uint8_t levels[kBlockSize];
    unpack_nibbles(block.qs, levels);
    for (int j = 0; j < kBlockSize; ++j) y[j] = d * static_cast<float>(levels[j]) + m;
}

void dequantize(const BlockQ5_0& block, float* y) {
    const float d = half_to_float(block.d);
    uint8_t levels[kBlockSize];
    unpack_nibbles(block.qs, levels);
    unpack_fifth_bits(block.qh, levels);
    for (int j = 0; j < kBlockSize; ++j) y[j] = d * static_cast<float>(levels[j] - 16);
}

void dequantize(const BlockQ5_1& block, float* y) {
    const float d = half_to_float(block.d), m = half_to_float(block.m);
    uint8_t levels[kBlockSize];
    unpack_nibbles(block.qs, levels);
    unpack_fifth_bits(block.qh, levels);
    for (int j = 0; j < kBlockSize; ++j) y[j] = d * static_cast<float>(levels[j]) + m;
}

void dequantize(const BlockQ8_0& block, float* y) {
    const float d = half_to_float(block.d);
    for (int j = 0; j < kBlockSize; ++j) y[j] = d * static_cast<float>(block.qs[j]);
}

// Blocks go through memcpy because a row in a mapped file may start at any byte.
template <class Block>
void quantize_blocks(const float* src, void* dst, int64_t n) {
    char* out = static_cast<char*>(dst);
    for (int64_t i = 0; i + kBlockSize <= n; i += kBlockSize, out += sizeof(Block)) {
        Block block;
        quantize(src + i, block);
        std::memcpy(out, &block, sizeof(Block));
    }
}

template <class Block>
void dequantize_blocks(const void* src, float* dst, int64_t n) {
    const char* in = static_cast<const char*>(src);
    for (int64_t i = 0; i + kBlockSize <= n; i += kBlockSize, in += sizeof(Block)) {
        Block block;
        std::memcpy(&block, in, sizeof(Block));
        dequantize(block, dst + i);
    }
}

template <uint16_t (*convert)(float)>
void narrow(const float* src, void* dst, int64_t n) {
    char* out = static_cast<char*>(dst);
    for (int64_t i = 0; i < n; ++i) {
        const uint16_t bits = convert(src[i]);
        std::memcpy(out + 2 * i, &bits, 2);
    }
}

template <float (*convert)(uint16_t)>
void widen(const void* src, float* dst, int64_t n) {
    const char* in = static_cast<const char*>(src);
    for (int64_t i = 0; i < n; ++i) {
        uint16_t bits;
        std::memcpy(&bits, in + 2 * i, 2);
        dst[i] = convert(bits);
    }
}

}  // namespace

void quantize_row(DType type, const float* src, void* dst, int64_t n) {
    if (n <= 0) return;
    switch (type) {
        case DType::f32:
            std::memcpy(dst, src, static_cast<size_t>(n) * sizeof(float));
            return;
        case DType::f16:
            return narrow<float_to_half>(src, dst, n);
        case DType::bf16:
            return narrow<float_to_bf16>(src, dst, n);
        case DType::q4_0:
            return quantize_blocks<BlockQ4_0>(src, dst, n);
        case DType::q4_1:
            return quantize_blocks<BlockQ4_1>(src, dst, n);
        case DType::q5_0:
            return quantize_blocks<BlockQ5_0>(src, dst, n);
        case DType::q5_1:
            return quantize_blocks<BlockQ5_1>(src, dst, n);
        case DType::q8_0:
            return quantize_blocks<BlockQ8_0>(src, dst, n);
    }
}

void dequantize_row(DType type, const void* src, float* dst, int64_t n) {
    if (n <= 0) return;
    switch (type) {
        case DType::f32:
            std::memcpy(dst, src, static_cast<size_t>(n) * sizeof(float));
            return;
        case DType::f16:
            return widen<half_to_float>(src, dst, n);
        case DType::bf16:
            return widen<bf16_to_float>(src, dst, n);
        case DType::q4_0:
            return dequantize_blocks<BlockQ4_0>(src, dst, n);
        case DType::q4_1:
            return dequantize_blocks<BlockQ4_1>(src, dst, n);
        case DType::q5_0:
            return dequantize_blocks<BlockQ5_0>(src, dst, n);
        case DType::q5_1:
            return dequantize_blocks<BlockQ5_1>(src, dst, n);
        case DType::q8_0:
            return dequantize_blocks<BlockQ8_0>(src, dst, n);
    }
}

}  // namespace chatglm
