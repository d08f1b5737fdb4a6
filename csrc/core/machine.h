// What the system says about the processor.
#pragma once

#include <cstdint>
#include <string>

namespace chatglm {

// As its maker calls it; empty when the system does not say.
std::string processor_name();

// Bytes; 0 when the system does not say.
int64_t last_level_cache();

}  // namespace chatglm
