#include "generate/lora_choice.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "chatglm/error.h"

namespace chatglm {

std::shared_ptr<const LoraChoice> choose_loras(const std::vector<Lora>& wanted, const ModelConfig& model,
                                               Backend& backend,
                                               const std::shared_ptr<const LoraChoice>& known) {
    auto result = std::make_shared<LoraChoice>();
    for (const Lora& lora : wanted) {
        if (!std::isfinite(lora.scale)) {
            throw InvalidArgument("The scale of the adapter '" + lora.path + "' is " +
                                  std::to_string(lora.scale) + "; it must be a finite number.");
        }
        const auto same_path = [&](const Lora& other) { return other.path == lora.path; };
        if (std::any_of(result->named.begin(), result->named.end(), same_path)) {
            throw InvalidArgument("The adapter '" + lora.path + "' is named twice.");
        }
        std::shared_ptr<const LoraAdapter> adapter;
        if (known) {
            const auto found = std::find_if(known->named.begin(), known->named.end(), same_path);
            if (found != known->named.end()) {
                adapter = known->adapters[static_cast<size_t>(found - known->named.begin())];
            }
        }
        if (!adapter) adapter = std::make_shared<LoraAdapter>(lora.path, model, backend);
        result->named.push_back(lora);
        result->adapters.push_back(adapter);
        if (lora.scale != 0.0f) result->active.push_back({std::move(adapter), lora.scale});
    }
    return result;
}

}  // namespace chatglm
