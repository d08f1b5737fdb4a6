// What the user of the program asks for on its command line.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "chatglm/pipeline.h"
#include "tools/arguments.h"

namespace chatglm {

struct Settings {
    std::string model;
    std::optional<std::string> prompt, prompt_path, system, system_path;
    std::string mode = "chat";
    std::optional<std::string> tools_path, session_path;
    bool interactive = false, sync = false, verbose = false, help = false, version = false;
    PipelineOptions pipeline;
    ChatOptions chat;
    GenerationConfig generation;
};

// The options, which set `s` when they are parsed.
std::vector<Option> options_of(Settings& s);

// Throws InvalidArgument for settings that do not go together or are out of their range.
void check(const Settings& s);

}  // namespace chatglm
