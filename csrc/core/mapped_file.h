// A read-only file in memory, mapped by the system.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace chatglm {

class MappedFile {
  public:
    // `path` is UTF-8 on every system. Throws FileError. An empty file gives an empty span.
    explicit MappedFile(const std::string& path);
    ~MappedFile();
    MappedFile(const MappedFile&) = delete;
    MappedFile& operator=(const MappedFile&) = delete;

    std::span<const uint8_t> bytes() const { return {data_, size_}; }
    size_t size() const { return size_; }

    // Gives back the memory that reading `part` of bytes() has taken: its whole pages, which the system reads
    // again when they are used again.
    void release(std::span<const uint8_t> part) const;

  private:
    const uint8_t* data_ = nullptr;
    size_t size_ = 0;
};

}  // namespace chatglm
