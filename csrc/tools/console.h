// UTF-8 arguments, lines and output on every system's console, and Ctrl-C.
#pragma once

#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/utf8.h"

#ifdef _WIN32
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

// Text of a file as a terminal may have it: control characters, with which a name could rewrite what the
// terminal shows, become \u escapes, and what is not UTF-8 becomes U+FFFD.
inline std::string printable(std::string_view text) {
    std::string result;
    while (!text.empty()) {
        const Utf8Char c = decode_utf8(text);
        if (c.code_point < 0x20 || (c.code_point >= 0x7F && c.code_point < 0xA0)) {
            char escape[8];
            std::snprintf(escape, sizeof escape, "\\u%04x", static_cast<unsigned>(c.code_point));
            result += escape;
        } else {
            append_utf8(result, c.code_point);
        }
        text.remove_prefix(static_cast<size_t>(c.length));
    }
    return result;
}

#ifdef _WIN32

inline std::string from_wide(const wchar_t* text, int length) {
    const int n = WideCharToMultiByte(CP_UTF8, 0, text, length, nullptr, 0, nullptr, nullptr);
    std::string result(static_cast<size_t>(n), '\0');
    WideCharToMultiByte(CP_UTF8, 0, text, length, result.data(), n, nullptr, nullptr);
    return result;
}

inline void use_utf8() {
    SetConsoleOutputCP(CP_UTF8);
}

// argv is in the system's code page there, which cannot spell every text.
inline std::vector<std::string> arguments(int, char**) {
    int argc = 0;
    wchar_t** argv = CommandLineToArgvW(GetCommandLineW(), &argc);
    std::vector<std::string> result;
    for (int i = 1; argv && i < argc; ++i)
        result.push_back(from_wide(argv[i], static_cast<int>(wcslen(argv[i]))));
    LocalFree(argv);
    return result;
}

inline bool is_terminal(std::FILE* stream) {
    DWORD mode = 0;
    return GetConsoleMode(GetStdHandle(stream == stdin ? STD_INPUT_HANDLE : STD_OUTPUT_HANDLE), &mode) != 0;
}

// Whether standard output is a terminal that understands escape sequences; makes it do so where it can.
inline bool has_styles() {
    const HANDLE output = GetStdHandle(STD_OUTPUT_HANDLE);
    DWORD mode = 0;
    return GetConsoleMode(output, &mode) != 0 &&
           SetConsoleMode(output, mode | ENABLE_VIRTUAL_TERMINAL_PROCESSING) != 0;
}

// One line without its end; nothing at the end of the input.
inline std::optional<std::string> read_line() {
    if (!is_terminal(stdin)) {
        std::string line;
        if (!std::getline(std::cin, line)) return std::nullopt;
        return line;
    }
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
    return from_wide(line.data(), static_cast<int>(line.size()));
}

#else

inline void use_utf8() {}

inline std::vector<std::string> arguments(int argc, char** argv) {
    return {argv + 1, argv + argc};
}

inline bool is_terminal(std::FILE* stream) {
    return isatty(fileno(stream)) != 0;
}

// Whether standard output is a terminal that understands escape sequences.
inline bool has_styles() {
    const char* terminal = std::getenv("TERM");
    return is_terminal(stdout) && terminal && std::string_view(terminal) != "dumb";
}

// One line without its end; nothing at the end of the input.
inline std::optional<std::string> read_line() {
    std::string line;
    if (!std::getline(std::cin, line)) return std::nullopt;
    return line;
}

#endif

inline std::string dimmed(std::string_view text) {
    return "\x1b[2m" + std::string(text) + "\x1b[22m";
}

// While one exists, Ctrl-C only sets a flag; pressed again before anyone looked, it ends the program.
class InterruptGuard {
  public:
    static constexpr int kExitCode = 130;

    InterruptGuard() {
        pressed() = false;
        std::signal(SIGINT, &on_interrupt);
    }
    ~InterruptGuard() { std::signal(SIGINT, SIG_DFL); }
    InterruptGuard(const InterruptGuard&) = delete;
    InterruptGuard& operator=(const InterruptGuard&) = delete;

    bool interrupted() const { return pressed(); }

  private:
    static std::atomic<bool>& pressed() {
        static std::atomic<bool> flag{false};
        static_assert(std::atomic<bool>::is_always_lock_free);
        return flag;
    }
    static void on_interrupt(int) {
        if (pressed().exchange(true)) std::_Exit(kExitCode);
        std::signal(SIGINT, &on_interrupt);  // some systems reset it
    }
};

}  // namespace chatglm::console
