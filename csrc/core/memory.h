// What the system says about its memory and about this process's share of it.
#pragma once

#include <cstdint>
#include <string>

namespace chatglm {

// Bytes; 0 where the system does not say.
struct MemoryState {
    int64_t total = 0;  // that this process may use: of the machine, or of the container that it runs in
    // Of it, what could be used now without taking anything from other programs: free, or holding what files
    // have on the disk anyway.
    int64_t available = 0;
    // Beyond this much, memory that is asked for is promised but never there, and the system ends a program
    // instead. 0 where it refuses such a request by itself, or makes room on the disk as it goes.
    int64_t fatal = 0;
};

MemoryState memory_state();

// The same from the files of Linux below `root` ("" for the real ones), for tests.
MemoryState linux_memory_state(const std::string& root);

// Memory of this process that is in RAM now, the pages of mapped files included; 0 when unknown.
int64_t resident_memory();

// For sentences: "58.7 MB", "3.5 GB".
std::string memory_text(int64_t bytes);

}  // namespace chatglm
