#include "generate/allocations.h"

#include <doctest/doctest.h>

#include <cstdlib>
#include <new>
#include <vector>

std::atomic<size_t> chatglm::test::largest_request{0};

using chatglm::test::largest_request;

// In a file of their own: where a compiler sees both ends of a new and its delete it complains about malloc.
void* operator new(size_t bytes, const std::nothrow_t&) noexcept {
    size_t largest = largest_request;
    while (bytes > largest && !largest_request.compare_exchange_weak(largest, bytes)) {
    }
    return std::malloc(bytes > 0 ? bytes : 1);
}

void* operator new(size_t bytes) {
    if (void* p = operator new(bytes, std::nothrow)) return p;
    throw std::bad_alloc();
}

void operator delete(void* p) noexcept {
    std::free(p);
}

void operator delete(void* p, size_t) noexcept {
    std::free(p);
}

TEST_CASE("a vector's request for memory is seen") {
    largest_request = 0;
    const std::vector<char> memory(12345);
    CHECK(memory.size() == 12345);
    CHECK(largest_request >= 12345);
}
