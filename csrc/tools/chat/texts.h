// Texts from outside.
#pragma once

#include <string>
#include <string_view>

namespace chatglm {

// Throws InvalidArgument that names `source` and the first byte that is no UTF-8.
void check_utf8(std::string_view text, const std::string& source);

// UTF-8 text without a byte order mark. Throws as check_utf8.
std::string to_text(std::string bytes, const std::string& source);

// The text of a file. Throws FileError, and as check_utf8.
std::string read_file(const std::string& path);

}  // namespace chatglm
