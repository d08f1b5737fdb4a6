#include "format/gguf.h"

#include <bit>
#include <cmath>
#include <cstring>

#include "chatglm/error.h"
#include "format/stored_type.h"
#include "format/super_blocks.h"

static_assert(std::endian::native == std::endian::little, "GGUF files are read in place: little-endian only");

namespace chatglm {
namespace {

constexpr uint32_t kMagic = 0x46554747;          // "GGUF"
constexpr uint32_t kReversedMagic = 0x47475546;  // as a big-endian machine writes it
constexpr uint32_t kOldMagic = 0x6c6d6767;       // "ggml"
constexpr uint64_t kMaxKeyLength = 65535;        // the specification's limit
constexpr uint32_t kMaxDims = 4;
// A value or a tensor takes a multiple of its bytes in the file once it is read; real models have a few
// hundred.
constexpr uint64_t kMaxValues = 1 << 16;
constexpr uint64_t kMaxTensors = 1 << 17;

// Bytes of one element of a fixed-size metadata type, 0 for strings, arrays and unknown numbers.
size_t scalar_bytes(GgufType type) {
    switch (type) {
        case GgufType::u8:
        case GgufType::i8:
        case GgufType::boolean:
            return 1;
        case GgufType::u16:
        case GgufType::i16:
            return 2;
        case GgufType::u32:
        case GgufType::i32:
        case GgufType::f32:
            return 4;
        case GgufType::u64:
        case GgufType::i64:
        case GgufType::f64:
            return 8;
        default:
            return 0;
    }
}

template <class T>
T load(const uint8_t* p) {
    T value;
    std::memcpy(&value, p, sizeof value);
    return value;
}

// Reads forward through the header and never past its end.
class Cursor {
  public:
    Cursor(std::span<const uint8_t> bytes, const std::string& path) : bytes_(bytes), path_(path) {}

    size_t position() const { return position_; }
    size_t left() const { return bytes_.size() - position_; }

    [[noreturn]] void fail(const std::string& what) const {
        throw FormatError("'" + path_ + "' is not a readable GGUF file: " + what + " (near byte " +
                          std::to_string(position_) + " of " + std::to_string(bytes_.size()) +
                          "). The file may be damaged or cut short: convert or download it again.");
    }

    std::span<const uint8_t> take(uint64_t count, const char* what) {
        if (count > left()) fail(std::string("it ends inside ") + what);
        const auto result = bytes_.subspan(position_, static_cast<size_t>(count));
        position_ += static_cast<size_t>(count);
        return result;
    }

    template <class T>
    T number(const char* what) {
        return load<T>(take(sizeof(T), what).data());
    }

    std::string_view string(const char* what, uint64_t max_length = UINT64_MAX) {
        const auto length = number<uint64_t>(what);
        if (length > max_length) fail(std::string(what) + " is " + std::to_string(length) + " bytes long");
        const auto bytes = take(length, what);
        return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
    }

  private:
    std::span<const uint8_t> bytes_;
    const std::string& path_;
    size_t position_ = 0;
};

GgufValue read_value(Cursor& cursor, const std::string& key) {
    GgufValue value;
    const std::string place = "the value of '" + key + "'";
    value.type = static_cast<GgufType>(cursor.number<uint32_t>(place.c_str()));
    if (const size_t bytes = scalar_bytes(value.type)) {
        value.data = cursor.take(bytes, place.c_str());
        return value;
    }
    if (value.type == GgufType::string) {
        const auto text = cursor.string(place.c_str());
        value.data = {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
        return value;
    }
    if (value.type != GgufType::array) {
        cursor.fail(place + " has the unknown type " + std::to_string(static_cast<uint32_t>(value.type)));
    }
    value.element_type = static_cast<GgufType>(cursor.number<uint32_t>(place.c_str()));
    value.count = cursor.number<uint64_t>(place.c_str());
    if (const size_t bytes = scalar_bytes(value.element_type)) {
        if (value.count > cursor.left() / bytes) cursor.fail("it ends inside " + place);
        value.data = cursor.take(value.count * bytes, place.c_str());
        return value;
    }
    if (value.element_type != GgufType::string) {
        cursor.fail(place + " is an array of the type " +
                    std::to_string(static_cast<uint32_t>(value.element_type)) + ", which cannot be read");
    }
    if (value.count > cursor.left() / sizeof(uint64_t)) cursor.fail("it ends inside " + place);
    // Walk over the strings once so that later readers may trust the lengths.
    const size_t begin = cursor.position();
    Cursor start = cursor;
    for (uint64_t i = 0; i < value.count; ++i) cursor.string(place.c_str());
    value.data = start.take(cursor.position() - begin, place.c_str());
    return value;
}

struct TensorHeader {
    GgufTensor tensor;
    uint64_t offset = 0;
};

TensorHeader read_tensor_header(Cursor& cursor) {
    TensorHeader header;
    GgufTensor& tensor = header.tensor;
    tensor.name = cursor.string("the name of a tensor", kMaxKeyLength);
    const std::string place = "the description of tensor '" + tensor.name + "'";
    const auto n_dims = cursor.number<uint32_t>(place.c_str());
    if (n_dims == 0 || n_dims > kMaxDims) {
        cursor.fail("tensor '" + tensor.name + "' has " + std::to_string(n_dims) + " dimensions");
    }
    tensor.shape.resize(n_dims);
    for (uint32_t i = 0; i < n_dims; ++i) {  // stored innermost first
        const auto size = cursor.number<uint64_t>(place.c_str());
        if (size == 0 || size > (uint64_t{1} << 40)) {
            cursor.fail("tensor '" + tensor.name + "' has a dimension of size " + std::to_string(size));
        }
        tensor.shape[n_dims - 1 - i] = static_cast<int64_t>(size);
    }
    tensor.ggml_type = cursor.number<uint32_t>(place.c_str());
    header.offset = cursor.number<uint64_t>(place.c_str());
    return header;
}

// Bytes of a tensor's data; refuses sizes that overflow or that do not consist of whole blocks.
uint64_t tensor_bytes(const Cursor& cursor, const GgufTensor& tensor, const StoredType& type) {
    const int64_t row = tensor.shape.back();
    if (row % type.block_size != 0) {
        cursor.fail("the rows of tensor '" + tensor.name + "' have " + std::to_string(row) +
                    " elements, which is not a whole number of " + type.name + " blocks of " +
                    std::to_string(type.block_size));
    }
    uint64_t bytes = static_cast<uint64_t>(row / type.block_size) * static_cast<uint64_t>(type.block_bytes);
    for (size_t i = 0; i + 1 < tensor.shape.size(); ++i) {
        const auto n = static_cast<uint64_t>(tensor.shape[i]);
        if (bytes > UINT64_MAX / n) cursor.fail("the size of tensor '" + tensor.name + "' overflows");
        bytes *= n;
    }
    return bytes;
}

[[noreturn]] void big_endian(const std::string& path) {
    throw FormatError(
        "'" + path +
        "' is a big-endian GGUF file, and this program reads little-endian ones only. Download the "
        "ordinary file, or turn its bytes with 'gguf-convert-endian FILE little' of the Python "
        "package gguf.");
}

}  // namespace

GgufFile::GgufFile(const std::string& path, MappedFile::Mode mode)
    : path_(path), file_(std::make_unique<MappedFile>(path, mode)) {
    Cursor cursor(file_->bytes(), path_);
    const uint32_t magic = file_->size() < 4 ? 0 : load<uint32_t>(file_->bytes().data());
    if (magic == kReversedMagic) big_endian(path_);
    if (magic == kOldMagic) {
        throw FormatError("'" + path_ +
                          "' is a model file of chatglm.cpp up to version 0.4. Convert it, which keeps its "
                          "weights as they are, with 'python -m chatglm_cpp.convert -i " +
                          path_ + " -o model.gguf'.");
    }
    if (magic != kMagic) {
        throw FormatError("'" + path_ +
                          "' is not a GGUF file: it does not begin with the letters GGUF. Make one with "
                          "'python -m chatglm_cpp.convert -i HF_FOLDER -o model.gguf'; the .bin files of "
                          "chatglm.cpp up to version 0.4, which begin with ggml, convert too.");
    }
    cursor.take(4, "the header");
    const auto version = cursor.number<uint32_t>("the header");
    if (version == 2u << 24 || version == 3u << 24) big_endian(path_);
    if (version != 2 && version != 3) {
        cursor.fail("it says version " + std::to_string(version) + ", and versions 2 and 3 are known");
    }
    const auto n_tensors = cursor.number<uint64_t>("the header");
    const auto n_values = cursor.number<uint64_t>("the header");
    // The smallest entry takes a length, a type and a byte of value; 24 bytes for a tensor.
    if (n_values > cursor.left() / 13 || n_values > kMaxValues)
        cursor.fail("it claims " + std::to_string(n_values) + " metadata values");
    if (n_tensors > cursor.left() / 24 || n_tensors > kMaxTensors)
        cursor.fail("it claims " + std::to_string(n_tensors) + " tensors");

    for (uint64_t i = 0; i < n_values; ++i) {
        std::string key(cursor.string("a metadata key", kMaxKeyLength));
        GgufValue value = read_value(cursor, key);
        if (!metadata_.emplace(key, value).second) cursor.fail("the key '" + key + "' occurs twice");
    }

    std::vector<TensorHeader> headers;
    headers.reserve(static_cast<size_t>(n_tensors));
    for (uint64_t i = 0; i < n_tensors; ++i) headers.push_back(read_tensor_header(cursor));

    const int64_t alignment = get_int("general.alignment", 32);
    // Below 8 the elements would not lie where the processor can read them.
    if (alignment < 8 || alignment > (1 << 20) || (alignment & (alignment - 1)) != 0) {
        cursor.fail("general.alignment is " + std::to_string(alignment) +
                    "; a power of two between 8 and 1048576 is needed");
    }
    const auto align = static_cast<uint64_t>(alignment);
    const uint64_t data_begin = (cursor.position() + align - 1) / align * align;

    tensors_.reserve(headers.size());
    for (TensorHeader& header : headers) {
        GgufTensor& tensor = header.tensor;
        if (header.offset % align != 0) {
            cursor.fail("tensor '" + tensor.name + "' begins at the unaligned offset " +
                        std::to_string(header.offset));
        }
        const uint64_t room = data_begin <= file_->size() ? file_->size() - data_begin : 0;
        tensor.type_name = "ggml type " + std::to_string(tensor.ggml_type);
        if (const auto stored = find_stored_type(tensor.ggml_type)) {
            const uint64_t bytes = tensor_bytes(cursor, tensor, *stored);
            if (header.offset > room || bytes > room - header.offset) {
                throw FormatError("'" + path_ + "' is cut short: tensor '" + tensor.name + "' needs bytes " +
                                  std::to_string(data_begin + header.offset) + " to " +
                                  std::to_string(data_begin + header.offset + bytes) + ", and the file has " +
                                  std::to_string(file_->size()) + ". Convert or download it again.");
            }
            tensor.type_name = stored->name;
            if (const DTypeInfo* info = find_dtype(tensor.ggml_type)) {
                tensor.type = info->type;
                tensor.supported = true;
            }
            tensor.transcodable = find_super_type(tensor.ggml_type) != nullptr;
            tensor.data = file_->bytes().subspan(static_cast<size_t>(data_begin + header.offset),
                                                 static_cast<size_t>(bytes));
        }
        if (!tensor_index_.emplace(tensor.name, tensors_.size()).second) {
            cursor.fail("the tensor '" + tensor.name + "' occurs twice");
        }
        tensors_.push_back(std::move(tensor));
    }
}

const GgufTensor* GgufFile::find_tensor(std::string_view name) const {
    const auto found = tensor_index_.find(name);
    return found == tensor_index_.end() ? nullptr : &tensors_[found->second];
}

const GgufValue* GgufFile::find(std::string_view key) const {
    const auto found = metadata_.find(key);
    return found == metadata_.end() ? nullptr : &found->second;
}

namespace {

[[noreturn]] void missing(const std::string& path, std::string_view key) {
    throw FormatError(
        "'" + path + "' lacks the metadata key '" + std::string(key) +
        "'. It may come from another program or an older version: convert the checkpoint again.");
}

[[noreturn]] void wrong_kind(const std::string& path, std::string_view key, const char* wanted) {
    throw FormatError("In '" + path + "' the metadata key '" + std::string(key) + "' is not " + wanted + ".");
}

// Any integer element as int64; false when the type is not an integer or the value does not fit.
bool to_int(GgufType type, const uint8_t* p, int64_t& out) {
    switch (type) {
        case GgufType::u8:
            out = *p;
            return true;
        case GgufType::i8:
            out = load<int8_t>(p);
            return true;
        case GgufType::u16:
            out = load<uint16_t>(p);
            return true;
        case GgufType::i16:
            out = load<int16_t>(p);
            return true;
        case GgufType::u32:
            out = load<uint32_t>(p);
            return true;
        case GgufType::i32:
            out = load<int32_t>(p);
            return true;
        case GgufType::i64:
            out = load<int64_t>(p);
            return true;
        case GgufType::u64: {
            const auto value = load<uint64_t>(p);
            out = static_cast<int64_t>(value);
            return value <= static_cast<uint64_t>(INT64_MAX);
        }
        default:
            return false;
    }
}

bool to_float(GgufType type, const uint8_t* p, double& out) {
    if (type == GgufType::f32) {
        out = load<float>(p);
        return true;
    }
    if (type == GgufType::f64) {
        out = load<double>(p);
        return true;
    }
    int64_t integer = 0;
    if (!to_int(type, p, integer)) return false;
    out = static_cast<double>(integer);
    return true;
}

}  // namespace

int64_t GgufFile::get_int(std::string_view key) const {
    const GgufValue* value = find(key);
    if (!value) missing(path_, key);
    int64_t result = 0;
    if (!to_int(value->type, value->data.data(), result)) wrong_kind(path_, key, "an integer");
    return result;
}

int64_t GgufFile::get_int(std::string_view key, int64_t fallback) const {
    return has(key) ? get_int(key) : fallback;
}

double GgufFile::get_float(std::string_view key) const {
    const GgufValue* value = find(key);
    if (!value) missing(path_, key);
    double result = 0;
    if (!to_float(value->type, value->data.data(), result)) wrong_kind(path_, key, "a number");
    return result;
}

double GgufFile::get_float(std::string_view key, double fallback) const {
    return has(key) ? get_float(key) : fallback;
}

bool GgufFile::get_bool(std::string_view key, bool fallback) const {
    const GgufValue* value = find(key);
    if (!value) return fallback;
    if (value->type != GgufType::boolean) wrong_kind(path_, key, "true or false");
    return value->data[0] != 0;
}

std::string GgufFile::get_string(std::string_view key) const {
    const GgufValue* value = find(key);
    if (!value) missing(path_, key);
    if (value->type != GgufType::string) wrong_kind(path_, key, "a text");
    return {reinterpret_cast<const char*>(value->data.data()), value->data.size()};
}

std::string GgufFile::get_string(std::string_view key, std::string_view fallback) const {
    return has(key) ? get_string(key) : std::string(fallback);
}

uint64_t GgufFile::array_size(std::string_view key) const {
    const GgufValue* value = find(key);
    return value && value->type == GgufType::array ? value->count : 0;
}

std::vector<std::string_view> GgufFile::get_strings(std::string_view key) const {
    const GgufValue* value = find(key);
    if (!value) return {};
    if (value->type != GgufType::array || value->element_type != GgufType::string) {
        wrong_kind(path_, key, "a list of texts");
    }
    std::vector<std::string_view> result;
    result.reserve(static_cast<size_t>(value->count));
    const uint8_t* p = value->data.data();
    for (uint64_t i = 0; i < value->count; ++i) {  // the lengths were checked when the file was opened
        const auto length = static_cast<size_t>(load<uint64_t>(p));
        p += sizeof(uint64_t);
        result.emplace_back(reinterpret_cast<const char*>(p), length);
        p += length;
    }
    return result;
}

std::vector<int64_t> GgufFile::get_ints(std::string_view key) const {
    const GgufValue* value = find(key);
    if (!value) return {};
    if (value->type != GgufType::array) wrong_kind(path_, key, "a list of integers");
    const size_t bytes = scalar_bytes(value->element_type);
    if (bytes == 0) wrong_kind(path_, key, "a list of integers");
    std::vector<int64_t> result(static_cast<size_t>(value->count));
    for (size_t i = 0; i < result.size(); ++i) {
        if (!to_int(value->element_type, value->data.data() + i * bytes, result[i])) {
            wrong_kind(path_, key, "a list of integers");
        }
    }
    return result;
}

std::vector<float> GgufFile::get_floats(std::string_view key) const {
    const GgufValue* value = find(key);
    if (!value) return {};
    if (value->type != GgufType::array) wrong_kind(path_, key, "a list of numbers");
    const size_t bytes = scalar_bytes(value->element_type);
    if (bytes == 0) wrong_kind(path_, key, "a list of numbers");
    std::vector<float> result(static_cast<size_t>(value->count));
    for (size_t i = 0; i < result.size(); ++i) {
        double number = 0;
        if (!to_float(value->element_type, value->data.data() + i * bytes, number)) {
            wrong_kind(path_, key, "a list of numbers");
        }
        result[i] = static_cast<float>(number);
    }
    return result;
}

std::span<const uint8_t> GgufFile::get_bytes(std::string_view key) const {
    const GgufValue* value = find(key);
    if (!value) return {};
    if (value->type != GgufType::array || scalar_bytes(value->element_type) != 1) {
        wrong_kind(path_, key, "a list of bytes");
    }
    return value->data;
}

}  // namespace chatglm
