// Sessions between a file and the cache of an engine that computes replies meanwhile.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "chatglm/session.h"
#include "generate/engine.h"
#include "generate/lora_choice.h"
#include "generate/session_file.h"

namespace chatglm {

// What an engine works with, as a session has to know it. All that is referred to must outlive the task.
struct SessionContext {
    Engine& engine;
    const ModelConfig& config;
    const GgufFile& file;
    const std::string& kv_dtype;
    const char* isa;
    std::shared_ptr<const LoraChoice> loras;
    std::function<bool()> interrupted;
};

// Writes the conversation with the whole pages that the cache has of `ids`, its tokens; returns how many of
// them are in the pages. Throws as write_session.
int save_session(const SessionContext& context, const std::string& path, const Session& session,
                 std::span<const int32_t> ids);

// Puts the pages into the cache, as many as its budget has room for; none when another program or another
// instruction set computed them, whose bits may differ. Throws InvalidArgument when model, type of cache or
// adapters differ; FileError, FormatError and OutOfMemory.
Session load_session(const SessionContext& context, const std::string& path);

}  // namespace chatglm
