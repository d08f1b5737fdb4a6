// The process that this code runs in, for objects that must notice a fork.
#pragma once

#include <cstdint>

#ifndef _WIN32
#include <unistd.h>
#endif

namespace chatglm {

// Differs between a process and those forked from it.
inline int64_t process_id() {
#ifdef _WIN32
    return 0;  // Windows does not fork
#else
    return getpid();
#endif
}

}  // namespace chatglm
