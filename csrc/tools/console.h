// What the native programs print, and Ctrl-C.
#pragma once

#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include "core/terminal.h"
#include "text/utf8.h"

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
