#include "model/load_config.h"

#include <cmath>
#include <map>

#include "chatglm/error.h"
#include "model/model_file.h"

namespace chatglm {
namespace {

// Type that stores the most bytes of matrices: what people call the type of the file.
std::string main_dtype(const GgufFile& file) {
    std::map<std::string, size_t> bytes;
    for (const GgufTensor& tensor : file.tensors()) {
        if (tensor.shape.size() == 2) bytes[tensor.type_name] += tensor.data.size();
    }
    const std::pair<const std::string, size_t>* most = nullptr;
    for (const auto& entry : bytes) {
        if (!most || entry.second > most->second) most = &entry;
    }
    return most ? most->first : "";
}

}  // namespace

ModelConfig load_config(const GgufFile& file) {
    ModelConfig config;
    check_is_model(file);
    config.architecture = file.get_string("general.architecture");
    config.name = file.get_string("general.name", "");
    config.dtype = main_dtype(file);
    config.file_bytes = static_cast<int64_t>(file.file_size());
    for (const GgufTensor& tensor : file.tensors()) {
        if (tensor.data.empty()) continue;  // of an unknown type, whose shape nothing vouches for
        int64_t elements = 1;
        for (const int64_t n : tensor.shape) elements *= n;
        config.n_parameters += elements;
    }

    const GgufTensor* embedding = file.find_tensor("token_embd.weight");
    if (!embedding || embedding->shape.size() != 2) {
        throw FormatError("'" + file.path() +
                          "' has no matrix 'token_embd.weight': it holds no model (a file made "
                          "with --vocab-only has only the tokenizer).");
    }
    if (embedding->shape[0] > (1 << 24)) {
        throw FormatError("In '" + file.path() + "' 'token_embd.weight' has " +
                          std::to_string(embedding->shape[0]) + " rows, more than any vocabulary.");
    }
    config.vocab_size = static_cast<int>(embedding->shape[0]);

    const std::string prefix = config.architecture + ".";
    const auto integer = [&](const char* key, int64_t low, int64_t high, int64_t fallback = INT64_MIN) {
        const std::string name = prefix + key;
        const int64_t value = fallback == INT64_MIN ? file.get_int(name) : file.get_int(name, fallback);
        if (value < low || value > high) {
            throw FormatError("In '" + file.path() + "' " + name + " is " + std::to_string(value) +
                              "; it must lie between " + std::to_string(low) + " and " +
                              std::to_string(high) + ".");
        }
        return static_cast<int>(value);
    };
    const auto positive = [&](const char* key, double fallback) {
        const std::string name = prefix + key;
        const double value = std::isnan(fallback) ? file.get_float(name) : file.get_float(name, fallback);
        if (!(value > 0) || !std::isfinite(value)) {
            throw FormatError("In '" + file.path() + "' " + name + " is " + std::to_string(value) +
                              "; it must be a positive number.");
        }
        return static_cast<float>(value);
    };

    config.num_hidden_layers = integer("block_count", 1, 1024);
    config.hidden_size = integer("embedding_length", 1, 1 << 17);
    config.intermediate_size = integer("feed_forward_length", 1, 1 << 20);
    config.num_attention_heads = integer("attention.head_count", 1, 4096);
    config.num_key_value_heads =
        integer("attention.head_count_kv", 1, config.num_attention_heads, config.num_attention_heads);
    config.head_dim =
        integer("attention.key_length", 1, 1024, config.hidden_size / config.num_attention_heads);
    config.max_length = integer("context_length", 1, 1 << 27);
    config.rope_dim = integer("rope.dimension_count", 0, config.head_dim, config.head_dim);
    config.rope_theta = positive("rope.freq_base", 10000.0);
    config.prefix_length = integer("prefix_length", 0, 1 << 16, 0);
    config.post_norms = config.architecture == "glm4";
    if (config.architecture == "chatglm1") {
        config.norm = NormKind::layer;
        config.activation = Activation::gelu;
        config.positions = PositionKind::glm_2d;
        config.rope_frequencies_f16 = true;
        config.norm_eps = positive("attention.layer_norm_epsilon", std::nan(""));
        config.residual_scale = positive("residual_scale", std::nan(""));
        config.gmask_token_id = integer("gmask_token_id", 0, 1 << 24);
        config.sop_token_id = integer("sop_token_id", 0, 1 << 24);
    } else {
        config.norm_eps = positive("attention.layer_norm_rms_epsilon", std::nan(""));
    }

    if (config.num_attention_heads % config.num_key_value_heads != 0) {
        throw FormatError("In '" + file.path() + "' " + std::to_string(config.num_attention_heads) +
                          " attention heads cannot share " + std::to_string(config.num_key_value_heads) +
                          " key/value heads evenly.");
    }
    const int rope_multiple = config.positions == PositionKind::glm_2d ? 4 : 2;
    if (config.rope_dim % rope_multiple != 0) {
        throw FormatError("In '" + file.path() + "' " + prefix + "rope.dimension_count is " +
                          std::to_string(config.rope_dim) + "; it must be a multiple of " +
                          std::to_string(rope_multiple) + ", as rotary embeddings turn pairs.");
    }
    // A factor alone scales linearly, as in llama.cpp.
    const bool has_factor = file.has(prefix + "rope.scaling.factor");
    const std::string scaling = file.get_string(prefix + "rope.scaling.type", has_factor ? "linear" : "none");
    if (scaling == "linear") {
        config.rope_position_scale = 1.0f / positive("rope.scaling.factor", std::nan(""));
    } else if (scaling != "none") {
        throw FormatError("In '" + file.path() + "' " + prefix + "rope.scaling.type is '" + scaling +
                          "'; 'none' and 'linear' are known.");
    }

    return config;
}

}  // namespace chatglm
