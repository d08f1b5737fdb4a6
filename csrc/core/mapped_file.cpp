#include "core/mapped_file.h"

#include <cstring>
#include <new>
#include <utility>

#include "chatglm/error.h"

#ifdef _WIN32
#ifndef _WIN32_WINNT
#define _WIN32_WINNT 0x0A00
#endif
#define WIN32_LEAN_AND_MEAN
#ifndef NOMINMAX
#define NOMINMAX
#endif
#include <windows.h>

#include <filesystem>
#else
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#endif

namespace chatglm {

MappedFile::MappedFile(const std::string& path, Mode mode) {
    map(path);
    if (mode == Mode::copy) replace_by_copy(path);
}

MappedFile::~MappedFile() {
    if (!copy_) unmap();
}

void MappedFile::replace_by_copy(const std::string& path) {
    std::unique_ptr<uint8_t[]> copy(new (std::nothrow) uint8_t[size_ + 1]);
    if (!copy) {
        unmap();
        throw OutOfMemory("There is no memory for the " + std::to_string(size_ >> 20) + " MiB of '" + path +
                          "'.");
    }
    if (size_ > 0) std::memcpy(copy.get(), data_, size_);
    unmap();
    copy_ = std::move(copy);
    data_ = copy_.get();
}

#ifdef _WIN32

namespace {

std::string words_of(DWORD code) {
    switch (code) {
        case ERROR_FILE_NOT_FOUND:
        case ERROR_PATH_NOT_FOUND:
            return "there is no such file";
        case ERROR_ACCESS_DENIED:
            return "it is a folder, or may not be read";
        case ERROR_SHARING_VIOLATION:
            return "another program is writing it";
        default:
            return "Windows error " + std::to_string(code);
    }
}

}  // namespace

void MappedFile::map(const std::string& path) {
    const std::filesystem::path native(reinterpret_cast<const char8_t*>(path.c_str()));
    const HANDLE file = CreateFileW(native.c_str(), GENERIC_READ, FILE_SHARE_READ | FILE_SHARE_DELETE,
                                    nullptr, OPEN_EXISTING, FILE_ATTRIBUTE_NORMAL, nullptr);
    if (file == INVALID_HANDLE_VALUE) {
        const DWORD code = GetLastError();
        const bool missing = code == ERROR_FILE_NOT_FOUND || code == ERROR_PATH_NOT_FOUND;
        throw FileError("Cannot open '" + path + "': " + words_of(code) + ".", missing);
    }
    // A pipe or device has no bytes to map, and a pipe would be waited for.
    LARGE_INTEGER size{};
    HANDLE mapping = nullptr;
    const bool is_file = GetFileType(file) == FILE_TYPE_DISK;
    const bool has_size = is_file && GetFileSizeEx(file, &size) != 0;
    if (has_size && size.QuadPart > 0) {
        mapping = CreateFileMappingW(file, nullptr, PAGE_READONLY, 0, 0, nullptr);
        if (mapping) data_ = static_cast<const uint8_t*>(MapViewOfFile(mapping, FILE_MAP_READ, 0, 0, 0));
    }
    const DWORD code = GetLastError();
    if (mapping) CloseHandle(mapping);
    CloseHandle(file);
    if (!is_file) throw FileError("Cannot read '" + path + "': it is not a regular file.", false);
    if (!has_size || (size.QuadPart > 0 && !data_)) {
        throw FileError("Cannot map '" + path + "' into memory: " + words_of(code) + ".", false);
    }
    size_ = static_cast<size_t>(size.QuadPart);
}

void MappedFile::unmap() {
    if (data_) UnmapViewOfFile(data_);
}

void MappedFile::will_need(std::span<const uint8_t> part) const {
    if (copy_ || part.empty()) return;
    WIN32_MEMORY_RANGE_ENTRY range{const_cast<uint8_t*>(part.data()), part.size()};
    PrefetchVirtualMemory(GetCurrentProcess(), 1, &range, 0);
}

void MappedFile::release(std::span<const uint8_t> part) const {
    if (copy_) return;
    // Unlocking pages that are not locked fails and takes them out of the working set.
    if (!part.empty()) VirtualUnlock(const_cast<uint8_t*>(part.data()), part.size());
}

#else

void MappedFile::map(const std::string& path) {
    // Without waiting: a pipe would for its other end.
    const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (descriptor < 0) {
        const int code = errno;
        throw FileError(
            "Cannot open '" + path +
                "': " + (code == ENOENT ? "there is no such file." : std::string(std::strerror(code)) + "."),
            code == ENOENT);
    }
    struct stat status{};
    std::string problem;
    if (::fstat(descriptor, &status) != 0) {
        problem = std::strerror(errno);
    } else if (!S_ISREG(status.st_mode)) {
        problem = S_ISDIR(status.st_mode) ? "it is a folder" : "it is not a regular file";
    } else if (status.st_size > 0) {
        void* address =
            ::mmap(nullptr, static_cast<size_t>(status.st_size), PROT_READ, MAP_SHARED, descriptor, 0);
        if (address == MAP_FAILED) {
            problem = std::strerror(errno);
        } else {
            data_ = static_cast<const uint8_t*>(address);
            size_ = static_cast<size_t>(status.st_size);
        }
    }
    ::close(descriptor);
    if (!problem.empty()) throw FileError("Cannot read '" + path + "': " + problem + ".", false);
}

void MappedFile::unmap() {
    if (data_) ::munmap(const_cast<uint8_t*>(data_), size_);
}

void MappedFile::will_need(std::span<const uint8_t> part) const {
    if (copy_ || part.empty()) return;
    const auto page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));  // 16 KB on Apple's chips
    const auto offset = static_cast<size_t>(part.data() - data_);
    const size_t begin = offset / page * page;
    ::madvise(const_cast<uint8_t*>(data_) + begin, offset + part.size() - begin, MADV_WILLNEED);
}

void MappedFile::release(std::span<const uint8_t> part) const {
    if (copy_ || part.empty()) return;
    const auto page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
    const auto offset = static_cast<size_t>(part.data() - data_);
    const size_t begin = (offset + page - 1) / page * page, end = (offset + part.size()) / page * page;
    if (begin < end) ::madvise(const_cast<uint8_t*>(data_) + begin, end - begin, MADV_DONTNEED);
}

#endif

}  // namespace chatglm
