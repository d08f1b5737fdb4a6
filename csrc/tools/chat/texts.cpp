#include "tools/chat/texts.h"

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <system_error>
#include <utility>

#include "chatglm/error.h"
#include "text/utf8.h"

namespace chatglm {

void check_utf8(std::string_view text, const std::string& source) {
    for (size_t i = 0; i < text.size();) {
        const Utf8Char c = decode_utf8(text.substr(i));
        if (!c.valid) {
            char byte[8];
            std::snprintf(byte, sizeof byte, "0x%02x", static_cast<unsigned char>(text[i]));
            throw InvalidArgument(source + " is not UTF-8: byte " + byte + " at offset " + std::to_string(i) +
                                  ".");
        }
        i += static_cast<size_t>(c.length);
    }
}

std::string to_text(std::string bytes, const std::string& source) {
    check_utf8(bytes, source);
    if (bytes.rfind("\xEF\xBB\xBF", 0) == 0) bytes.erase(0, 3);
    return bytes;
}

std::string read_file(const std::string& path) {
    const std::filesystem::path file(std::u8string(path.begin(), path.end()));
    std::error_code ignored;
    if (std::filesystem::is_directory(file, ignored)) {
        throw FileError("'" + path + "' is a folder; give a file of text.", false);
    }
    std::ifstream in(file, std::ios::binary);
    std::string bytes;
    try {
        bytes.assign(std::istreambuf_iterator<char>(in), {});
    } catch (const std::ios_base::failure&) {  // of a device, which libstdc++ reports so
        in.setstate(std::ios::badbit);
    }
    if (!in) {
        throw FileError("The file '" + path + "' cannot be read.", !std::filesystem::exists(file, ignored));
    }
    return to_text(std::move(bytes), "The file '" + path + "'");
}

}  // namespace chatglm
