#include "text/stop_matcher.h"

#include <algorithm>
#include <utility>

#include "text/thought_filter.h"

namespace chatglm {

std::string StopMatcher::put(std::string_view text) {
    if (stopped_) return {};
    held_ += text;
    size_t begin = std::string::npos, end = std::string::npos;
    size_t undecided = 0;
    for (const std::string& stop : stops_) {
        const size_t at = held_.find(stop);
        if (at == std::string::npos) {
            undecided = std::max(undecided, begun_mark(held_, stop));
        } else if (at + stop.size() < end || (at + stop.size() == end && at < begin)) {
            begin = at;
            end = at + stop.size();
        }
    }
    stopped_ = begin != std::string::npos;
    std::string shown = held_.substr(0, stopped_ ? begin : held_.size() - undecided);
    held_.erase(0, stopped_ ? held_.size() : shown.size());
    return shown;
}

std::string StopMatcher::finish() {
    return std::exchange(held_, {});
}

}  // namespace chatglm
