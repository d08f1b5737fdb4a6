#include "generate/lora_choice.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <system_error>
#include <utility>

#include "chatglm/error.h"

namespace chatglm {

namespace {

FileStamp stamp_of(const std::string& path) {
    const std::filesystem::path native(reinterpret_cast<const char8_t*>(path.c_str()));
    std::error_code ignored;  // opening it says what is wrong
    FileStamp stamp;
    stamp.size = std::filesystem::file_size(native, ignored);
    stamp.time = std::filesystem::last_write_time(native, ignored);
    return stamp;
}

}  // namespace

bool LoraChoice::same_as(const LoraChoice& other) const {
    return named == other.named &&
           std::equal(opened.begin(), opened.end(), other.opened.begin(), other.opened.end(),
                      [](const Opened& a, const Opened& b) { return a.adapter == b.adapter; });
}

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
        const FileStamp stamp = stamp_of(lora.path);
        if (known) {
            const auto found = std::find_if(known->named.begin(), known->named.end(), same_path);
            if (found != known->named.end()) {
                const auto& opened = known->opened[static_cast<size_t>(found - known->named.begin())];
                if (opened.stamp == stamp) adapter = opened.adapter;
            }
        }
        if (!adapter) adapter = std::make_shared<LoraAdapter>(lora.path, model, backend);
        result->named.push_back(lora);
        result->opened.push_back({adapter, stamp});
        if (lora.scale != 0.0f) result->active.push_back({std::move(adapter), lora.scale});
    }
    return result;
}

}  // namespace chatglm
