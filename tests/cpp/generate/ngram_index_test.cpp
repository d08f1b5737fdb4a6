#include "generate/ngram_index.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <random>

using namespace chatglm;

namespace {

std::vector<int32_t> text(size_t n, int n_words, unsigned seed) {
    std::mt19937 random(seed);
    std::vector<int32_t> ids(n);
    for (int32_t& id : ids) id = static_cast<int32_t>(random() % static_cast<unsigned>(n_words));
    return ids;
}

// Of the end of `ids`, by looking everywhere: the longest, of equals the latest.
NgramIndex::Match look_everywhere(std::span<const int32_t> ids) {
    NgramIndex::Match best;
    for (size_t next = 1; next < ids.size(); ++next) {
        int length = 0;
        while (length < NgramIndex::kLongest && static_cast<size_t>(length) < next &&
               ids[next - 1 - static_cast<size_t>(length)] ==
                   ids[ids.size() - 1 - static_cast<size_t>(length)]) {
            ++length;
        }
        if (length >= NgramIndex::kShortest && length >= best.length) best = {next, length};
    }
    return best;
}

}  // namespace

TEST_CASE("the longest match of the end of a text is found, the latest of several") {
    NgramIndex index;
    std::vector<int32_t> ids{1, 2, 3, 9, 2, 3, 8, 2, 3};
    CHECK(index.find(ids).next == 6);
    CHECK(index.find(ids).length == 2);
    ids = {1, 2, 3, 9, 2, 3, 8, 1, 2, 3};
    index = {};
    CHECK(index.find(ids).next == 3);
    CHECK(index.find(ids).length == 3);
}

TEST_CASE("texts without a match have none, the shortest texts too") {
    NgramIndex index;
    std::vector<int32_t> ids;
    for (int32_t i = 0; i < 600; ++i) {
        CHECK(index.find(ids).length == 0);
        ids.push_back(i);
    }
    NgramIndex other;
    CHECK(other.find(std::vector<int32_t>{7, 7}).length == 0);
    CHECK(other.find(std::vector<int32_t>{7, 7, 7}).next == 2);
}

TEST_CASE("an index that grows token by token finds what looking everywhere finds") {
    // So many words that a pair of them seldom comes more often than a search compares.
    auto ids = text(700, 24, 1);
    const auto quoted = std::vector<int32_t>(ids.begin() + 100, ids.begin() + 180);
    ids.insert(ids.end(), quoted.begin(), quoted.end());
    NgramIndex index;
    for (size_t n = 1; n <= ids.size(); ++n) {
        CAPTURE(n);
        const auto known = std::span<const int32_t>(ids).first(n);
        const auto found = index.find(known), expected = look_everywhere(known);
        REQUIRE(found.length == expected.length);
        REQUIRE(found.next == expected.next);
    }
    CHECK(index.find(ids).length == NgramIndex::kLongest);
    NgramIndex at_once;
    CHECK(at_once.find(ids).next == index.find(ids).next);
}

TEST_CASE("of very many places alike only a few are compared, and what is found is a match") {
    const auto ids = text(20000, 2, 2);
    NgramIndex index;
    for (size_t n = 2000; n <= ids.size(); n += 600) {
        const auto known = std::span<const int32_t>(ids).first(n);
        const auto found = index.find(known);
        REQUIRE(found.length >= NgramIndex::kShortest);
        REQUIRE(found.next < n);
        CHECK(std::equal(known.end() - found.length, known.end(),
                         known.begin() + static_cast<std::ptrdiff_t>(found.next) - found.length));
    }
}

TEST_CASE("the memory of an index is bounded by the length of its text") {
    NgramIndex index;
    const auto ids = text(50000, 1000, 3);
    index.find(ids);
    CHECK(index.bytes() <= 24 * ids.size() + 8192);
}
