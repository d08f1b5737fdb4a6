// Layouts of ggml's block types that the engine reads and does not compute with, byte for byte, and their
// unpacking. All but iq4_nl are super-blocks: 256 elements that share two half floats, in sub-blocks of 16 or
// 32 with a small integer scale each.
#pragma once

#include <cstdint>
#include <string_view>

namespace chatglm {

inline constexpr int kSuperBlockSize = 256;

// ggml's numbers.
enum class SuperType : uint32_t {
    q2_K = 10,
    q3_K = 11,
    q4_K = 12,
    q5_K = 13,
    q6_K = 14,
    iq4_nl = 20,
    iq4_xs = 23,
};

struct BlockQ2_K {
    uint8_t scales[16];  // of sub-block i: scale in the low nibble, minimum in the high one
    uint8_t qs[64];      // two bits an element
    uint16_t d, dmin;
};  // w = d * scale * q - dmin * minimum, sub-blocks of 16
struct BlockQ3_K {
    uint8_t hmask[32];   // third bit of every element
    uint8_t qs[64];      // its lower two bits
    uint8_t scales[12];  // 16 of six bits
    uint16_t d;
};  // w = d * (scale - 32) * (q - 4), sub-blocks of 16
struct BlockQ4_K {
    uint16_t d, dmin;
    uint8_t scales[12];  // 8 scales and 8 minima of six bits
    uint8_t qs[128];
};  // w = d * scale * q - dmin * minimum, sub-blocks of 32
struct BlockQ5_K {
    uint16_t d, dmin;
    uint8_t scales[12];
    uint8_t qh[32];  // fifth bit of every element
    uint8_t qs[128];
};  // w = d * scale * q - dmin * minimum, sub-blocks of 32
struct BlockQ6_K {
    uint8_t ql[128];  // lower four bits of every element
    uint8_t qh[64];   // its upper two
    int8_t scales[16];
    uint16_t d;
};  // w = d * scale * (q - 32), sub-blocks of 16
struct BlockIQ4_NL {
    uint16_t d;
    uint8_t qs[16];
};  // w = d * codebook[q], 32 elements
struct BlockIQ4_XS {
    uint16_t d;
    uint16_t scales_h;  // upper two bits of 8 scales
    uint8_t scales_l[4];
    uint8_t qs[128];
};  // w = d * (scale - 32) * codebook[q], sub-blocks of 32
static_assert(sizeof(BlockQ2_K) == 84 && sizeof(BlockQ3_K) == 110 && sizeof(BlockQ4_K) == 144 &&
              sizeof(BlockQ5_K) == 176 && sizeof(BlockQ6_K) == 210 && sizeof(BlockIQ4_NL) == 18 &&
              sizeof(BlockIQ4_XS) == 136);

// A block of any of these types: element j, of sub-block i = j / sub_block, is scale[i] * q[j] - minimum[i].
struct Unpacked {
    int n = kSuperBlockSize;  // elements in use
    int sub_block = 16;       // elements in a sub-block
    int8_t q[kSuperBlockSize];
    float scale[16];
    float minimum[16];  // zeros for the types that have none
};

struct SuperTypeInfo {
    SuperType type;
    const char* name;  // "q4_K"
    int block_size;    // elements in a block
    int block_bytes;
};

// Null when the number or the name is not one of these types.
const SuperTypeInfo* find_super_type(uint32_t ggml_type);
const SuperTypeInfo* find_super_type(std::string_view name);
const SuperTypeInfo& super_type_info(SuperType type);

// One block, which may start at any byte.
void unpack(SuperType type, const void* block, Unpacked& out);

// y (block.n,) f32
void dequantize(const Unpacked& block, float* y);

// One row back: n elements, a whole number of blocks -> dst (n,) f32, the floats of ggml's reference.
void dequantize_row(SuperType type, const void* src, float* dst, int64_t n);

}  // namespace chatglm
