// A read-only file in memory, mapped by the system or copied.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace chatglm {

class MappedFile {
  public:
    // A map follows what others do to the file while it is open, and a file that shrinks ends the program. A
    // copy does not: for small files that people replace.
    enum class Mode { map, copy };

    // `path` is UTF-8 on every system. Throws FileError; OutOfMemory for a copy. An empty file gives an empty
    // span.
    explicit MappedFile(const std::string& path, Mode mode = Mode::map);
    ~MappedFile();
    MappedFile(const MappedFile&) = delete;
    MappedFile& operator=(const MappedFile&) = delete;

    std::span<const uint8_t> bytes() const { return {data_, size_}; }
    size_t size() const { return size_; }

    // Tells the system that `part` of bytes() will be read soon, so that it may read ahead. Returns at once.
    void will_need(std::span<const uint8_t> part) const;

    // Gives back the memory that reading `part` of bytes() has taken: its whole pages, which the system reads
    // again when they are used again.
    void release(std::span<const uint8_t> part) const;

  private:
    void map(const std::string& path);
    void unmap();
    void replace_by_copy(const std::string& path);

    std::unique_ptr<uint8_t[]> copy_;
    const uint8_t* data_ = nullptr;
    size_t size_ = 0;
};

}  // namespace chatglm
