// What the program asks of its memory, for tests that bound it.
#pragma once

#include <atomic>
#include <cstddef>

namespace chatglm::test {

// The largest number of bytes asked for at once since it was set to 0.
extern std::atomic<size_t> largest_request;

}  // namespace chatglm::test
