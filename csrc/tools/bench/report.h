// What a bench found, as text for people, JSON or CSV for programs, or a Markdown table.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "tools/bench/bench.h"

namespace chatglm {

class BenchReport : public BenchListener {
  public:
    using Write = std::function<void(const std::string& text)>;

    // Ends the report; without it JSON is not complete.
    virtual void finish() = 0;

    // `format` is "text", "json", "csv" or "md". `write` receives whole lines, as soon as they are known.
    // Throws InvalidArgument for another format.
    static std::unique_ptr<BenchReport> make(const std::string& format, const std::string& path, Write write);
};

}  // namespace chatglm
