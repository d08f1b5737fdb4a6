// What the text of a reply must look like, decided token by token.
#pragma once

#include <cstdint>
#include <span>

namespace chatglm {

// One object belongs to one reply. Its methods are called in turn, never from two threads at once, but
// perhaps not from the thread that made it. An exception ends the reply.
class Constraint {
  public:
    virtual ~Constraint() = default;

    // Sets bit i % 32 of mask[i / 32] for every token i that may come next; the tokens that end a reply count
    // as any other. The mask comes zeroed and has a bit for each token of the vocabulary.
    virtual void fill_mask(std::span<uint32_t> mask) = 0;

    // Token `id`, which the last mask allowed and which does not end the reply, was chosen. True when the
    // text is complete and nothing can follow it.
    virtual bool accept(int32_t id) = 0;
};

}  // namespace chatglm
