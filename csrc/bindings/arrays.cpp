// Functions over NumPy arrays: conversion of stored types, and what is in a file.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <string>
#include <vector>

#include "bindings/bindings.h"
#include "chatglm/error.h"
#include "core/half.h"
#include "core/memory.h"
#include "core/processors.h"
#include "core/thread_pool.h"
#include "format/gguf.h"
#include "format/quantize.h"
#include "format/super_blocks.h"
#include "format/transcode.h"
#include "model/memory_need.h"

namespace py = pybind11;

namespace chatglm::bindings {
namespace {

const DTypeInfo& dtype_by_name(const std::string& name) {
    if (const DTypeInfo* info = find_dtype(std::string_view(name))) return *info;
    throw InvalidArgument("There is no type named '" + name +
                          "'; the types are f32, f16, bf16, q8_0, q4_0, q4_1, q5_0 and q5_1.");
}

struct Rows {
    int64_t count = 0, n = 0;
};

Rows rows_of(const py::buffer_info& info, const char* what) {
    if (info.ndim == 1) return {1, info.shape[0]};
    if (info.ndim == 2) return {info.shape[0], info.shape[1]};
    throw InvalidArgument(std::string(what) + " has " + std::to_string(info.ndim) +
                          " dimensions; give a row or a matrix.");
}

py::array_t<uint8_t> quantize(const py::array& data, const std::string& source, const std::string& target,
                              int n_threads) {
    const DTypeInfo& from = dtype_by_name(source);
    const DTypeInfo& to = dtype_by_name(target);
    if (from.block_size != 1)
        throw InvalidArgument("The source type is '" + source + "'; it must be f32, f16 or bf16.");
    const auto contiguous = py::array::ensure(data, py::array::c_style);
    const py::buffer_info info = contiguous.request();
    const Rows rows = rows_of(info, "The array");
    if (info.itemsize != from.block_bytes) {
        throw InvalidArgument("The array has " + std::to_string(info.itemsize) + " bytes an element; " +
                              source + " has " + std::to_string(from.block_bytes) + ".");
    }
    if (rows.n % to.block_size != 0) {
        throw InvalidArgument("A row of " + std::to_string(rows.n) + " elements is not a whole number of " +
                              target + " blocks of " + std::to_string(to.block_size) + ".");
    }
    const int64_t bytes = row_bytes(to.type, rows.n);
    py::array_t<uint8_t> result({rows.count, bytes});
    const auto* in = static_cast<const uint8_t*>(info.ptr);
    uint8_t* out = result.mutable_data();
    py::gil_scoped_release release;
    ThreadPool pool(n_threads);
    // About 64K elements a chunk: far more work than taking a chunk.
    const int64_t chunk =
        std::clamp<int64_t>(65536 / std::max<int64_t>(rows.n, 1), 1, std::max<int64_t>(rows.count, 1));
    std::vector<std::vector<float>> widened(static_cast<size_t>(pool.size()));
    pool.parallel_for((rows.count + chunk - 1) / chunk, [&](int64_t i, int thread) {
        auto& row_f32 = widened[static_cast<size_t>(thread)];
        row_f32.resize(static_cast<size_t>(rows.n));
        for (int64_t row = i * chunk; row < std::min(rows.count, (i + 1) * chunk); ++row) {
            dequantize_row(from.type, in + row * rows.n * from.block_bytes, row_f32.data(), rows.n);
            quantize_row(to.type, row_f32.data(), out + row * bytes, rows.n);
        }
    });
    return result;
}

py::array_t<float> dequantize(const py::array_t<uint8_t, py::array::c_style | py::array::forcecast>& data,
                              const std::string& source) {
    const py::buffer_info info = data.request();
    const Rows rows = rows_of(info, "The array");
    const auto convert = [&](const auto& from) {
        if (rows.n % from.block_bytes != 0) {
            throw InvalidArgument("A row of " + std::to_string(rows.n) + " bytes is not a whole number of " +
                                  source + " blocks of " + std::to_string(from.block_bytes) + " bytes.");
        }
        const int64_t n = rows.n / from.block_bytes * from.block_size;
        py::array_t<float> result({rows.count, n});
        for (int64_t row = 0; row < rows.count; ++row) {
            dequantize_row(from.type, static_cast<const uint8_t*>(info.ptr) + row * rows.n,
                           result.mutable_data() + row * n, n);
        }
        return result;
    };
    if (const SuperTypeInfo* from = find_super_type(std::string_view(source))) return convert(*from);
    return convert(dtype_by_name(source));
}

py::str text(std::string_view bytes) {
    return py::reinterpret_steal<py::str>(
        PyUnicode_DecodeUTF8(bytes.data(), static_cast<Py_ssize_t>(bytes.size()), "replace"));
}

// A metadata value as Python's own; long arrays are cut to `limit` elements.
py::object to_python(const GgufFile& file, const std::string& key, const GgufValue& value, size_t limit) {
    switch (value.type) {
        case GgufType::string:
            return text(file.get_string(key));
        case GgufType::boolean:
            return py::bool_(file.get_bool(key, false));
        case GgufType::f32:
        case GgufType::f64:
            return py::float_(file.get_float(key));
        case GgufType::array:
            break;
        case GgufType::u64: {
            uint64_t number = 0;
            std::copy_n(value.data.data(), sizeof number, reinterpret_cast<uint8_t*>(&number));
            return py::int_(number);
        }
        default:
            return py::int_(file.get_int(key));
    }
    py::list result;
    const auto add = [&](const auto& values, const auto& convert) {
        for (size_t i = 0; i < std::min(values.size(), limit); ++i) result.append(convert(values[i]));
    };
    if (value.element_type == GgufType::string) {
        add(file.get_strings(key), [](std::string_view s) { return text(s); });
    } else if (value.element_type == GgufType::f32 || value.element_type == GgufType::f64) {
        add(file.get_floats(key), [](float v) { return py::float_(v); });
    } else if (value.element_type == GgufType::boolean) {
        add(file.get_bytes(key), [](uint8_t v) { return py::bool_(v != 0); });
    } else {
        add(file.get_ints(key), [](int64_t v) { return py::int_(v); });
    }
    return result;
}

// The type that the engine computes with for a tensor; null when it cannot use it.
const DTypeInfo* used_type(const GgufTensor& tensor) {
    if (tensor.supported) return &dtype_info(tensor.type);
    if (tensor.transcodable) return &dtype_info(transcoded_type(static_cast<SuperType>(tensor.ggml_type)));
    return nullptr;
}

py::dict read_gguf(const std::string& path, size_t max_array) {
    const GgufFile file(path);
    py::dict metadata, lengths;
    for (const auto& [key, value] : file.metadata()) {
        metadata[text(key)] = to_python(file, key, value, max_array);
        if (value.type == GgufType::array) lengths[text(key)] = value.count;
    }
    py::list tensors;
    for (const GgufTensor& tensor : file.tensors()) {
        py::dict entry;
        entry["name"] = text(tensor.name);
        const DTypeInfo* used = used_type(tensor);
        entry["type"] = tensor.type_name;
        entry["used_as"] = used ? py::object(py::str(used->name)) : py::none();
        entry["shape"] = py::tuple(py::cast(tensor.shape));
        entry["n_bytes"] = tensor.data.size();
        int64_t n_bytes_used = 0;
        if (used) {  // so its elements are in the file, and their number is no nonsense
            n_bytes_used = row_bytes(used->type, tensor.shape.back());
            for (size_t i = 0; i + 1 < tensor.shape.size(); ++i) n_bytes_used *= tensor.shape[i];
        }
        entry["n_bytes_used"] = n_bytes_used;
        tensors.append(entry);
    }
    py::dict result;
    result["metadata"] = metadata;
    result["array_lengths"] = lengths;
    result["tensors"] = tensors;
    result["file_size"] = file.file_size();
    return result;
}

}  // namespace

void bind_arrays(py::module_& m) {
    m.def("quantize", &quantize, py::arg("data"), py::arg("source"), py::arg("target"),
          py::arg("n_threads") = 0,
          "Rows of f32, f16 or bf16 elements as rows of `target` blocks: uint8 (rows, bytes per row). bf16 "
          "data is\n"
          "given as uint16. Raises ValueError for unknown types or rows that are no whole number of blocks.");
    m.def("dequantize", &dequantize, py::arg("data"), py::arg("source"),
          "uint8 (rows, bytes per row) of `source` blocks as float32 (rows, elements per row). `source` may "
          "be\n"
          "any type that files are read in: q2_K to q6_K, iq4_nl and iq4_xs too.");
    m.def(
        "read_gguf", &read_gguf, py::arg("path"), py::arg("max_array") = 16,
        "What a GGUF file holds: {'metadata', 'array_lengths', 'tensors', 'file_size'}. Arrays are cut to\n"
        "`max_array` elements. A tensor's `used_as` is the type that the engine computes with, None when it\n"
        "cannot; another one than `type` is made at load and takes `n_bytes_used`.");
    m.def(
        "memory_state",
        [] {
            const MemoryState state = memory_state();
            py::dict result;
            result["total"] = state.total;
            result["available"] = state.available;
            return result;
        },
        "Bytes of memory that this process may use, {'total', 'available'}; 0 where the system does not "
        "say.");
    m.def(
        "memory_note",
        [](int64_t n_bytes, int n_tokens) { return memory_note(n_bytes, n_tokens, memory_state()); },
        py::arg("n_bytes"), py::arg("n_tokens"),
        "A sentence when a model and a context of n_tokens, which take n_bytes, are more than is free; else "
        "''.");
    m.def("default_thread_count", &default_thread_count,
          "Physical cores of the fast kind that this process may use.");
}

}  // namespace chatglm::bindings
