#include "core/new_file.h"

#include <atomic>
#include <system_error>

#include "chatglm/error.h"
#include "core/process.h"

namespace chatglm {
namespace {

// Differs from those of other threads and processes.
std::string unique_suffix() {
    static std::atomic<int> n{0};
    return "." + std::to_string(process_id()) + "-" + std::to_string(++n) + ".part";
}

}  // namespace

NewFile::NewFile(const std::string& path) : name_(path), path_(std::u8string(path.begin(), path.end())) {
    std::error_code ignored;
    if (std::filesystem::is_directory(path_, ignored))
        throw FileError("'" + path + "' is a folder; name a file.", false);
    const auto folder = path_.parent_path();
    if (!folder.empty() && !std::filesystem::is_directory(folder, ignored)) {
        throw FileError("'" + path + "' cannot be written: there is no such folder.", true);
    }
    temporary_ = path_;
    temporary_ += unique_suffix();
    out_.open(temporary_, std::ios::binary | std::ios::trunc);
    if (!out_) fail();
}

NewFile::~NewFile() {
    if (committed_) return;
    out_.close();
    std::error_code ignored;
    std::filesystem::remove(temporary_, ignored);
}

void NewFile::fail() const {
    throw FileError("'" + name_ + "' cannot be written: the disk is full, or writing there is not allowed.",
                    false);
}

void NewFile::write(std::span<const uint8_t> bytes) {
    out_.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    if (!out_) fail();
}

void NewFile::commit() {
    out_.close();
    if (!out_) fail();
    std::error_code error;
    std::filesystem::rename(temporary_, path_, error);
    if (error) fail();
    committed_ = true;
}

}  // namespace chatglm
