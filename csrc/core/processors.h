// Which processors compute threads should have: the physical cores of the fast kind.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace chatglm {

// Physical cores of the fast kind that this process may use (never less than 1). Hyper-threads add nothing to
// a loop that is bound by memory or by the vector units, and efficiency cores little more than heat.
int default_thread_count();

// Asks the system to keep the calling thread, one of `n_threads` that compute together, on fast cores and at
// full speed.
void prefer_fast_cores(int n_threads);

// What default_thread_count() is made of, for its tests.

// How many of `speeds`, one a core in any unit, belong to the fast kind.
int count_fast_cores(const std::vector<int64_t>& speeds);

// The same from the files of Linux below `root` ("" for the real ones), of the processors `allowed`; within
// the processor time that a container leaves to this process.
int count_linux_cores(const std::string& root, const std::vector<int>& allowed);

// The same of macOS: what sysctl says to a name, numbers in decimal; nothing where it has no such name.
using SystemControl = std::function<std::optional<std::string>(const std::string& name)>;

// 0 when the system does not say.
int count_apple_cores(const SystemControl& sysctl);

}  // namespace chatglm
