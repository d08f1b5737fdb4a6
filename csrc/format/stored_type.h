// Name and block size of every type that a GGUF file may hold, whether the engine can use it or not.
#pragma once

#include <cstdint>
#include <optional>

namespace chatglm {

struct StoredType {
    uint32_t number;   // ggml's
    const char* name;  // "q4_K"
    int block_size;    // elements in a block
    int block_bytes;
};

// Nothing when ggml has no type of the number.
std::optional<StoredType> find_stored_type(uint32_t number);

}  // namespace chatglm
