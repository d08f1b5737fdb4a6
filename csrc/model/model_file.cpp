#include "model/model_file.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <vector>

#include "chatglm/error.h"
#include "format/quantize.h"

namespace chatglm {
namespace {

[[noreturn]] void fail(const GgufFile& file, const std::string& what) {
    throw FormatError("'" + file.path() + "' " + what);
}

void check_kind(const GgufFile& file) {
    const std::string type = file.get_string("general.type", "model");
    if (type == "adapter") {
        fail(file,
             "holds a LoRA adapter, which is no model of its own: open its base model, and give the adapter "
             "beside it (lora=\"FILE\", --lora FILE).");
    }
    if (type == "mmproj") {
        fail(file,
             "holds the projector of a model that sees images; this program runs language models. Give the "
             "file of the language model, which lies beside it.");
    }
    if (type != "model") {
        fail(file, "holds a file of the type '" + type + "' (general.type), not a model.");
    }
}

void check_architecture(const GgufFile& file) {
    const std::string architecture = file.get_string("general.architecture");
    constexpr std::array<std::string_view, 3> kKnown{"chatglm", "glm4", "chatglm1"};
    if (std::find(kKnown.begin(), kKnown.end(), architecture) != kKnown.end()) return;
    const bool is_later_glm = architecture.starts_with("glm");
    fail(file,
         "holds a model of the architecture '" + architecture + "'" +
             (is_later_glm ? ", a GLM of a later generation (a mixture of experts)" : "") +
             "; this program runs 'chatglm', 'glm4' and 'chatglm1' (the first ChatGLM-6B). llama.cpp runs "
             "most others.");
}

// Settings that change what the known tensors mean: ignoring them would give wrong answers.
void check_variant(const GgufFile& file) {
    const std::string prefix = file.get_string("general.architecture") + ".";
    if (file.has(prefix + "rope.dimension_sections")) {
        fail(file,
             "is the language part of a model that sees images (" + prefix +
                 "rope.dimension_sections), which rotates positions in another way than this program does. "
                 "llama.cpp runs it.");
    }
    if (file.get_int(prefix + "nextn_predict_layers", 0) != 0) {
        fail(file, "has layers that predict several tokens at once (" + prefix +
                       "nextn_predict_layers), which this program does not run.");
    }
    const GgufTensor* factors = file.find_tensor("rope_freqs.weight");
    if (!factors) return;
    int64_t n = factors->supported ? 1 : 0;
    for (const int64_t size : factors->shape) n *= size;
    std::vector<float> values(static_cast<size_t>(n));
    if (n > 0) dequantize_row(factors->type, factors->data.data(), values.data(), n);
    if (n == 0 || std::any_of(values.begin(), values.end(), [](float f) { return f != 1.0f; })) {
        fail(file,
             "scales its rotary frequencies one by one (rope_freqs.weight), which this program does not do.");
    }
}

}  // namespace

void check_is_model(const GgufFile& file) {
    check_kind(file);
    if (const int64_t n = file.get_int("split.count", 1); n > 1) {
        fail(file, "is one of the " + std::to_string(n) +
                       " parts of a model. Merge them: llama-gguf-split --merge FIRST_PART.gguf model.gguf");
    }
    check_architecture(file);
    check_variant(file);
}

GgufFile open_model_file(const std::string& path) {
    GgufFile file(path);
    check_is_model(file);
    return file;
}

}  // namespace chatglm
