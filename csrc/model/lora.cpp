#include "model/lora.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>
#include <string_view>

#include "chatglm/error.h"

namespace chatglm {
namespace {

constexpr int64_t kMaxRank = 4096;
constexpr std::string_view kSuffixA = ".lora_a", kSuffixB = ".lora_b";

[[noreturn]] void fail(const GgufFile& file, const std::string& what) {
    throw FormatError("'" + file.path() + "' " + what);
}

std::string shape_text(const GgufTensor& tensor) {
    std::string text = "(";
    for (size_t i = 0; i < tensor.shape.size(); ++i)
        text += (i ? ", " : "") + std::to_string(tensor.shape[i]);
    return text + ")";
}

void check_header(const GgufFile& file, const ModelConfig& model) {
    const std::string type = file.get_string("general.type", "model");
    if (type != "adapter") {
        fail(file, "holds a " + type +
                       ", not a LoRA adapter. Make one with 'python -m chatglm_cpp.convert -i "
                       "PEFT_FOLDER --base MODEL_FOLDER -o adapter.gguf'.");
    }
    const std::string kind = file.get_string("adapter.type");
    if (kind != "lora") fail(file, "is an adapter of the kind '" + kind + "'; only 'lora' is known.");
    const std::string architecture = file.get_string("general.architecture");
    if (architecture != model.architecture) {
        fail(file, "was made for the architecture '" + architecture + "', and the model is of '" +
                       model.architecture + "'.");
    }
}

// The two tensors of each adapted matrix, by the matrix's name.
struct Pair {
    const GgufTensor *a = nullptr, *b = nullptr;
};

std::map<std::string, Pair> pairs_of(const GgufFile& file) {
    std::map<std::string, Pair> pairs;
    for (const GgufTensor& tensor : file.tensors()) {
        const std::string_view name = tensor.name;
        const bool is_a = name.ends_with(kSuffixA);
        if (!is_a && !name.ends_with(kSuffixB)) {
            fail(file, "holds the tensor '" + tensor.name +
                           "', which is no part of a LoRA adapter (names end in .lora_a or .lora_b).");
        }
        Pair& pair = pairs[std::string(name.substr(0, name.size() - kSuffixA.size()))];
        (is_a ? pair.a : pair.b) = &tensor;
    }
    return pairs;
}

}  // namespace

LoraAdapter::LoraAdapter(const std::string& path, const ModelConfig& model, Backend& backend)
    : file_(path, MappedFile::Mode::copy) {
    check_header(file_, model);
    layers_.resize(static_cast<size_t>(model.num_hidden_layers));
    const auto alpha = static_cast<float>(file_.get_float("adapter.lora.alpha", 0.0));
    if (!std::isfinite(alpha)) fail(file_, "says an adapter.lora.alpha that is not a finite number.");
    const auto pairs = pairs_of(file_);
    if (pairs.empty()) fail(file_, "holds no tensors.");
    for (const auto& [name, pair] : pairs) {
        if (!pair.a || !pair.b) {
            fail(file_,
                 "has '" + name + (pair.a ? ".lora_a' without '.lora_b'." : ".lora_b' without '.lora_a'."));
        }
        const Place place = find_place(name, model);
        for (const GgufTensor* tensor : {pair.a, pair.b}) {
            if (!tensor->supported) {
                fail(file_, "stores '" + tensor->name +
                                "' in a type that adapters cannot have; use f32, f16, bf16 "
                                "or q8_0.");
            }
        }
        const auto fits = [&] {
            return pair.a->shape.size() == 2 && pair.b->shape.size() == 2 && pair.a->shape[1] == place.cols &&
                   pair.b->shape[0] == place.rows && pair.a->shape[0] == pair.b->shape[1];
        };
        if (!fits() || pair.a->shape[0] > kMaxRank) {
            fail(file_, "has '" + name + "' as lora_a " + shape_text(*pair.a) + " and lora_b " +
                            shape_text(*pair.b) + "; this model needs (rank, " + std::to_string(place.cols) +
                            ") and (" + std::to_string(place.rows) + ", rank), the rank at most " +
                            std::to_string(kMaxRank) + ". It was made for another model.");
        }
        const int64_t rank = pair.a->shape[0];
        max_rank_ = std::max(max_rank_, rank);
        // Files without alpha mean the bare product.
        const float scale = alpha != 0.0f ? alpha / static_cast<float>(rank) : 1.0f;
        place.factors->push_back(
            {backend.load_matrix(*pair.a), backend.load_matrix(*pair.b), place.row_offset, scale});
    }
}

LoraAdapter::Place LoraAdapter::find_place(const std::string& name, const ModelConfig& model) {
    const int64_t q = int64_t{model.num_attention_heads} * model.head_dim;
    const int64_t kv = int64_t{model.num_key_value_heads} * model.head_dim;
    const int64_t hidden = model.hidden_size, ffn = model.intermediate_size;
    const int64_t up = model.activation == Activation::swiglu ? 2 * ffn : ffn;
    if (name == "output.weight") return {&output_, 0, model.vocab_size, hidden};
    struct Known {
        std::string_view name;
        LoraTarget target;
        int64_t row_offset, rows, cols;
    };
    const Known known[] = {
        {"attn_qkv.weight", LoraTarget::qkv, 0, q + 2 * kv, hidden},
        {"attn_q.weight", LoraTarget::qkv, 0, q, hidden},
        {"attn_k.weight", LoraTarget::qkv, q, kv, hidden},
        {"attn_v.weight", LoraTarget::qkv, q + kv, kv, hidden},
        {"attn_output.weight", LoraTarget::attention_output, 0, hidden, q},
        {"ffn_up.weight", LoraTarget::ffn_up, 0, up, hidden},
        {"ffn_down.weight", LoraTarget::ffn_down, 0, hidden, ffn},
    };
    constexpr std::string_view kBlock = "blk.";
    if (name.starts_with(kBlock)) {
        const char* begin = name.data() + kBlock.size();
        const char* end = name.data() + name.size();
        int layer = -1;
        const auto [after, error] = std::from_chars(begin, end, layer);
        if (error == std::errc{} && after != end && *after == '.' && layer >= 0) {
            if (layer >= model.num_hidden_layers) {
                fail(file_, "changes '" + name + "', and the model has " +
                                std::to_string(model.num_hidden_layers) +
                                " layers. It was made for another model.");
            }
            const std::string_view part(after + 1, static_cast<size_t>(end - after - 1));
            for (const Known& k : known) {
                if (part != k.name) continue;
                auto& factors = layers_[static_cast<size_t>(layer)][static_cast<size_t>(k.target)];
                return {&factors, k.row_offset, k.rows, k.cols};
            }
        }
    }
    fail(file_,
         "changes '" + name +
             "', which cannot be done while the adapter is kept apart. Merge it into the weights instead: "
             "'python -m chatglm_cpp.convert -i MODEL_FOLDER -l PEFT_FOLDER -o merged.gguf'.");
}

}  // namespace chatglm
