// Arguments, lines and output in UTF-8 on every system's console.
#pragma once

#include <cstdio>
#include <optional>
#include <string>
#include <vector>

namespace chatglm::console {

// Makes the standard streams carry UTF-8; to be called first.
void use_utf8();

// The arguments of main() without the program's name.
std::vector<std::string> arguments(int argc, char** argv);

// `stream` is stdin, stdout or stderr.
bool is_terminal(std::FILE* stream);

// Whether standard output is a terminal that understands escape sequences; makes it do so where it can.
bool has_styles();

// One line of standard input without its end; nothing at the end of the input.
std::optional<std::string> read_line();

}  // namespace chatglm::console
