#include "model/weight_loader.h"

#include "chatglm/error.h"
#include "format/quantize.h"
#include "format/super_blocks.h"

namespace chatglm {
namespace {

std::string shape_text(const std::vector<int64_t>& shape) {
    std::string text = "(";
    for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
    return text + ")";
}

}  // namespace

const GgufTensor& WeightLoader::find(const std::string& name, const std::vector<int64_t>& shape) const {
    const GgufTensor* tensor = file_.find_tensor(name);
    if (!tensor) {
        throw FormatError("'" + file_.path() + "' lacks the tensor '" + name +
                          "'. The conversion was not complete: convert the checkpoint again.");
    }
    if (!tensor->supported && !tensor->transcodable) {
        throw FormatError("In '" + file_.path() + "' tensor '" + name + "' has the type " +
                          tensor->type_name +
                          ", which this version cannot use. Get the model in another type, for example q8_0, "
                          "q6_K, q4_K or q4_0, or convert the original checkpoint with "
                          "'python -m chatglm_cpp.convert -i HF_FOLDER -o model.gguf'.");
    }
    if (tensor->shape != shape) {
        throw FormatError("In '" + file_.path() + "' tensor '" + name + "' has the shape " +
                          shape_text(tensor->shape) + "; the model's sizes ask for " + shape_text(shape) +
                          ".");
    }
    return *tensor;
}

Weight WeightLoader::matrix(const std::string& name, int64_t rows, int64_t cols) {
    const GgufTensor& tensor = find(name, {rows, cols});
    if (tensor.supported) return backend_.load_matrix(tensor);
    if (!pool_) pool_.emplace(backend_.n_threads());
    return backend_.load_matrix(repacked_.add(file_, tensor, *pool_));
}

const float* WeightLoader::vector(const std::string& name, int64_t n) {
    return widen(find(name, {n}), n);
}

const float* WeightLoader::rows(const std::string& name, int64_t n_rows, int64_t n_cols) {
    return widen(find(name, {n_rows, n_cols}), n_rows * n_cols);
}

const float* WeightLoader::widen(const GgufTensor& tensor, int64_t n) {
    std::vector<float> values(static_cast<size_t>(n));
    if (tensor.supported) {
        dequantize_row(tensor.type, tensor.data.data(), values.data(), n);
    } else {
        dequantize_row(static_cast<SuperType>(tensor.ggml_type), tensor.data.data(), values.data(), n);
    }
    vectors_.push_back(backend_.allocate(values.size() * sizeof(float)));
    backend_.upload(values.data(), vectors_.back().get(), values.size() * sizeof(float));
    return reinterpret_cast<const float*>(vectors_.back().get());
}

NormWeight WeightLoader::norm(const std::string& name, int64_t n, NormKind kind) {
    NormWeight norm;
    norm.weight = vector(name + ".weight", n);
    if (kind == NormKind::layer) norm.bias = vector(name + ".bias", n);
    return norm;
}

}  // namespace chatglm
