#include "model/kv_cache.h"

#include <doctest/doctest.h>

#include <algorithm>

#include "chatglm/error.h"

using namespace chatglm;

namespace {

KvLayout small_layout() {
    KvLayout layout;
    layout.type = DType::f32;
    layout.n_layers = 2;
    layout.n_kv_heads = 1;
    layout.head_dim = 4;
    return layout;
}

void fill(const KvCache& cache, KvCache::SequenceId id, size_t page, uint8_t value) {
    std::fill_n(cache.pages(id)[page], cache.layout().page_bytes(), value);
}

}  // namespace

TEST_CASE("the type of a cache has a name, and a page of q8_0 about half the bytes of f16") {
    for (const DType type : kCacheTypes) CHECK(cache_type(dtype_info(type).name) == type);
    for (const char* name : {"", "q4_0", "bf16", "F16", "q9"}) {
        CHECK_THROWS_WITH_AS(cache_type(name), doctest::Contains("'f16', 'q8_0', 'f32'"), InvalidArgument);
    }
    KvLayout layout{DType::f16, 64, 28, 2, 128};
    CHECK(layout.page_bytes() == 64 * 28 * 2 * 2 * 128 * 2);
    layout.type = DType::q8_0;
    CHECK(layout.page_bytes() == 64 * 28 * 2 * 2 * 128 / 32 * 34);
    layout.head_dim = 40;  // two blocks, the second filled up
    CHECK(layout.page_bytes() == 64 * 28 * 2 * 2 * 2 * 34);
}

TEST_CASE("pages follow the length of a sequence and come back when it ends") {
    const auto backend = make_cpu_backend(1);
    KvCache cache(*backend, small_layout());
    const auto id = cache.create();
    CHECK(cache.used_pages() == 0);
    cache.extend(id, 1);
    CHECK(cache.used_pages() == 1);
    cache.extend(id, 63);
    CHECK(cache.used_pages() == 1);
    cache.extend(id, 1);
    CHECK(cache.used_pages() == 2);
    CHECK(cache.length(id) == 65);
    cache.truncate(id, 64);
    CHECK(cache.used_pages() == 1);
    cache.release(id);
    CHECK(cache.used_pages() == 0);
    const int64_t allocated = cache.allocated_bytes();
    cache.extend(cache.create(), 128);
    CHECK(cache.allocated_bytes() == allocated);  // the old pages are used again
    CHECK_THROWS_AS(cache.length(id), InvalidArgument);
}

TEST_CASE("a fork shares whole pages and owns its copy of a partly used one") {
    const auto backend = make_cpu_backend(1);
    KvCache cache(*backend, small_layout());
    const auto a = cache.create();
    cache.extend(a, 100);
    fill(cache, a, 0, 1);
    fill(cache, a, 1, 2);
    const auto b = cache.fork(a, 90);
    CHECK(cache.length(b) == 90);
    CHECK(cache.used_pages() == 3);
    CHECK(cache.pages(b)[0] == cache.pages(a)[0]);
    CHECK(cache.pages(b)[1] != cache.pages(a)[1]);
    CHECK(cache.pages(b)[1][0] == 2);
    cache.release(a);
    CHECK(cache.used_pages() == 2);
    CHECK(cache.pages(b)[0][0] == 1);
    CHECK_THROWS_AS(cache.fork(b, 91), InvalidArgument);
}

TEST_CASE("a shared page is copied before it is written") {
    const auto backend = make_cpu_backend(1);
    KvCache cache(*backend, small_layout());
    const auto a = cache.create();
    cache.extend(a, 64);
    fill(cache, a, 0, 5);
    const auto b = cache.fork(a, 64);
    cache.truncate(b, 10);
    CHECK(cache.pages(b)[0] == cache.pages(a)[0]);
    cache.extend(b, 1);
    CHECK(cache.pages(b)[0] != cache.pages(a)[0]);
    CHECK(cache.pages(b)[0][0] == 5);
    fill(cache, b, 0, 9);
    CHECK(cache.pages(a)[0][0] == 5);
}

TEST_CASE("a page that is kept outlives its sequences and can be shared again") {
    const auto backend = make_cpu_backend(1);
    KvCache cache(*backend, small_layout());
    const auto a = cache.create();
    cache.extend(a, 100);
    fill(cache, a, 0, 3);
    fill(cache, a, 1, 4);
    const std::vector<int> pages(cache.page_ids(a).begin(), cache.page_ids(a).end());
    for (const int page : pages) cache.keep(page);
    CHECK(cache.idle_pages() == 0);
    cache.release(a);
    CHECK(cache.used_pages() == 2);
    CHECK(cache.idle_pages() == 2);
    const auto b = cache.share(pages, 80);
    CHECK(cache.idle_pages() == 1);  // the second one was copied
    CHECK(cache.length(b) == 80);
    CHECK(cache.page_ids(b)[0] == pages[0]);
    CHECK(cache.page_ids(b)[1] != pages[1]);
    CHECK(cache.pages(b)[1][0] == 4);
    for (const int page : pages) cache.drop(page);
    CHECK(cache.idle_pages() == 0);
    CHECK(cache.used_pages() == 2);
    cache.release(b);
    CHECK(cache.used_pages() == 0);
}

TEST_CASE("memory of unused pages can be given back") {
    const auto backend = make_cpu_backend(1);
    KvCache cache(*backend, small_layout());
    const auto page_bytes = static_cast<int64_t>(cache.layout().page_bytes());
    const auto a = cache.create(), b = cache.create();
    cache.extend(a, 64);
    cache.extend(b, 3 * 64);
    cache.release(b);
    cache.shrink(2);
    CHECK(cache.allocated_bytes() == 2 * page_bytes);
    cache.shrink(0);
    CHECK(cache.allocated_bytes() == page_bytes);  // of the sequence that lives
    cache.extend(a, 5 * 64);
    CHECK(cache.allocated_bytes() == 6 * page_bytes);
    CHECK(cache.pages(a).size() == 6);
}

TEST_CASE("random lives of many sequences lose no page") {
    const auto backend = make_cpu_backend(1);
    KvCache cache(*backend, small_layout());
    std::vector<KvCache::SequenceId> live;
    uint64_t state = 1;
    const auto random = [&state](int n) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        return static_cast<int>((state >> 33) % static_cast<uint64_t>(n));
    };
    for (int round = 0; round < 3000; ++round) {
        const int what = random(5);
        if (live.empty() || what == 0) {
            live.push_back(cache.create());
            continue;
        }
        const auto index = static_cast<size_t>(random(static_cast<int>(live.size())));
        const auto id = live[index];
        if (what == 1) cache.extend(id, random(150));
        if (what == 2) cache.truncate(id, random(cache.length(id) + 1));
        if (what == 3) live.push_back(cache.fork(id, random(cache.length(id) + 1)));
        if (what == 4) {
            cache.release(id);
            live.erase(live.begin() + static_cast<std::ptrdiff_t>(index));
        }
    }
    for (const auto id : live) {
        CHECK(cache.pages(id).size() == static_cast<size_t>((cache.length(id) + 63) / 64));
        cache.release(id);
    }
    CHECK(cache.used_pages() == 0);
}
