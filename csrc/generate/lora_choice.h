// Which adapters a pipeline uses.
#pragma once

#include <memory>
#include <vector>

#include "chatglm/pipeline.h"
#include "model/lora.h"

namespace chatglm {

// The adapters of a pipeline by their files. Never changed: another choice is another object, so that running
// generations keep theirs, and the cache knows by its address what it was computed with.
struct LoraChoice {
    std::vector<Lora> named;
    LoraSet active;                                            // without those of scale 0
    std::vector<std::shared_ptr<const LoraAdapter>> adapters;  // one for each of `named`
};

// Opens the adapters that `known` does not have yet. Throws as Pipeline::set_loras.
std::shared_ptr<const LoraChoice> choose_loras(const std::vector<Lora>& wanted, const ModelConfig& model,
                                               Backend& backend,
                                               const std::shared_ptr<const LoraChoice>& known = nullptr);

}  // namespace chatglm
