// Texts that end a reply, looked for while it comes.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace chatglm {

// Pieces of a text in, what may be shown of them out: the text up to the stop that ends first, of two that
// end together the longer one. So the result does not depend on where the pieces part. What may be the
// beginning of a stop is held back. Stops and pieces are whole characters, and so is all that comes out.
class StopMatcher {
  public:
    // No stop may be empty.
    explicit StopMatcher(std::vector<std::string> stops = {}) : stops_(std::move(stops)) {}

    // Nothing comes after a stop.
    std::string put(std::string_view text);
    // The end of the text: what was held back is no stop.
    std::string finish();
    bool stopped() const { return stopped_; }

  private:
    std::vector<std::string> stops_;
    std::string held_;
    bool stopped_ = false;
};

}  // namespace chatglm
