#include "model/memory_need.h"

#include <algorithm>

#include "chatglm/error.h"
#include "format/transcode.h"

namespace chatglm {
namespace {

// Sizes of a damaged file may be absurd; this is more than any memory, and sums of some do not overflow.
constexpr double kMost = 1e18;

int64_t bounded(double bytes) {
    return static_cast<int64_t>(std::min(bytes, kMost));
}

// Bytes of a tensor in the type that the engine computes with, when that is not the file's.
int64_t repacked_bytes(const GgufTensor& tensor) {
    if (tensor.shape.empty()) return 0;
    double rows = 1;
    for (size_t i = 0; i + 1 < tensor.shape.size(); ++i) rows *= static_cast<double>(tensor.shape[i]);
    const int64_t n = tensor.shape.back();
    if (tensor.shape.size() == 1) return bounded(4.0 * static_cast<double>(n));  // widened to f32
    if (!tensor.transcodable) return 0;
    const DType to = transcoded_type(static_cast<SuperType>(tensor.ggml_type));
    return bounded(rows * static_cast<double>(row_bytes(to, n)));
}

int64_t all_repacked_bytes(const GgufFile& file) {
    double bytes = 0;
    for (const GgufTensor& tensor : file.tensors()) bytes += static_cast<double>(repacked_bytes(tensor));
    return bounded(bytes);
}

int64_t cache_bytes(const KvLayout& layout, int64_t n_slots) {
    const int64_t pages = (n_slots + layout.page_size - 1) / layout.page_size;
    const double layer = 2.0 * static_cast<double>(layout.head_bytes()) * layout.n_kv_heads;
    return bounded(static_cast<double>(pages) * layer * layout.n_layers);
}

}  // namespace

MemoryNeed memory_need(const GgufFile& file, const ModelConfig& c, DType kv, int n_tokens, int n_rows) {
    MemoryNeed need;
    need.n_tokens = n_tokens;
    double mapped = 0;
    for (const GgufTensor& tensor : file.tensors()) {
        if (tensor.shape.size() > 1 && tensor.supported) mapped += static_cast<double>(tensor.data.size());
    }
    need.mapped = bounded(mapped);
    need.repacked = all_repacked_bytes(file);
    KvLayout layout;
    layout.type = kv;
    layout.n_layers = c.num_hidden_layers;
    layout.n_kv_heads = c.num_key_value_heads;
    layout.head_dim = c.head_dim;
    need.cache = cache_bytes(layout, int64_t{n_tokens} + c.prefix_length);
    // The rows of GlmModel's workspace, and what the kernels make of the widest of them.
    const double heads = c.num_attention_heads, kv_heads = c.num_key_value_heads;
    const double attention = (2 * heads + 2 * kv_heads) * c.head_dim;
    const double columns = 3.0 * c.hidden_size + attention + 4.0 * c.intermediate_size;
    constexpr double kLogitRows = 16;
    need.work = bounded(4.0 * (std::min(n_rows, n_tokens) * columns + kLogitRows * c.vocab_size));
    return need;
}

void check_repacked_memory(const GgufFile& file, const MemoryState& state) {
    const int64_t bytes = all_repacked_bytes(file);
    if (state.fatal <= 0 || bytes <= state.fatal) return;
    throw OutOfMemory("'" + file.path() + "' takes " + memory_text(bytes) +
                      " of memory when its weights are repacked at load, and there are " +
                      memory_text(state.fatal) +
                      ", swap included. Convert the original checkpoint to q4_0, which is used where it lies "
                      "in the file, or use a smaller model.");
}

void check_cache_memory(const KvLayout& layout, int n_tokens, const MemoryState& state) {
    const int64_t bytes = cache_bytes(layout, n_tokens);
    if (state.fatal <= 0 || bytes <= state.fatal) return;
    throw OutOfMemory("The cache of a prompt of " + std::to_string(n_tokens) + " tokens takes " +
                      memory_text(bytes) + ", and there are " + memory_text(state.fatal) +
                      ", swap included. Shorten the prompt, or set max_context_length to keep only its last "
                      "tokens.");
}

std::string memory_note(int64_t bytes, int n_tokens, const MemoryState& state) {
    const std::string need = "The model and " + std::to_string(n_tokens) + " tokens of context need " +
                             memory_text(bytes) + " of memory, and ";
    if (state.total > 0 && bytes > state.total) {
        return need + memory_text(state.total) +
               " is all there is: parts of the model will be read from the disk again for every token, which "
               "takes many times longer. Use a smaller model or type, or a shorter context.";
    }
    if (state.available > 0 && bytes > state.available) {
        return need + memory_text(state.available) +
               " are free: close other programs, or it may become slow.";
    }
    return "";
}

}  // namespace chatglm
