// Blocks of the types that are repacked at load.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "core/half.h"
#include "format/super_blocks.h"

namespace chatglm::test {

inline constexpr SuperType kSuperTypes[] = {SuperType::q2_K,  SuperType::q3_K, SuperType::q4_K,
                                            SuperType::q5_K,  SuperType::q6_K, SuperType::iq4_nl,
                                            SuperType::iq4_xs};

// Where the half floats of a block lie: d, and dmin where there is one.
inline std::vector<size_t> scale_offsets(SuperType type) {
    switch (type) {
        case SuperType::q2_K:
            return {offsetof(BlockQ2_K, d), offsetof(BlockQ2_K, dmin)};
        case SuperType::q3_K:
            return {offsetof(BlockQ3_K, d)};
        case SuperType::q6_K:
            return {offsetof(BlockQ6_K, d)};
        case SuperType::q4_K:
        case SuperType::q5_K:
            return {0, 2};
        default:
            return {0};
    }
}

inline void set_half(std::vector<uint8_t>& block, size_t offset, uint16_t bits) {
    std::memcpy(block.data() + offset, &bits, sizeof bits);
}

// The block of `byte(i)` whose halves are `d` and `dmin`.
template <class Byte>
std::vector<uint8_t> make_block(SuperType type, float d, float dmin, const Byte& byte) {
    std::vector<uint8_t> block(static_cast<size_t>(super_type_info(type).block_bytes));
    for (size_t i = 0; i < block.size(); ++i) block[i] = static_cast<uint8_t>(byte(static_cast<int>(i)));
    const auto offsets = scale_offsets(type);
    for (size_t i = 0; i < offsets.size(); ++i) {
        set_half(block, offsets[i], float_to_half(i == 0 ? d : dmin));
    }
    return block;
}

inline std::vector<uint8_t> sample_block(SuperType type, int seed = 3, float d = 0.0123f,
                                         float dmin = -0.0456f) {
    return make_block(type, d, dmin, [seed](int i) { return (i * 37 + 11) * (i + seed) / 7; });
}

}  // namespace chatglm::test
