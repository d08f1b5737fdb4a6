// The file of a session: a conversation, and the pages of keys and values that were computed for it.
//
//     8 bytes   "GLM-SESS"
//     u32       version, 1
//     u32       bytes of the header
//     u64       bytes of the pages
//     u64       checksum of the 24 bytes before and of the header
//     header    JSON: what SessionHeader says
//     pages     KvLayout::page_bytes() each
//     u64       checksum of the pages
//
// Numbers are little-endian. docs/sessions.md says what must agree for the pages to be used.
#pragma once

#include <cstdint>
#include <fstream>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "chatglm/session.h"
#include "core/checksum.h"

namespace chatglm {

struct SessionHeader {
    std::vector<ChatMessage> messages;
    std::string tools;
    std::string model;              // name
    std::string model_fingerprint;  // of the file
    std::string kv_dtype;
    // The program that computed the pages: others may round differently.
    std::string engine;
    struct Adapter {
        std::string name;  // for sentences
        std::string fingerprint;
        double scale = 1;
        // By what it does, whatever its file is called.
        bool operator==(const Adapter& other) const {
            return fingerprint == other.fingerprint && scale == other.scale;
        }
    };
    std::vector<Adapter> adapters;
    std::vector<int32_t> ids;  // tokens of the pages
};

// Puts a session in place of what was at `path`. Throws FileError; InvalidArgument for a conversation of too
// many bytes; Interrupted when `interrupted`, asked for each page, says true. After an exception everything
// is as it was.
void write_session(const std::string& path, const SessionHeader& header,
                   std::span<const std::span<const uint8_t>> pages, const std::function<bool()>& interrupted);

class SessionReader {
  public:
    // Reads all but the pages. Throws FileError, FormatError. Takes no more memory than the header of the
    // file, which has a bound, needs.
    explicit SessionReader(const std::string& path);

    const SessionHeader& header() const { return header_; }
    uint64_t page_bytes() const { return page_bytes_; }  // of all pages together

    // The next bytes of the pages.
    void read(std::span<uint8_t> bytes);
    // Passes over what is left of them. Throws FormatError when the pages were damaged.
    void finish(const std::function<bool()>& interrupted);

    [[noreturn]] void fail(const std::string& why) const;

  private:
    void parse_header(const std::string& text);

    const std::string path_;
    std::ifstream in_;
    SessionHeader header_;
    uint64_t page_bytes_ = 0, n_left_ = 0;
    Checksum checksum_;  // of the pages
};

}  // namespace chatglm
