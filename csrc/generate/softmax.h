// Passes over the logits of a whole vocabulary. Compilers vectorize them, and they give the same bits
// everywhere: each sum has one order, written out here, and the exponential is made of additions and
// multiplications only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace chatglm {

// Elements that are summed and searched together: a draw looks at the sums of all blocks, then into one.
constexpr size_t kLogitBlock = 512;

// Whether every logit is a finite number.
bool all_finite(std::span<const float> logits);

// The largest logit of every block; NaN is passed over, and a block of nothing else gives -inf.
void block_maxima(std::span<const float> logits, std::vector<float>& maxima);

// The index of the largest logit, the first of equals; NaN never wins over a number.
int32_t argmax(std::span<const float> logits);

// weights[i] = exp((logits[i] - top) * scale), where no logit is above `top`; 0 for NaN and below 2^-125.
// `sums` gets the sum of every block.
void exponentials(std::span<const float> logits, float top, float scale, std::vector<float>& weights,
                  std::vector<double>& sums);

// Sets every weight below `least` to 0, and `sums` to the new sums.
void drop_below(float least, std::span<float> weights, std::vector<double>& sums);

// The better of two tokens is the one with the larger logit; of equal ones, the one with the smaller index.
// The weights of all that are better than token `i`, together.
double mass_above(std::span<const float> logits, std::span<const float> weights, size_t i);
// Sets the weight of token `i` and of all that are worse to 0, and `sums` to the new sums.
void keep_above(std::span<const float> logits, size_t i, std::span<float> weights, std::vector<double>& sums);

}  // namespace chatglm
