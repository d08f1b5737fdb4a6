#include "tools/chat/settings.h"

#include <optional>
#include <type_traits>

#include "chatglm/error.h"

namespace chatglm {
namespace {

std::optional<bool> parse_prompt_lookup(const std::string& value) {
    if (value == "auto") return std::nullopt;
    if (value == "always" || value == "never") return value == "always";
    throw InvalidArgument("--prompt_lookup is '" + value + "'; it can be auto, always or never.");
}

}  // namespace

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
        {{"--xtc_probability"},
         "P",
         "leave out the top choices but the last of them, for this share of tokens (0: off)",
         number("--xtc_probability", g.xtc_probability)},
        {{"--xtc_threshold"},
         "P",
         "probability of a top choice (0.1)",
         number("--xtc_threshold", g.xtc_threshold)},
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
        {{"--num_beams"},
         "N",
         "search for the likeliest reply with N beams, which comes at its end; nothing is drawn (1: off)",
         integer("--num_beams", g.num_beams)},
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
        {{"--prompt_lookup"},
         "auto|always|never",
         "guess tokens of a reply from what its text has already, when it is faster (auto)",
         [&s](const std::string& value) { s.pipeline.prompt_lookup = parse_prompt_lookup(value); }},
        {{"--draft"},
         "FILE",
         "smaller model with the same vocabulary that guesses tokens, too",
         text(s.pipeline.draft)},
        {{"--draft_tokens"},
         "N",
         "tokens that it guesses each time (0: as many as make replies faster)",
         integer("--draft_tokens", s.pipeline.draft_tokens)},
        {{"--tools"}, "FILE", "JSON array of tools that the model may ask to be called", text(s.tools_path)},
        {{"--when_full"},
         "error|drop_oldest|keep_head",
         "what gives way when a conversation is too long: nothing, its oldest turns, those after the first "
         "(error)",
         [&s](const std::string& value) { s.chat.when_full = parse_when_full(value); }},
        {{"--session"},
         "FILE",
         "resume the conversation in this file if it is there, and keep it there",
         text(s.session_path)},
        {{"--sync"}, "", "print a reply when it is complete", flag(s.sync)},
        {{"-v", "--verbose"}, "", "say on stderr what is loaded and how fast it is", flag(s.verbose)},
        {{"--version"}, "", "print the version and exit", flag(s.version)},
        {{"-h", "--help"}, "", "print this and exit", flag(s.help)},
    };
}

void check(const Settings& s) {
    if (s.model.empty()) throw InvalidArgument("Name a model file with -m; see --help.");
    if (s.prompt && s.prompt_path) throw InvalidArgument("Give the prompt with -p or with --pp, not both.");
    if (s.system && s.system_path)
        throw InvalidArgument("Give the system message with -s or with --sp, not both.");
    if (s.mode != "chat" && s.mode != "generate") {
        throw InvalidArgument("--mode is '" + s.mode + "'; it can be chat or generate.");
    }
    if (s.mode == "generate" && (s.tools_path || s.session_path)) {
        throw InvalidArgument("--tools and --session belong to conversations; leave out --mode generate.");
    }
    s.generation.validate();
}

}  // namespace chatglm
