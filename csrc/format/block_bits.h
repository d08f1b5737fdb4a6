// Levels of a block of 32 to and from ggml's packed bits.
#pragma once

#include <cstdint>

#include "format/dtype.h"

namespace chatglm {

// Element j < 16 is the low nibble of qs[j], element j + 16 the high one.
inline void pack_nibbles(const uint8_t* levels, uint8_t* qs) {
    for (int j = 0; j < kBlockSize / 2; ++j) {
        qs[j] = static_cast<uint8_t>((levels[j] & 15) | (levels[j + kBlockSize / 2] & 15) << 4);
    }
}

inline void unpack_nibbles(const uint8_t* qs, uint8_t* levels) {
    for (int j = 0; j < kBlockSize / 2; ++j) {
        levels[j] = qs[j] & 15;
        levels[j + kBlockSize / 2] = qs[j] >> 4;
    }
}

// Bit j % 8 of qh[j / 8] is the fifth bit of element j.
inline void pack_fifth_bits(const uint8_t* levels, uint8_t* qh) {
    for (int i = 0; i < kBlockSize / 8; ++i) {
        unsigned bits = 0;
        for (int b = 0; b < 8; ++b) bits |= static_cast<unsigned>(levels[8 * i + b] >> 4) << b;
        qh[i] = static_cast<uint8_t>(bits);
    }
}

inline void unpack_fifth_bits(const uint8_t* qh, uint8_t* levels) {
    for (int j = 0; j < kBlockSize; ++j) {
        levels[j] = static_cast<uint8_t>(levels[j] | (qh[j / 8] >> (j % 8) & 1) << 4);
    }
}

}  // namespace chatglm
