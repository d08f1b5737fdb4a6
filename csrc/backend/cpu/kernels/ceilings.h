// What a processor does at best with an instruction set, as loops that do nothing else: reading memory, and
// multiplying numbers that the first-level cache and the registers hold. A bench divides by them; no model
// calls them, so they stand apart from the table of kernels.
#pragma once

#include <cstdint>
#include <span>

namespace chatglm::cpu {

struct Ceilings {
    const char* name;  // of the table of kernels that uses the same instructions

    // Ways to read memory once, from end to end: the fastest tells the bandwidth. `bytes` is a multiple of
    // 4096. The result is the exclusive or of all 64-bit words, the same from every way.
    struct Read {
        const char* name;
        uint64_t (*run)(const uint8_t* data, int64_t bytes);
    };
    std::span<const Read> reads;

    // Products, added up. The result depends on all of them and means nothing.
    struct Products {
        int n_summed;       // see int8
        int64_t per_round;  // multiply-adds in a round
        uint64_t (*run)(int64_t rounds);
    };
    // Integers of 8 bits. Widening sums of pairs from 16 to 32 bits costs as much as a product; `n_summed`
    // pairs are added in 16 bits before, which is right while n_summed * 2 * 127 * (largest weight) stays
    // below 2^15. Ascending, the first is 1; instructions that add to 32 bits at once need no more than that.
    std::span<const Products> int8;
    Products f32;
};

// Null when the instruction set was not compiled in.
const Ceilings* generic_ceilings();
const Ceilings* avx2_ceilings();
const Ceilings* avxvnni_ceilings();
const Ceilings* avx512vnni_ceilings();
const Ceilings* neon_ceilings();
const Ceilings* dotprod_ceilings();
const Ceilings* i8mm_ceilings();

// Those of the kernels in use; where these have none of their own, of the next best that has.
const Ceilings& ceilings();

}  // namespace chatglm::cpu
