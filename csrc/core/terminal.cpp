#include "core/terminal.h"

#include <cstdlib>
#include <iostream>
#include <string_view>

#ifdef _WIN32
#define WIN32_LEAN_AND_MEAN
#ifndef NOMINMAX
#define NOMINMAX
#endif
#include <windows.h>
// After windows.h, which it needs.
#include <shellapi.h>
#else
#include <unistd.h>
#endif

namespace chatglm::console {
namespace {

std::optional<std::string> read_plain_line() {
    std::string line;
    if (!std::getline(std::cin, line)) return std::nullopt;
    return line;
}

}  // namespace

#ifdef _WIN32

namespace {

std::string from_wide(const wchar_t* text, int length) {
    const int n = WideCharToMultiByte(CP_UTF8, 0, text, length, nullptr, 0, nullptr, nullptr);
    std::string result(static_cast<size_t>(n), '\0');
    WideCharToMultiByte(CP_UTF8, 0, text, length, result.data(), n, nullptr, nullptr);
    return result;
}

}  // namespace

void use_utf8() {
    SetConsoleOutputCP(CP_UTF8);
    // Without a buffer each byte goes to the console by itself, which then shows no character of several.
    std::setvbuf(stdout, nullptr, _IOFBF, 1 << 14);
}

// argv is in the system's code page there, which cannot spell every text.
std::vector<std::string> arguments(int, char**) {
    int argc = 0;
    wchar_t** argv = CommandLineToArgvW(GetCommandLineW(), &argc);
    std::vector<std::string> result;
    for (int i = 1; argv && i < argc; ++i)
        result.push_back(from_wide(argv[i], static_cast<int>(wcslen(argv[i]))));
    LocalFree(argv);
    return result;
}

bool is_terminal(std::FILE* stream) {
    const DWORD handle = stream == stdin    ? STD_INPUT_HANDLE
                         : stream == stderr ? STD_ERROR_HANDLE
                                            : STD_OUTPUT_HANDLE;
    DWORD mode = 0;
    return GetConsoleMode(GetStdHandle(handle), &mode) != 0;
}

bool has_styles() {
    const HANDLE output = GetStdHandle(STD_OUTPUT_HANDLE);
    DWORD mode = 0;
    return GetConsoleMode(output, &mode) != 0 &&
           SetConsoleMode(output, mode | ENABLE_VIRTUAL_TERMINAL_PROCESSING) != 0;
}

std::optional<std::string> read_line() {
    if (!is_terminal(stdin)) return read_plain_line();
    // ReadFile on a console loses characters outside the code page.
    std::wstring line;
    wchar_t buffer[512];
    for (;;) {
        DWORD n = 0;
        if (!ReadConsoleW(GetStdHandle(STD_INPUT_HANDLE), buffer, 512, &n, nullptr) || n == 0) break;
        line.append(buffer, n);
        if (line.back() == L'\n') break;
    }
    if (line.empty() || line.front() == L'\x1a') return std::nullopt;  // Ctrl-Z
    while (!line.empty() && (line.back() == L'\n' || line.back() == L'\r')) line.pop_back();
    return from_wide(line.data(), static_cast<int>(line.size()));
}

#else

void use_utf8() {}

std::vector<std::string> arguments(int argc, char** argv) {
    return {argv + 1, argv + argc};
}

bool is_terminal(std::FILE* stream) {
    return isatty(fileno(stream)) != 0;
}

bool has_styles() {
    const char* terminal = std::getenv("TERM");
    return is_terminal(stdout) && terminal && std::string_view(terminal) != "dumb";
}

std::optional<std::string> read_line() {
    return read_plain_line();
}

#endif

}  // namespace chatglm::console
