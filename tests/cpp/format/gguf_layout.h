// Where everything lies in a well-formed GGUF file, for tests that damage it. Independent of the reader.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "format/gguf_builder.h"

namespace chatglm::test {

struct GgufLayout {
    // A number of the header that says how to read on.
    struct Field {
        std::string what;
        size_t offset, bytes;
    };
    struct Entry {
        std::string key;
        size_t begin, value, end;  // of the length of the key, of the value behind its type
    };
    std::vector<Field> fields;
    std::vector<Entry> entries;
    std::vector<size_t> boundaries;  // between any two things in the file
    size_t tensors_begin = 0, header_end = 0, data_begin = 0;

    explicit GgufLayout(const std::string& file, size_t alignment = 32) : file_(file) {
        number<uint32_t>("magic");
        number<uint32_t>("version");
        const auto n_tensors = number<uint64_t>("number of tensors");
        const auto n_values = number<uint64_t>("number of values");
        for (uint64_t i = 0; i < n_values; ++i) {
            Entry entry;
            entry.begin = at_;
            entry.key = text("length of a key");
            const auto type = static_cast<GgufType>(number<uint32_t>("type of " + entry.key));
            entry.value = at_;
            value(type, entry.key);
            entry.end = at_;
            entries.push_back(entry);
        }
        tensors_begin = at_;
        for (uint64_t i = 0; i < n_tensors; ++i) {
            const std::string name = text("length of the name of a tensor");
            const auto n_dims = number<uint32_t>("dimensions of " + name);
            for (uint32_t d = 0; d < n_dims; ++d) number<uint64_t>("a dimension of " + name);
            number<uint32_t>("type of " + name);
            number<uint64_t>("offset of " + name);
        }
        header_end = at_;
        data_begin = (at_ + alignment - 1) / alignment * alignment;
        boundaries.insert(boundaries.end(), {header_end, header_end + 1, data_begin});
        for (size_t at = data_begin; at < file.size(); at += 4096) boundaries.push_back(at);
        boundaries.push_back(file.size() - 1);
    }

  private:
    template <class T>
    T number(const std::string& what) {
        T result;
        std::memcpy(&result, file_.data() + at_, sizeof result);
        fields.push_back({what, at_, sizeof result});
        skip(sizeof result);
        return result;
    }
    std::string text(const std::string& what) {
        const auto length = static_cast<size_t>(number<uint64_t>(what));
        const std::string result = file_.substr(at_, length);
        skip(length);
        return result;
    }
    void skip(size_t bytes) {
        boundaries.push_back(at_);
        at_ += bytes;
    }
    void value(GgufType type, const std::string& key) {
        constexpr size_t kBytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
        if (type == GgufType::string) {
            text("length of " + key);
        } else if (type == GgufType::array) {
            const auto element = static_cast<GgufType>(number<uint32_t>("type of the elements of " + key));
            const auto count = number<uint64_t>("number of elements of " + key);
            for (uint64_t i = 0; i < count; ++i) {
                // All elements are alike: the first and the last may be damaged.
                const size_t n_fields = fields.size();
                value(element, key);
                if (i > 0 && i + 1 < count) fields.resize(n_fields);
            }
        } else {
            skip(kBytes[static_cast<size_t>(type)]);
        }
    }

    const std::string& file_;
    size_t at_ = 0;
};

}  // namespace chatglm::test
