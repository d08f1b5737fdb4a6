#include "generate/fingerprint.h"

#include <algorithm>
#include <cstdio>

#include "core/checksum.h"

namespace chatglm {
namespace {

constexpr size_t kSample = 1024;

void add_sample(Checksum& sum, std::span<const uint8_t> data) {
    const size_t n = std::min(kSample, data.size());
    for (const size_t begin : {size_t{0}, (data.size() - n) / 2, data.size() - n}) {
        sum.add(data.subspan(begin, n));
    }
}

}  // namespace

std::string fingerprint(const GgufFile& file) {
    Checksum sum;
    const auto add_number = [&](uint64_t number) { sum.add(&number, sizeof number); };
    for (const auto& [key, value] : file.metadata()) {
        sum.add_text(key);
        add_number(static_cast<uint64_t>(value.type));
        add_number(static_cast<uint64_t>(value.element_type));
        add_number(value.data.size());
        sum.add(value.data);
    }
    for (const GgufTensor& tensor : file.tensors()) {
        sum.add_text(tensor.name);
        add_number(tensor.ggml_type);
        for (const int64_t size : tensor.shape) add_number(static_cast<uint64_t>(size));
        add_number(tensor.data.size());
        add_sample(sum, tensor.data);
    }
    char digits[17];
    std::snprintf(digits, sizeof digits, "%016llx", static_cast<unsigned long long>(sum.value()));
    return digits;
}

}  // namespace chatglm
