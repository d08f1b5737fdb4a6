// What the system says about the machine and about this process.
#pragma once

#include <cstdint>
#include <string>

namespace chatglm {

// As its maker calls it; empty when the system does not say.
std::string processor_name();

// Bytes; 0 when the system does not say.
int64_t total_memory();
int64_t last_level_cache();
// Memory of this process that is in RAM now, the pages of mapped files included.
int64_t resident_memory();

}  // namespace chatglm
