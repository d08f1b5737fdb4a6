#include "generate/ngram_index.h"

#include <algorithm>

namespace chatglm {
namespace {

// Places that one search compares, of each length.
constexpr int kMostTries = 8;
constexpr size_t kFirstSize = 256;

// Of the `n` tokens before `place`. Multiplicative hashing, with the odd number nearest to 2^64 over the
// golden ratio; the upper bits are the good ones.
size_t hash(std::span<const int32_t> ids, size_t place, int n, size_t table_size) {
    uint64_t h = 0;
    for (size_t i = place - static_cast<size_t>(n); i < place; ++i) {
        h = (h ^ static_cast<uint32_t>(ids[i])) * 0x9E3779B97F4A7C15u;
        h ^= h >> 32;
    }
    return static_cast<size_t>(h) & (table_size - 1);
}

// How many tokens before `a` and `b` are the same.
int common(std::span<const int32_t> ids, size_t a, size_t b) {
    int n = 0;
    const auto limit = static_cast<int>(std::min<size_t>(std::min(a, b), NgramIndex::kLongest));
    while (n < limit && ids[a - 1 - static_cast<size_t>(n)] == ids[b - 1 - static_cast<size_t>(n)]) ++n;
    return n;
}

}  // namespace

void NgramIndex::add(Table& table, int n, std::span<const int32_t> ids, size_t place) {
    if (place < static_cast<size_t>(n)) return;
    uint32_t& latest = table.latest[hash(ids, place, n, table.latest.size())];
    table.before[place] = latest;
    latest = static_cast<uint32_t>(place);
}

// Twice the size is filled once for every doubling, which makes a constant number of operations a token.
void NgramIndex::grow(Table& table, int n, std::span<const int32_t> ids) {
    size_t size = std::max(table.latest.size(), kFirstSize);
    while (size < ids.size()) size *= 2;
    table.before.resize(ids.size() + 1);
    if (size == table.latest.size()) return;
    table.latest.assign(size, 0);
    for (size_t place = 1; place <= n_indexed_; ++place) add(table, n, ids, place);
}

NgramIndex::Match NgramIndex::find(std::span<const int32_t> ids) {
    // The end itself is no earlier place, so it is put in when there is more behind it.
    const size_t end = ids.size();
    if (end < static_cast<size_t>(kShortest)) return {};
    for (size_t t = 0; t < kLengths.size(); ++t) {
        grow(tables_[t], kLengths[t], ids);
        for (size_t place = n_indexed_ + 1; place < end; ++place) add(tables_[t], kLengths[t], ids, place);
    }
    n_indexed_ = end - 1;

    Match best;
    for (size_t t = 0; t < kLengths.size() && best.length == 0; ++t) {
        const int n = kLengths[t];
        if (end < static_cast<size_t>(n)) continue;
        const Table& table = tables_[t];
        size_t place = table.latest[hash(ids, end, n, table.latest.size())];
        for (int tries = 0; place > 0 && tries < kMostTries; ++tries, place = table.before[place]) {
            const int length = common(ids, place, end);
            if (length >= n && length > best.length) best = {place, length};
            if (best.length == kLongest) break;
        }
    }
    return best;
}

size_t NgramIndex::bytes() const {
    size_t n = 0;
    for (const Table& table : tables_) n += (table.latest.size() + table.before.size()) * sizeof(uint32_t);
    return n;
}

}  // namespace chatglm
