// The native program: chat with a model file, or complete a text.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "chatglm/error.h"
#include "chatglm/pipeline.h"
#include "text/utf8.h"
#include "text/utf8_stream.h"
#include "tools/arguments.h"
#include "tools/console.h"

namespace chatglm {
namespace {

constexpr int kExitBadInput = 2;

struct Settings {
    std::string model;
    std::optional<std::string> prompt, prompt_path, system, system_path;
    std::string mode = "chat";
    bool interactive = false, sync = false, verbose = false, help = false, version = false;
    PipelineOptions pipeline;
    GenerationConfig generation;
};

std::vector<Option> options_of(Settings& s) {
    const auto text = [](auto& target) { return [&target](const std::string& value) { target = value; }; };
    const auto flag = [](bool& target) { return [&target](const std::string&) { target = true; }; };
    const auto integer = [](const char* name, auto& target) {
        return [name, &target](const std::string& value) {
            target = parse_integer<std::remove_reference_t<decltype(target)>>(name, value);
        };
    };
    const auto number = [](const char* name, float& target) {
        return [name, &target](const std::string& value) { target = parse_float(name, value); };
    };
    GenerationConfig& g = s.generation;
    return {
        {{"-m", "--model"}, "FILE", "GGUF file", text(s.model)},
        {{"-p", "--prompt"}, "TEXT", "answer this and exit", text(s.prompt)},
        {{"--pp", "--prompt_path"}, "FILE", "the same from a file", text(s.prompt_path)},
        {{"-s", "--system"}, "TEXT", "system message: how the assistant should behave", text(s.system)},
        {{"--sp", "--system_path"}, "FILE", "the same from a file", text(s.system_path)},
        {{"-i", "--interactive"}, "", "hold a conversation, after the prompt if any", flag(s.interactive)},
        {{"--mode"},
         "chat|generate",
         "chat in the model's format, or continue the plain prompt (chat)",
         text(s.mode)},
        {{"-l", "--max_length"},
         "N",
         "tokens of prompt and reply together (2048)",
         integer("--max_length", g.max_length)},
        {{"--max_new_tokens"},
         "N",
         "tokens of the reply (bounded by --max_length only)",
         integer("--max_new_tokens", g.max_new_tokens)},
        {{"-c", "--max_context_length"},
         "N",
         "keep the last N tokens of a longer prompt (an error)",
         integer("--max_context_length", g.max_context_length)},
        {{"--greedy"},
         "",
         "take the likeliest token each time",
         [&g](const std::string&) { g.do_sample = false; }},
        {{"--top_k"}, "K", "draw among the K likeliest tokens (0: all)", integer("--top_k", g.top_k)},
        {{"--top_p"},
         "P",
         "draw among the likeliest that have the probability P together (0.7)",
         number("--top_p", g.top_p)},
        {{"--temp"},
         "T",
         "0 is --greedy; above 1 flattens the probabilities (0.95)",
         number("--temp", g.temperature)},
        {{"--repeat_penalty"},
         "R",
         "above 1 makes tokens less likely that were there already (1)",
         number("--repeat_penalty", g.repetition_penalty)},
        {{"--min_p"},
         "P",
         "draw among tokens of at least P times the likeliest one's probability (0: off)",
         number("--min_p", g.min_p)},
        {{"--typical"},
         "P",
         "draw among the most typical that have the probability P together (1: off)",
         number("--typical", g.typical_p)},
        {{"--presence_penalty"},
         "X",
         "taken from the logits of tokens that the reply has (0)",
         number("--presence_penalty", g.presence_penalty)},
        {{"--frequency_penalty"},
         "X",
         "the same for each time that it has them (0)",
         number("--frequency_penalty", g.frequency_penalty)},
        {{"--repeat_last_n"},
         "N",
         "tokens that the penalties look back on (-1: all)",
         integer("--repeat_last_n", g.penalty_last_n)},
        {{"--stop"},
         "TEXT",
         "end the answer before this text; may be repeated",
         [&g](const std::string& value) { g.stop.push_back(value); }},
        {{"--ignore_eos"}, "", "never choose the token that ends a reply", flag(g.ignore_eos)},
        {{"--min_new_tokens"},
         "N",
         "do not end a reply before N tokens (0)",
         integer("--min_new_tokens", g.min_new_tokens)},
        {{"--seed"}, "N", "same seed, same reply (a new one each time)", integer("--seed", g.seed)},
        {{"-t", "--threads"}, "N", "threads (one per fast core)", integer("--threads", s.pipeline.n_threads)},
        {{"--lora"},
         "FILE",
         "LoRA adapter to use; may be repeated",
         [&s](const std::string& path) { s.pipeline.loras.push_back({path, 1.0f}); }},
        {{"--lora_scaled"},
         "SCALE:FILE",
         "the same with a scale of its own, for example 0.5:poet.gguf",
         [&s](const std::string& value) {
             const size_t colon = value.find(':');
             if (colon == std::string::npos || colon + 1 == value.size()) {
                 throw InvalidArgument("--lora_scaled is '" + value + "'; it must be SCALE:FILE.");
             }
             s.pipeline.loras.push_back(
                 {value.substr(colon + 1), parse_float("--lora_scaled", value.substr(0, colon))});
         }},
        {{"--kv_dtype"},
         "f16|q8_0|f32",
         "type of the cache (f16); q8_0 takes half the memory",
         text(s.pipeline.kv_dtype)},
        {{"--sync"}, "", "print a reply when it is complete", flag(s.sync)},
        {{"-v", "--verbose"}, "", "say on stderr what is loaded and how fast it is", flag(s.verbose)},
        {{"--version"}, "", "print the version and exit", flag(s.version)},
        {{"-h", "--help"}, "", "print this and exit", flag(s.help)},
    };
}

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

// UTF-8 text without a byte order mark.
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

void flush_output() {
    std::cout.flush();
    if (!std::cout) throw Error("Standard output cannot be written: it is closed, or its disk is full.");
}

// Prints a reply as it comes, or with `sync` when it is complete. A terminal shows the thought too, dimmed
// and with a blank line behind it; elsewhere the answer stands alone.
class ReplyPrinter {
  public:
    explicit ReplyPrinter(bool sync) : sync_(sync) {}

    void put(const std::string& thought, const std::string& answer) {
        std::string text;
        if (!thought.empty() && shows_thought_) {
            text = has_styles_ ? console::dimmed(thought) : thought;
            after_thought_ = true;
        }
        if (!answer.empty()) text += (std::exchange(after_thought_, false) ? "\n\n" : "") + answer;
        if (sync_) {
            held_ += text;
        } else {
            std::cout << text;
            flush_output();
        }
    }
    void finish() {
        std::cout << held_ << "\n";
        flush_output();
    }

  private:
    bool sync_;
    bool shows_thought_ = console::is_terminal(stdout), has_styles_ = console::has_styles();
    bool after_thought_ = false;
    std::string held_;
};

double seconds_since(std::chrono::steady_clock::time_point start) {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

class Session {
  public:
    explicit Session(const Settings& settings) : s_(settings) {
        const auto start = std::chrono::steady_clock::now();
        PipelineOptions options = s_.pipeline;
        options.expected_length = s_.generation.max_length;
        pipeline_ = std::make_unique<Pipeline>(s_.model, options);
        for (const std::string& note : pipeline_->notes()) std::fprintf(stderr, "note: %s\n", note.c_str());
        if (s_.system && !s_.system->empty()) messages_.push_back({ChatMessage::kRoleSystem, *s_.system, {}});
        n_fixed_ = messages_.size();
        if (s_.verbose) {
            const ModelConfig& c = pipeline_->config();
            std::fprintf(stderr,
                         "%s: %s, %s, %.2f G parameters, loaded in %.2f s; %s, %d threads, %s cache\n",
                         s_.model.c_str(), console::printable(c.name).c_str(), c.dtype.c_str(),
                         static_cast<double>(c.n_parameters) / 1e9, seconds_since(start), pipeline_->isa(),
                         pipeline_->n_threads(), pipeline_->kv_dtype().c_str());
        }
    }

    // False when Ctrl-C stopped the reply.
    bool answer(const std::string& prompt) {
        if (s_.mode == "generate") {
            ChatMessage text;
            return print(pipeline_->tokenizer().encode(prompt), TextStreamer::kPlain, text) !=
                   FinishReason::kNone;
        }
        auto asked = messages_;
        asked.push_back({calls_tool() ? ChatMessage::kRoleObservation : ChatMessage::kRoleUser, prompt, {}});
        ChatMessage reply{ChatMessage::kRoleAssistant, ""};
        const FinishReason finish =
            print(pipeline_->tokenizer().apply_chat_template(asked), TextStreamer::kReply, reply);
        const bool complete = finish != FinishReason::kNone;
        const bool answered = !reply.content.empty() || !reply.tool_calls.empty();
        if (complete || answered || !reply.reasoning_content.empty()) {
            if (finish == FinishReason::kLength && !answered && !reply.reasoning_content.empty()) {
                std::fprintf(stderr,
                             "The reply ended in its thought: for an answer raise --max_length or "
                             "--max_new_tokens.\n");
            }
            messages_ = std::move(asked);
            messages_.push_back(std::move(reply));
        }
        return complete;
    }

    void converse() {
        const bool terminal = console::is_terminal(stdin);
        if (terminal) {
            std::fprintf(
                stderr,
                "%s. Ask whatever you want. clear forgets the conversation, exit leaves, Ctrl-C stops "
                "a reply.\n",
                console::printable(pipeline_->config().name).c_str());
        }
        for (;;) {
            if (terminal) {
                std::cout << (calls_tool() ? "Result of the call > " : "You > ") << std::flush;
            }
            auto line = console::read_line();
            if (!line) break;
            const size_t first = line->find_first_not_of(" \t\r\n");
            if (first == std::string::npos) continue;
            const std::string text = line->substr(first, line->find_last_not_of(" \t\r\n") - first + 1);
            if (text == "stop" || text == "exit" || text == "quit") break;
            if (text == "clear") {
                messages_.resize(n_fixed_);
                continue;
            }
            try {
                check_utf8(text, "The line");
                answer(text);
            } catch (const InvalidArgument& error) {
                std::fprintf(stderr, "%s\n", error.what());
            }
        }
    }

  private:
    bool calls_tool() const { return !messages_.empty() && !messages_.back().tool_calls.empty(); }

    // Adds what comes to `reply`. kNone when Ctrl-C stopped it.
    FinishReason print(std::vector<int32_t> prompt, TextStreamer::Mode mode, ChatMessage& reply) {
        const console::InterruptGuard guard;
        const auto generation = pipeline_->start(std::move(prompt), s_.generation);
        TextStreamer streamer(pipeline_->tokenizer(), mode, s_.generation.stop);
        ReplyPrinter printer(s_.sync);
        const auto add = [&](const std::string& answer) {
            reply.reasoning_content += streamer.reasoning();
            reply.content += answer;
            if (reply.tool_call_error.empty()) reply.tool_call_error = streamer.tool_call_error();
            printer.put(streamer.reasoning(), answer);
            if (streamer.stopped()) generation->stop();
        };
        int32_t token = 0;
        try {
            while (!generation->done() && !guard.interrupted()) {
                if (generation->step(token, [&] { return guard.interrupted(); })) add(streamer.put(token));
            }
        } catch (const Interrupted&) {
            // What was generated so far is kept.
        }
        add(streamer.finish());
        reply.tool_calls = streamer.tool_calls();
        printer.finish();
        if (s_.verbose) print_usage(generation->progress());
        return generation->finish_reason();
    }

    static void print_usage(const Progress& p) {
        const auto rate = [](int tokens, double seconds) {
            return seconds > 0 ? std::max(tokens, 0) / seconds : 0.0;
        };
        // The first token of the reply comes with the prompt's last chunk.
        std::fprintf(stderr,
                     "prompt: %d tokens, %d of them cached, %.2f s (%.1f tokens/s); reply: %d tokens, %.2f s "
                     "(%.1f tokens/s)\n",
                     p.prompt_tokens, p.cached_tokens, p.first_token_seconds,
                     rate(p.prompt_tokens - p.cached_tokens, p.first_token_seconds), p.new_tokens,
                     p.seconds - p.first_token_seconds, p.tokens_per_second);
    }

    const Settings& s_;
    std::unique_ptr<Pipeline> pipeline_;
    std::vector<ChatMessage> messages_;
    size_t n_fixed_ = 0;  // the system message stays
};

void check(const Settings& s) {
    if (s.model.empty()) throw InvalidArgument("Name a model file with -m; see --help.");
    if (s.prompt && s.prompt_path) throw InvalidArgument("Give the prompt with -p or with --pp, not both.");
    if (s.system && s.system_path)
        throw InvalidArgument("Give the system message with -s or with --sp, not both.");
    if (s.mode != "chat" && s.mode != "generate") {
        throw InvalidArgument("--mode is '" + s.mode + "'; it can be chat or generate.");
    }
    s.generation.validate();
}

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
    Session session(s);
    const bool complete = !s.prompt || session.answer(*s.prompt);
    if (interactive) session.converse();
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
