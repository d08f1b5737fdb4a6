// Guesses at the tokens that one reply goes on with.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "generate/ngram_index.h"
#include "generate/speculation.h"

namespace chatglm {

struct Guesses {
    std::vector<int32_t> tokens;   // that may come next
    size_t n_rows = 0;             // of these, in the next step, behind the ids of the reply
    Acceptance* source = nullptr;  // where they come from, which learns whether they were right
    int n_drafted = 0;             // tokens that were in a step, of the whole reply
    int n_accepted = 0;            // of these, those that it has

    NgramIndex index;
    // Of lookups, by the length of the match: what a word or two have in common says little.
    std::array<Acceptance, 3> lookups{Acceptance(0.3), Acceptance(0.6), Acceptance(0.8)};
    Acceptance drafts{0.7};

    void drop() {
        tokens.clear();
        n_rows = 0;
    }
    Acceptance& lookups_of(int match_length) {
        return lookups[match_length < 4 ? 0 : match_length < 10 ? 1 : 2];
    }
};

}  // namespace chatglm
