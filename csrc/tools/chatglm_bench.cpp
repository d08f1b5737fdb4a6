// The native program: how fast a model file runs here.
#include <cstdio>
#include <iostream>
#include <new>
#include <string>
#include <vector>

#include "chatglm/error.h"
#include "tools/arguments.h"
#include "tools/bench/bench.h"
#include "tools/bench/report.h"
#include "tools/console.h"

namespace chatglm {
namespace {

constexpr int kExitBadInput = 2;

struct Settings {
    std::string model, output = "text";
    BenchOptions bench;
    bool help = false, version = false;
};

std::vector<Option> options_of(Settings& s) {
    const auto text = [](std::string& target) {
        return [&target](const std::string& value) { target = value; };
    };
    const auto integers = [](const char* name, std::vector<int>& target) {
        return [name, &target](const std::string& value) { target = parse_integers(name, value); };
    };
    const auto flag = [](bool& target) { return [&target](const std::string&) { target = true; }; };
    BenchOptions& b = s.bench;
    return {
        {{"-m", "--model"}, "FILE", "GGUF file", text(s.model)},
        {{"-p", "--prompts"},
         "N,...",
         "tokens of a prompt; 0: no prompts (128,512)",
         integers("--prompts", b.prompts)},
        {{"-n", "--tokens"},
         "N,...",
         "tokens of a reply; 0: no replies (32)",
         integers("--tokens", b.tokens)},
        {{"-d", "--depths"},
         "N,...",
         "tokens that are in the cache before (0)",
         integers("--depths", b.depths)},
        {{"-b", "--batches"},
         "N,...",
         "replies that are computed together (1)",
         integers("--batches", b.batches)},
        {{"-t", "--threads"},
         "N,...",
         "threads (one per fast physical core)",
         integers("--threads", b.threads)},
        {{"--kv_dtype"},
         "f16,q8_0,f32",
         "types of the cache (f16)",
         [&b](const std::string& value) { b.kv_dtypes = parse_list(value); }},
        {{"-r", "--repetitions"},
         "N",
         "runs of each size (5)",
         [&b](const std::string& value) { b.repetitions = parse_integer<int>("--repetitions", value); }},
        {{"-o", "--output"}, "text|json|csv|md", "what is printed (text)", text(s.output)},
        {{"--version"}, "", "print the version and exit", flag(s.version)},
        {{"-h", "--help"}, "", "print this and exit", flag(s.help)},
    };
}

void print(const std::string& text) {
    std::cout << text << std::flush;
    if (!std::cout) throw Error("Standard output cannot be written: it is closed, or its disk is full.");
}

int run(const std::vector<std::string>& arguments) {
    Settings s;
    const auto options = options_of(s);
    parse_options(arguments, options);
    if (s.help) {
        std::cout << "usage: chatglm-bench -m FILE [options]\n\nMeasures how fast prompts are read and "
                     "replies written, and how near that comes to what the\nmachine can do. Lists with "
                     "commas give every combination.\n\n";
        print_options(std::cout, options);
        print("");
        return 0;
    }
    if (s.version) {
        print("chatglm-bench " CHATGLM_VERSION "\n");
        return 0;
    }
    if (s.model.empty()) throw InvalidArgument("Name a model file with -m; see --help.");
    s.bench.validate();
    const auto report = BenchReport::make(s.output, s.model, print);
    const console::InterruptGuard guard;
    try {
        run_bench(s.model, s.bench, *report, [&] { return guard.interrupted(); });
    } catch (const Interrupted&) {
        return console::InterruptGuard::kExitCode;
    }
    report->finish();
    return 0;
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
