// Where the last tokens of a text stood in it before.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace chatglm {

// Prompt lookup decoding (Saxena, 2023): what followed the last tokens when they came earlier is a guess at
// what follows them now. An index of all n-grams of two lengths, in which a new token costs a few operations
// and 16 to 24 bytes.
class NgramIndex {
  public:
    struct Match {
        size_t next = 0;  // where the text goes on that began as its end does
        int length = 0;   // tokens before `next` that are the last ones too, at most kLongest; 0: none
    };

    static constexpr int kShortest = 2;
    static constexpr int kLongest = 32;

    // The longest match of the end of `ids`, the latest of several: which holds the ids of earlier calls and
    // perhaps more behind them. Of very many places that begin alike only the latest are looked at.
    Match find(std::span<const int32_t> ids);

    size_t bytes() const;

  private:
    // Places behind an n-gram: the latest with a hash, and from each the one before it. A place is 0 for
    // none; different n-grams may have one hash, so what is found is compared.
    struct Table {
        std::vector<uint32_t> latest;  // (a power of two), by the hash
        std::vector<uint32_t> before;  // (n_ids + 1), by the place
    };

    void add(Table& table, int n, std::span<const int32_t> ids, size_t place);
    void grow(Table& table, int n, std::span<const int32_t> ids);

    // Long n-grams find what is being copied among many places that are alike for a word or two.
    static constexpr std::array<int, 2> kLengths{6, kShortest};
    std::array<Table, kLengths.size()> tables_;
    size_t n_indexed_ = 0;
};

}  // namespace chatglm
