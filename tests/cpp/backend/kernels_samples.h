// What tests of kernels share.
#pragma once

#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "backend/cpu/kernels/kernels.h"

namespace chatglm::test {

inline constexpr float kInf = std::numeric_limits<float>::infinity();

inline std::vector<const cpu::Kernels*> tables() {
    int count = 0;
    const cpu::Kernels* const* found = cpu::runnable_kernels(&count);
    return {found, found + count};
}

inline std::vector<float> random_floats(int64_t n, uint32_t seed, float scale = 1.0f) {
    std::mt19937 engine(seed);
    std::normal_distribution<float> normal(0.0f, scale);
    std::vector<float> v(static_cast<size_t>(n));
    for (float& x : v) x = normal(engine);
    return v;
}

inline bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// |a - b| <= tolerance[i] for each i, or both NaN or the same infinity.
inline void check_near(const std::vector<float>& actual, const std::vector<double>& expected,
                       const std::vector<double>& tolerance) {
    REQUIRE(actual.size() == expected.size());
    for (size_t i = 0; i < actual.size(); ++i) {
        if (std::isnan(expected[i]) && std::isnan(actual[i])) continue;
        if (expected[i] == static_cast<double>(actual[i])) continue;
        const double error = std::fabs(static_cast<double>(actual[i]) - expected[i]);
        if (error <= tolerance[i]) continue;
        INFO("element " << i << ": " << actual[i] << " instead of " << expected[i] << ", tolerance "
                        << tolerance[i]);
        CHECK(error <= tolerance[i]);
        return;
    }
}

}  // namespace chatglm::test
