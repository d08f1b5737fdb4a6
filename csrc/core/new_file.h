// A file that is there whole or not at all.
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <span>
#include <string>

namespace chatglm {

// Writes beside `path` under a name of its own; commit() puts the file in place of what was there. Without
// commit nothing is left behind.
class NewFile {
  public:
    // `path` is UTF-8. Throws FileError, as the others do.
    explicit NewFile(const std::string& path);
    ~NewFile();
    NewFile(const NewFile&) = delete;
    NewFile& operator=(const NewFile&) = delete;

    void write(std::span<const uint8_t> bytes);
    void commit();

  private:
    [[noreturn]] void fail() const;

    const std::string name_;  // for sentences
    const std::filesystem::path path_;
    std::filesystem::path temporary_;
    std::ofstream out_;
    bool committed_ = false;
};

}  // namespace chatglm
