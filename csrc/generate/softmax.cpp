#include "generate/softmax.h"

#include <algorithm>
#include <bit>
#include <limits>

namespace chatglm {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
// Independent lanes of a sum or a maximum. So many keep the loop over them a loop, which compilers vectorize.
constexpr size_t kLanes = 64;

// `weight` where `kept`, else 0, by a mask: what is read in every case can be read in vectors.
inline float part(bool kept, float weight) {
    return std::bit_cast<float>(std::bit_cast<uint32_t>(weight) & (0u - static_cast<uint32_t>(kept)));
}

// 2^y for y <= 0 as 2^n * 2^f with a whole n and |f| <= 1/2; the Taylor series of 2^f up to f^6 is off by
// less than 1.3e-7, the last place of a float. Its terms are added in pairs, which takes fewer steps one
// after the other than Horner's order. 2^0 is exactly 1.
inline float exp2_of(float y) {
    constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it leaves no place behind the point
    constexpr double kLn2 = 0.693147180559945309;
    constexpr float k1 = static_cast<float>(kLn2), k2 = static_cast<float>(kLn2 * kLn2 / 2);
    constexpr float k3 = static_cast<float>(kLn2 * kLn2 * kLn2 / 6);
    constexpr float k4 = static_cast<float>(kLn2 * kLn2 * kLn2 * kLn2 / 24);
    constexpr float k5 = static_cast<float>(kLn2 * kLn2 * kLn2 * kLn2 * kLn2 / 120);
    constexpr float k6 = static_cast<float>(kLn2 * kLn2 * kLn2 * kLn2 * kLn2 * kLn2 / 720);
    const float shifted = y + kRound;
    const float f = y - (shifted - kRound);
    const float f2 = f * f;
    const float p = ((1.0f + k1 * f) + f2 * (k2 + k3 * f)) + (f2 * f2) * ((k4 + k5 * f) + f2 * k6);
    const uint32_t bits = std::bit_cast<uint32_t>(p) + (std::bit_cast<uint32_t>(shifted) << 23);
    return part(y >= -125.0f, std::bit_cast<float>(bits));  // NaN too gives 0
}

// f(0) + ... + f(n - 1), for n up to a block.
template <class F>
double sum(size_t n, const F& f) {
    float lanes[kLanes] = {};
    size_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
        for (size_t j = 0; j < kLanes; ++j) lanes[j] += f(i + j);
    }
    for (size_t j = 0; i + j < n; ++j) lanes[j] += f(i + j);
    for (size_t half = kLanes / 2; half >= 1; half /= 2) {
        for (size_t j = 0; j < half; ++j) lanes[j] += lanes[half + j];
    }
    return static_cast<double>(lanes[0]);
}

float maximum(const float* in, size_t n) {
    float lanes[kLanes];
    std::fill(lanes, lanes + kLanes, -kInfinity);
    size_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
        for (size_t j = 0; j < kLanes; ++j) lanes[j] = in[i + j] > lanes[j] ? in[i + j] : lanes[j];
    }
    for (size_t j = 0; i + j < n; ++j) lanes[j] = in[i + j] > lanes[j] ? in[i + j] : lanes[j];
    return *std::max_element(lanes, lanes + kLanes);
}

// Calls f(begin, n) for every block of `size` elements.
template <class F>
void for_blocks(size_t size, const F& f) {
    for (size_t i = 0; i < size; i += kLogitBlock) f(i, std::min(kLogitBlock, size - i));
}

// Calls f(begin, n, ties) for pieces of `size` elements, none longer than a block. `ties` says whether an
// element of a piece that equals the one at `i` is better than it.
template <class F>
void for_pieces(size_t size, size_t i, const F& f) {
    for_blocks(size, [&](size_t begin, size_t n) {
        if (i < begin || i >= begin + n) {
            f(begin, n, begin < i);
        } else {
            f(begin, i - begin, true);
            f(i, begin + n - i, false);
        }
    });
}

}  // namespace

bool all_finite(std::span<const float> logits) {
    constexpr uint32_t kExponent = 0x7F800000;
    uint32_t bad = 0;
    for (const float logit : logits) {
        bad |= (std::bit_cast<uint32_t>(logit) & kExponent) == kExponent ? 1u : 0u;
    }
    return bad == 0;
}

void block_maxima(std::span<const float> logits, std::vector<float>& maxima) {
    maxima.clear();
    for_blocks(logits.size(),
               [&](size_t begin, size_t n) { maxima.push_back(maximum(logits.data() + begin, n)); });
}

int32_t argmax(std::span<const float> logits) {
    std::vector<float> maxima;
    block_maxima(logits, maxima);
    if (maxima.empty()) return 0;
    const auto best = std::max_element(maxima.begin(), maxima.end());  // the first of equals
    const size_t begin = static_cast<size_t>(best - maxima.begin()) * kLogitBlock;
    for (size_t i = begin; i < logits.size(); ++i) {
        if (logits[i] == *best) return static_cast<int32_t>(i);
    }
    return 0;  // nothing but NaN
}

void exponentials(std::span<const float> logits, float top, float scale, std::vector<float>& weights,
                  std::vector<double>& sums) {
    constexpr float kLog2e = 1.44269504088896f;
    const float scale2 = std::min(scale * kLog2e, std::numeric_limits<float>::max());
    weights.resize(logits.size());
    sums.clear();
    for_blocks(logits.size(), [&](size_t begin, size_t n) {
        const float* in = logits.data() + begin;
        float* out = weights.data() + begin;
        for (size_t i = 0; i < n; ++i) out[i] = exp2_of((in[i] - top) * scale2);
        sums.push_back(sum(n, [=](size_t i) { return out[i]; }));
    });
}

void drop_below(float least, std::span<float> weights, std::vector<double>& sums) {
    sums.clear();
    for_blocks(weights.size(), [&](size_t begin, size_t n) {
        float* w = weights.data() + begin;
        for (size_t i = 0; i < n; ++i) w[i] = part(w[i] >= least, w[i]);
        sums.push_back(sum(n, [=](size_t i) { return w[i]; }));
    });
}

double mass_above(std::span<const float> logits, std::span<const float> weights, size_t i) {
    const float edge = logits[i];
    double mass = 0;
    for_pieces(logits.size(), i, [&](size_t begin, size_t n, bool ties) {
        const float* x = logits.data() + begin;
        const float* w = weights.data() + begin;
        mass += ties ? sum(n, [=](size_t j) { return part(x[j] >= edge, w[j]); })
                     : sum(n, [=](size_t j) { return part(x[j] > edge, w[j]); });
    });
    return mass;
}

void keep_above(std::span<const float> logits, size_t i, std::span<float> weights,
                std::vector<double>& sums) {
    const float edge = logits[i];
    for_pieces(logits.size(), i, [&](size_t begin, size_t n, bool ties) {
        const float* x = logits.data() + begin;
        float* w = weights.data() + begin;
        if (ties) {
            for (size_t j = 0; j < n; ++j) w[j] = part(x[j] >= edge, w[j]);
        } else {
            for (size_t j = 0; j < n; ++j) w[j] = part(x[j] > edge, w[j]);
        }
    });
    sums.clear();
    for_blocks(weights.size(), [&](size_t begin, size_t n) {
        const float* w = weights.data() + begin;
        sums.push_back(sum(n, [=](size_t j) { return w[j]; }));
    });
}

}  // namespace chatglm
