#include "model/repacked_weights.h"

#include <algorithm>
#include <atomic>
#include <new>
#include <utility>

#include "chatglm/error.h"
#include "core/memory.h"
#include "format/transcode.h"

namespace chatglm {
namespace {

// About this many elements a chunk: far more work than taking a chunk.
constexpr int64_t kChunk = 65536;

// "q4_K", "q4_K and q6_K", "q3_K, q4_K and q6_K"
std::string list(const std::vector<std::string>& names) {
    std::string text;
    for (size_t i = 0; i < names.size(); ++i) {
        text += (i == 0 ? "" : i + 1 < names.size() ? ", " : " and ") + names[i];
    }
    return text;
}

}  // namespace

GgufTensor RepackedWeights::add(const GgufFile& file, const GgufTensor& tensor, ThreadPool& pool) {
    const auto from = static_cast<SuperType>(tensor.ggml_type);
    const DType to = transcoded_type(from);
    const int64_t rows = tensor.shape[0], cols = tensor.shape[1];
    const int64_t in_bytes = static_cast<int64_t>(tensor.data.size()) / rows, out_bytes = row_bytes(to, cols);
    const auto size = static_cast<size_t>(rows * out_bytes);
    std::unique_ptr<uint8_t[]> memory(new (std::nothrow) uint8_t[size]);
    if (!memory) {
        throw OutOfMemory("There is no memory for the " + std::to_string(size >> 20) + " MiB that tensor '" +
                          tensor.name + "' of '" + file.path() + "' takes, repacked as " +
                          dtype_info(to).name +
                          ". Close other programs or convert the original checkpoint to q4_0, which is used "
                          "where it lies in the file.");
    }
    const int64_t chunk = std::max<int64_t>(1, kChunk / cols);
    std::atomic<int64_t> bad_row{rows};
    pool.parallel_for((rows + chunk - 1) / chunk, [&](int64_t i, int) {
        for (int64_t row = i * chunk; row < std::min(rows, (i + 1) * chunk); ++row) {
            if (transcode_row(from, tensor.data.data() + row * in_bytes, memory.get() + row * out_bytes,
                              cols)) {
                continue;
            }
            int64_t first = bad_row.load();
            while (row < first && !bad_row.compare_exchange_weak(first, row)) {
            }
        }
    });
    if (bad_row.load() < rows) {
        throw FormatError("In '" + file.path() + "' row " + std::to_string(bad_row.load()) + " of tensor '" +
                          tensor.name + "' (" + tensor.type_name +
                          ") has a scale that is not a number or far too large. The file is damaged: "
                          "download it again or convert the original checkpoint.");
    }
    file.release(tensor.data);
    types_[tensor.type_name] = dtype_info(to).name;
    bytes_ += static_cast<int64_t>(size);
    data_.push_back(std::move(memory));

    GgufTensor repacked = tensor;
    repacked.type = to;
    repacked.ggml_type = static_cast<uint32_t>(to);
    repacked.type_name = dtype_info(to).name;
    repacked.supported = true;
    repacked.transcodable = false;
    repacked.data = {data_.back().get(), size};
    return repacked;
}

std::vector<std::string> RepackedWeights::notes() const {
    if (data_.empty()) return {};
    std::vector<std::string> from, to;
    for (const auto& [stored, used] : types_) {
        from.push_back(stored);
        if (std::find(to.begin(), to.end(), used) == to.end()) to.push_back(used);
    }
    const bool one = data_.size() == 1;
    return {std::to_string(data_.size()) + (one ? " matrix" : " matrices") + " of the type" +
            (from.size() == 1 ? " " : "s ") + list(from) + (one ? " was" : " were") + " repacked as " +
            list(to) + " (" + memory_text(bytes_) +
            " in memory) because this engine computes with those; convert the original checkpoint to save "
            "the time and memory."};
}

}  // namespace chatglm
