// The native program: chat with a model file, or complete a text.
#include <cstdio>
#include <exception>
#include <iostream>
#include <iterator>
#include <new>
#include <string>
#include <vector>

#include "chatglm/error.h"
#include "tools/chat/conversation.h"
#include "tools/chat/reply_printer.h"
#include "tools/chat/settings.h"
#include "tools/chat/texts.h"
#include "tools/console.h"

namespace chatglm {
namespace {

constexpr int kExitBadInput = 2;

int run(const std::vector<std::string>& arguments) {
    Settings s;
    const auto options = options_of(s);
    parse_options(arguments, options);
    if (s.help) {
        std::cout << "usage: chatglm -m FILE [options]\n\nAnswers a prompt (-p, --pp or standard input) "
                     "once; without "
                     "one holds a conversation.\n\n";
        print_options(std::cout, options);
        flush_output();
        return 0;
    }
    if (s.version) {
        std::cout << "chatglm " << CHATGLM_VERSION << "\n";
        flush_output();
        return 0;
    }
    check(s);
    if (s.prompt) check_utf8(*s.prompt, "The prompt");
    if (s.system) check_utf8(*s.system, "The system message");
    if (s.prompt_path) s.prompt = read_file(*s.prompt_path);
    if (s.system_path) s.system = read_file(*s.system_path);
    const bool interactive = s.interactive || (!s.prompt && console::is_terminal(stdin));
    if (interactive && s.mode == "generate") {
        throw InvalidArgument("--mode generate continues one text: give it with -p, --pp or standard input.");
    }
    if (!s.prompt && !interactive) {
        s.prompt = to_text({std::istreambuf_iterator<char>(std::cin), {}}, "Standard input");
        s.prompt->erase(s.prompt->find_last_not_of("\r\n") + 1);
    }
    if (s.prompt && s.prompt->empty()) throw InvalidArgument("The prompt is empty.");
    if (s.tools_path) s.chat.tools = read_file(*s.tools_path);
    Conversation conversation(s);
    const bool complete = !s.prompt || conversation.answer(*s.prompt);
    if (interactive) conversation.converse();
    return complete || interactive ? 0 : console::InterruptGuard::kExitCode;
}

}  // namespace
}  // namespace chatglm

int main(int argc, char** argv) {
    chatglm::console::use_utf8();
    try {
        return chatglm::run(chatglm::console::arguments(argc, argv));
    } catch (const std::bad_alloc&) {
        std::fprintf(stderr, "error: out of memory\n");
    } catch (const std::exception& error) {
        std::fprintf(stderr, "error: %s\n", error.what());
    }
    return chatglm::kExitBadInput;
}
