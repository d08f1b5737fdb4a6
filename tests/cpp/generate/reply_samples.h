// What tests of replies share.
#pragma once

#include <cstdint>
#include <span>

#include "chatglm/constraint.h"
#include "chatglm/generation.h"

namespace chatglm::test {

inline GenerationConfig greedy(int max_new_tokens) {
    GenerationConfig config;
    config.do_sample = false;
    config.max_new_tokens = max_new_tokens;
    config.max_length = 4096;
    return config;
}

// Three times token 7, then nothing.
class Sevens : public Constraint {
  public:
    void fill_mask(std::span<uint32_t> mask) override { mask[0] = 1u << 7; }
    bool accept(int32_t) override { return ++n_ == 3; }

  private:
    int n_ = 0;
};

}  // namespace chatglm::test
