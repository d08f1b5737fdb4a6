#include "generate/prefix_cache.h"

#include <doctest/doctest.h>

#include <map>
#include <random>

using namespace chatglm;

namespace {

KvLayout small_layout() {
    KvLayout layout;
    layout.type = DType::f32;
    layout.n_layers = 1;
    layout.n_kv_heads = 1;
    layout.head_dim = 4;
    return layout;
}

struct Fixture {
    std::unique_ptr<Backend> backend = make_cpu_backend(1);
    KvCache cache{*backend, small_layout()};
    PrefixCache prefixes{cache, 0};

    // A sequence whose slots say which token is in them, as computed keys would.
    KvCache::SequenceId compute(const std::vector<int32_t>& ids) {
        const auto id = cache.create();
        cache.extend(id, static_cast<int>(ids.size()));
        for (size_t i = 0; i < ids.size(); ++i) slot(id, i) = static_cast<float>(ids[i]);
        return id;
    }
    float& slot(KvCache::SequenceId id, size_t i) {
        return reinterpret_cast<float*>(cache.pages(id)[i / 64])[i % 64];
    }
    void keep(const std::vector<int32_t>& ids, const PrefixCache::Origin& origin = nullptr) {
        const auto id = compute(ids);
        prefixes.insert(id, ids, origin);
        cache.release(id);
    }
    // How much of `ids` is found, checked slot by slot.
    int found(const std::vector<int32_t>& ids, const PrefixCache::Origin& origin = nullptr) {
        const auto match = prefixes.find(ids, origin);
        const auto id = cache.share(match.pages, match.n_slots);
        for (size_t i = 0; i < static_cast<size_t>(match.n_slots); ++i) {
            CHECK(slot(id, i) == static_cast<float>(ids[i]));
        }
        cache.release(id);
        return match.n_tokens;
    }
};

std::vector<int32_t> numbers(int n, int32_t first = 0) {
    std::vector<int32_t> ids(static_cast<size_t>(n));
    for (int32_t& id : ids) id = first++;
    return ids;
}

std::vector<int32_t> joined(std::vector<int32_t> a, const std::vector<int32_t>& b) {
    a.insert(a.end(), b.begin(), b.end());
    return a;
}

}  // namespace

TEST_CASE("the longest common beginning is found, to the token") {
    Fixture f;
    CHECK(f.found(numbers(10)) == 0);
    f.keep(numbers(200));
    CHECK(f.found(numbers(200)) == 200);
    CHECK(f.found(numbers(300)) == 200);
    CHECK(f.found(numbers(70)) == 70);
    CHECK(f.found(numbers(64)) == 64);
    CHECK(f.found(joined(numbers(150), {7, 7, 7})) == 150);
    CHECK(f.found(joined(numbers(30), {7, 7, 7})) == 30);
    CHECK(f.found({5}) == 0);
    CHECK(f.found({}) == 0);
}

TEST_CASE("conversations share the pages of their beginning") {
    Fixture f;
    const auto system = numbers(128);
    f.keep(joined(system, numbers(50, 1000)));
    f.keep(joined(system, numbers(50, 2000)));
    CHECK(f.cache.used_pages() == 4);
    CHECK(f.found(joined(system, numbers(60, 2000))) == 178);
    f.keep(joined(system, numbers(60, 2000)));  // goes on where the second one ended
    CHECK(f.cache.used_pages() == 4);
    f.keep(joined(system, numbers(20, 1000)));  // known
    CHECK(f.cache.used_pages() == 4);
}

TEST_CASE("what was computed with other adapters is not found") {
    Fixture f;
    const auto a = std::make_shared<const int>(1), b = std::make_shared<const int>(2);
    f.keep(numbers(100), a);
    CHECK(f.found(numbers(100), b) == 0);
    CHECK(f.found(numbers(100)) == 0);
    CHECK(f.found(numbers(100), a) == 100);
    CHECK(a.use_count() == 2);  // so that its address is not taken by another one
    f.prefixes.clear();
    CHECK(a.use_count() == 1);
    CHECK(f.cache.used_pages() == 0);
}

TEST_CASE("what went unused for the longest time goes first, the ends before the beginnings") {
    Fixture f;
    f.keep(numbers(128, 1000));
    f.keep(numbers(128, 2000));
    CHECK(f.found(numbers(128, 1000)) == 128);
    CHECK(f.prefixes.evict_one());
    CHECK(f.found(numbers(128, 2000)) == 64);
    CHECK(f.found(numbers(128, 1000)) == 128);
    CHECK(f.prefixes.evict_one());
    CHECK(f.found(numbers(128, 2000)) == 0);
    while (f.prefixes.evict_one()) {
    }
    CHECK(f.cache.used_pages() == 0);
    CHECK(f.prefixes.pages() == 0);
}

TEST_CASE("pages in use are not evicted") {
    Fixture f;
    f.keep(numbers(128));
    const auto running = f.cache.share(f.prefixes.find(numbers(128), nullptr).pages, 128);
    CHECK_FALSE(f.prefixes.evict_one());
    f.cache.release(running);
    CHECK(f.prefixes.evict_one());
}

TEST_CASE("a learnt prefix is no token") {
    Fixture f;
    PrefixCache prefixes(f.cache, 70);
    const auto id = f.cache.create();
    f.cache.extend(id, 70 + 10);
    prefixes.insert(id, numbers(10), nullptr);
    f.cache.release(id);
    CHECK(prefixes.find(numbers(10), nullptr).n_tokens == 10);
    CHECK(prefixes.find(numbers(10), nullptr).n_slots == 80);
    CHECK(prefixes.find(numbers(12), nullptr).n_tokens == 10);
    CHECK(prefixes.find({}, nullptr).n_tokens == 0);
    CHECK(prefixes.find(std::vector<int32_t>{5}, nullptr).pages.empty());
}

TEST_CASE("random conversations are found as a plain search finds them, and no page is lost") {
    Fixture f;
    std::mt19937 random(1);
    std::vector<std::vector<int32_t>> kept;
    bool evicted = false;
    for (int round = 0; round < 1500; ++round) {
        // Few tokens and few lengths, so that much is in common.
        std::vector<int32_t> ids;
        if (!kept.empty() && random() % 2) {
            ids = kept[random() % kept.size()];
            ids.resize(random() % (ids.size() + 1));
        }
        const size_t more = 1 + random() % 90;
        for (size_t i = 0; i < more; ++i) ids.push_back(static_cast<int32_t>(random() % 2));
        size_t expected = 0;
        for (const auto& other : kept) {
            size_t n = 0;
            while (n < std::min(ids.size(), other.size()) && ids[n] == other[n]) ++n;
            expected = std::max(expected, n);
        }
        if (evicted) {
            CHECK(static_cast<size_t>(f.found(ids)) <= expected);
        } else {
            CHECK(static_cast<size_t>(f.found(ids)) == expected);
        }
        f.keep(ids);
        CHECK(static_cast<size_t>(f.found(ids)) == ids.size());
        kept.push_back(ids);
        if (round > 700 && random() % 4 == 0) evicted |= f.prefixes.evict_one();
    }
    CHECK(f.cache.used_pages() == f.prefixes.pages());
    CHECK(f.cache.idle_pages() == f.prefixes.pages());
    f.prefixes.clear();
    CHECK(f.cache.used_pages() == 0);
    CHECK(f.cache.idle_pages() == 0);
}
