// Which adapters a pipeline uses.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <vector>

#include "chatglm/pipeline.h"
#include "model/lora.h"

namespace chatglm {

struct FileStamp {
    uintmax_t size = 0;
    std::filesystem::file_time_type time;
    bool operator==(const FileStamp&) const = default;
};

// The adapters of a pipeline by their files. Never changed: another choice is another object, so that running
// generations keep theirs, and the cache knows by its address what it was computed with.
struct LoraChoice {
    std::vector<Lora> named;
    LoraSet active;  // without those of scale 0
    // One for each of `named`, and what told that its file has not changed.
    struct Opened {
        std::shared_ptr<const LoraAdapter> adapter;
        FileStamp stamp;
    };
    std::vector<Opened> opened;

    // Whether replies come out the same.
    bool same_as(const LoraChoice& other) const;
};

// Opens the adapters that `known` does not have yet, or whose files have changed since. Throws as
// Pipeline::set_loras.
std::shared_ptr<const LoraChoice> choose_loras(const std::vector<Lora>& wanted, const ModelConfig& model,
                                               Backend& backend,
                                               const std::shared_ptr<const LoraChoice>& known = nullptr);

}  // namespace chatglm
