// The ceilings of this machine with some threads, measured.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "format/dtype.h"

namespace chatglm {

struct MeasuredCeilings {
    int n_threads = 0;
    std::string isa;       // of the loops
    double read_rate = 0;  // bytes a second
    std::string read_way;  // the fastest way to read
    struct Int8 {
        int n_summed = 1;  // pairs added in 16 bits before they are widened
        double rate = 0;   // multiply-adds a second
    };
    std::vector<Int8> int8;
    double f32_rate = 0;  // multiply-adds a second

    // The peak for weights of a type: of int8 the fastest whose 16-bit sums cannot overflow, f32 for floats.
    double product_rate(DType type) const;
};

// Takes about a second; other processes that share the processors disturb it little. `interrupted` is asked
// between them; throws Interrupted when it says true.
MeasuredCeilings measure_ceilings(int n_threads, const std::function<bool()>& interrupted);

}  // namespace chatglm
