// The memory that a model and a context take, known before any of it is used.
#pragma once

#include <cstdint>
#include <string>

#include "backend/backend.h"
#include "chatglm/model.h"
#include "core/memory.h"
#include "format/gguf.h"

namespace chatglm {

// Bytes.
struct MemoryNeed {
    int64_t mapped = 0;    // weights used where they lie in the file: the system may drop and read them again
    int64_t repacked = 0;  // weights kept in another type than the file's, norms and biases
    int64_t cache = 0;     // keys and values
    int64_t work = 0;      // activations
    int n_tokens = 0;      // of the context that this is for

    int64_t total() const { return mapped + repacked + cache + work; }
};

// For a context of `n_tokens`, computed up to `n_rows` at once, in a cache of the type `kv`.
MemoryNeed memory_need(const GgufFile& file, const ModelConfig& config, DType kv, int n_tokens, int n_rows);

// Throws OutOfMemory when repacking the weights of `file` takes more memory than there can be, which would
// otherwise end the program while it loads.
void check_repacked_memory(const GgufFile& file, const MemoryState& state);

// Throws OutOfMemory when the cache of a prompt of `n_tokens` takes more memory than there can be.
void check_cache_memory(const KvLayout& layout, int n_tokens, const MemoryState& state);

// A sentence for the user when `bytes`, which a model and a context of `n_tokens` need, are more than is
// free, or than there is; empty when they fit, and when nothing is known.
std::string memory_note(int64_t bytes, int n_tokens, const MemoryState& state);

}  // namespace chatglm
