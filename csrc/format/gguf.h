// Reader of GGUF v2/v3 files. Nothing in the file is trusted: every count, offset, length and sum is checked
// before it is used, and every error is a FormatError that names the file and the place.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/mapped_file.h"
#include "format/dtype.h"

namespace chatglm {

enum class GgufType : uint32_t { u8, i8, u16, i16, u32, i32, f32, boolean, string, array, u64, i64, f64 };

// Where one metadata value lies in the file. Arrays are not copied: `data` points at the first element.
struct GgufValue {
    GgufType type{};
    GgufType element_type{};        // arrays only
    uint64_t count = 1;             // elements of an array, otherwise 1
    std::span<const uint8_t> data;  // the encoded value(s): for strings including the length fields
};

struct GgufTensor {
    std::string name;
    DType type{};  // valid only if `supported`
    uint32_t ggml_type = 0;
    std::string type_name;          // ggml's, "q4_K"; "ggml type 99" for a number that is unknown
    bool supported = false;         // a type that the engine computes with
    bool transcodable = false;      // a SuperType, which is repacked as such a type at load
    std::vector<int64_t> shape;     // outermost first, as in Python: (rows, cols)
    std::span<const uint8_t> data;  // empty when the type is unknown
};

class GgufFile {
  public:
    // Throws FileError, FormatError.
    explicit GgufFile(const std::string& path, MappedFile::Mode mode = MappedFile::Mode::map);

    const std::string& path() const { return path_; }
    const std::map<std::string, GgufValue, std::less<>>& metadata() const { return metadata_; }
    const std::vector<GgufTensor>& tensors() const { return tensors_; }
    const GgufTensor* find_tensor(std::string_view name) const;
    uint64_t file_size() const { return file_->size(); }
    // Lets the system read ahead `bytes`, a part of this file that will be used soon.
    void will_need(std::span<const uint8_t> bytes) const { file_->will_need(bytes); }
    // Gives back the memory that reading `bytes`, a part of this file, has taken. They can be read again.
    void release(std::span<const uint8_t> bytes) const { file_->release(bytes); }

    bool has(std::string_view key) const { return metadata_.find(key) != metadata_.end(); }
    // Typed access. Integers of any width convert when the value fits. Without a default a missing key
    // throws; a value of another kind always throws.
    int64_t get_int(std::string_view key) const;
    int64_t get_int(std::string_view key, int64_t fallback) const;
    double get_float(std::string_view key) const;
    double get_float(std::string_view key, double fallback) const;
    bool get_bool(std::string_view key, bool fallback) const;
    std::string get_string(std::string_view key) const;
    std::string get_string(std::string_view key, std::string_view fallback) const;
    // Arrays; an absent key gives an empty result. The views live as long as the file.
    uint64_t array_size(std::string_view key) const;  // elements; 0 also when it is no array
    std::vector<std::string_view> get_strings(std::string_view key) const;
    std::vector<int64_t> get_ints(std::string_view key) const;
    std::vector<float> get_floats(std::string_view key) const;
    std::span<const uint8_t> get_bytes(std::string_view key) const;  // array of u8/i8

  private:
    const GgufValue* find(std::string_view key) const;
    std::string path_;
    std::unique_ptr<MappedFile> file_;
    std::map<std::string, GgufValue, std::less<>> metadata_;
    std::vector<GgufTensor> tensors_;
    std::map<std::string, size_t, std::less<>> tensor_index_;
};

}  // namespace chatglm
