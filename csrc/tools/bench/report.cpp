#include "tools/bench/report.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <string_view>
#include <utility>
#include <vector>

#include "chatglm/error.h"
#include "core/machine.h"
#include "core/memory.h"
#include "text/json.h"
#include "tools/console.h"

namespace chatglm {
namespace {

#if defined(__GNUC__)
__attribute__((format(printf, 1, 2)))
#endif
std::string format(const char* pattern, ...) {
    char text[256];
    va_list arguments;
    va_start(arguments, pattern);
    std::vsnprintf(text, sizeof text, pattern, arguments);
    va_end(arguments);
    return text;
}

std::string test_name(const BenchRow& row) {
    return (row.is_prompt ? "pp" : "tg") + std::to_string(row.n_tokens);
}

// What binds: the ceiling that alone would take more time.
const char* ceiling_name(const BenchRow& row) {
    return row.memory_share >= row.compute_share ? "memory" : "compute";
}

double ceiling_share(const BenchRow& row) {
    return std::max(row.memory_share, row.compute_share);
}

// Everything that a row knows, for programs.
Json::Object fields(const BenchRow& row) {
    return {
        {"test", test_name(row)},
        {"kind", row.is_prompt ? "prompt" : "reply"},
        {"tokens", row.n_tokens},
        {"depth", row.depth},
        {"batch", row.batch},
        {"threads", row.n_threads},
        {"kv_dtype", row.kv_dtype},
        {"tokens_per_second", row.tokens_per_second},
        {"tokens_per_second_min", row.slowest},
        {"tokens_per_second_max", row.fastest},
        {"ms_per_token", row.seconds_per_token() * 1e3},
        {"gb_per_second", row.bytes_per_second / 1e9},
        {"gmac_per_second", row.products_per_second / 1e9},
        {"ceiling", ceiling_name(row)},
        {"ceiling_percent", ceiling_share(row) * 100},
        {"memory_percent", row.memory_share * 100},
        {"compute_percent", row.compute_share * 100},
        {"matmul_time_percent", row.matmul_time * 100},
        {"attention_time_percent", row.attention_time * 100},
        {"other_time_percent", row.other_time * 100},
        {"resident_bytes", row.resident_bytes},
    };
}

Json::Object fields(const MeasuredCeilings& ceilings) {
    Json::Array int8;
    for (const auto& way : ceilings.int8) {
        int8.push_back(Json::Object{{"summed", way.n_summed}, {"gmac_per_second", way.rate / 1e9}});
    }
    return {
        {"threads", ceilings.n_threads},
        {"isa", ceilings.isa},
        {"read_gb_per_second", ceilings.read_rate / 1e9},
        {"read_way", ceilings.read_way},
        {"int8", int8},
        {"f32_gmac_per_second", ceilings.f32_rate / 1e9},
    };
}

class JsonReport final : public BenchReport {
  public:
    JsonReport(std::string path, Write write) : path_(std::move(path)), write_(std::move(write)) {}

    void on_ready(const Bench& bench, const MeasuredCeilings& ceilings) override {
        if (head_.empty()) {
            const ModelConfig& c = bench.config();
            head_ = {
                {"version", CHATGLM_VERSION},
                {"processor", processor_name()},
                {"memory_bytes", memory_state().total},
                {"isa", bench.isa()},
                {"model", Json::Object{{"path", path_},
                                       {"name", c.name},
                                       {"architecture", c.architecture},
                                       {"dtype", c.dtype},
                                       {"parameters", c.n_parameters},
                                       {"file_bytes", c.file_bytes}}},
            };
        }
        loads_.push_back(Json::Object{{"threads", bench.n_threads()}, {"seconds", bench.load_seconds()}});
        if (std::exchange(last_threads_, ceilings.n_threads) != ceilings.n_threads) {
            ceilings_.push_back(fields(ceilings));
        }
    }
    void on_row(const BenchRow& row) override { rows_.push_back(fields(row)); }
    void finish() override {
        Json::Object all = head_;
        all.emplace_back("loads", loads_);
        all.emplace_back("ceilings", ceilings_);
        all.emplace_back("rows", rows_);
        Json::Format pretty;
        pretty.indent = 2;
        write_(Json(all).dump(pretty) + "\n");
    }

  private:
    std::string path_;
    Write write_;
    Json::Object head_;
    Json::Array loads_, ceilings_, rows_;
    int last_threads_ = 0;
};

std::string csv_cell(const std::string& text) {
    if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
    std::string quoted = "\"";
    for (const char c : text) {
        if (c == '"') quoted += '"';
        quoted += c;
    }
    return quoted + "\"";
}

class CsvReport final : public BenchReport {
  public:
    CsvReport(std::string path, Write write) : path_(std::move(path)), write_(std::move(write)) {}

    void on_ready(const Bench& bench, const MeasuredCeilings& ceilings) override {
        const ModelConfig& c = bench.config();
        start_ = {{"model", c.name},
                  {"path", path_},
                  {"dtype", c.dtype},
                  {"processor", processor_name()},
                  {"isa", bench.isa()},
                  {"load_seconds", bench.load_seconds()},
                  {"read_ceiling_gb_per_second", ceilings.read_rate / 1e9}};
    }
    void on_row(const BenchRow& row) override {
        Json::Object all = start_;
        for (auto& field : fields(row)) all.push_back(std::move(field));
        std::string names, values;
        for (const auto& [name, value] : all) {
            names += name + ",";
            values += csv_cell(value.string() ? *value.string() : value.dump()) + ",";
        }
        names.back() = values.back() = '\n';
        write_((std::exchange(has_head_, true) ? "" : names) + values);
    }
    void finish() override {}

  private:
    std::string path_;
    Write write_;
    Json::Object start_;
    bool has_head_ = false;
};

// Columns of the tables for people.
struct Column {
    const char* name;
    int width;  // negative: to the left
    std::string (*cell)(const BenchRow& row);
};

const Column kColumns[] = {
    {"test", -7, [](const BenchRow& r) { return test_name(r); }},
    {"depth", 6, [](const BenchRow& r) { return std::to_string(r.depth); }},
    {"batch", 5, [](const BenchRow& r) { return std::to_string(r.batch); }},
    {"cache", 5, [](const BenchRow& r) { return r.kv_dtype; }},
    {"threads", 7, [](const BenchRow& r) { return std::to_string(r.n_threads); }},
    {"tokens/s", 9, [](const BenchRow& r) { return format("%.2f", r.tokens_per_second); }},
    {"min to max", 19, [](const BenchRow& r) { return format("%.2f to %.2f", r.slowest, r.fastest); }},
    {"ms/token", 9, [](const BenchRow& r) { return format("%.2f", r.seconds_per_token() * 1e3); }},
    {"GB/s", 6, [](const BenchRow& r) { return format("%.1f", r.bytes_per_second / 1e9); }},
    {"GMAC/s", 7, [](const BenchRow& r) { return format("%.1f", r.products_per_second / 1e9); }},
    {"of ceiling", 15,
     [](const BenchRow& r) { return format("%.0f%% of %s", ceiling_share(r) * 100, ceiling_name(r)); }},
    {"matmul", 6, [](const BenchRow& r) { return format("%.0f%%", r.matmul_time * 100); }},
    {"attention", 9, [](const BenchRow& r) { return format("%.0f%%", r.attention_time * 100); }},
    {"rest", 5, [](const BenchRow& r) { return format("%.0f%%", r.other_time * 100); }},
    {"resident", 9,
     [](const BenchRow& r) { return format("%.2f GB", static_cast<double>(r.resident_bytes) / 1e9); }},
};

class TableReport final : public BenchReport {
  public:
    TableReport(bool is_markdown, std::string path, Write write)
        : is_markdown_(is_markdown), path_(std::move(path)), write_(std::move(write)) {}

    void on_ready(const Bench& bench, const MeasuredCeilings& ceilings) override {
        const ModelConfig& c = bench.config();
        if (!std::exchange(has_head_, true)) {
            write_(console::printable(c.name) + ", " + c.dtype +
                   format(", %.2f G parameters, %.2f GB: ", static_cast<double>(c.n_parameters) / 1e9,
                          static_cast<double>(c.file_bytes) / 1e9) +
                   console::printable(path_) + "\n" + console::printable(processor_name()) + ", " +
                   bench.isa() + "\n");
        }
        const int threads = bench.n_threads();
        std::string line =
            format("%d thread%s: ", threads, threads == 1 ? "" : "s") +
            format("loaded in %.2f s; reads %.1f GB/s (", bench.load_seconds(), ceilings.read_rate / 1e9) +
            ceilings.read_way + format("); %s int8 ", ceilings.isa.c_str());
        for (const auto& way : ceilings.int8) {
            line += format("%.0f GMAC/s", way.rate / 1e9);
            if (way.n_summed > 1) line += format(" with %d summed", way.n_summed);
            line += ", ";
        }
        write_((is_markdown_ ? "\n" : "") + line + format("f32 %.0f GMAC/s\n", ceilings.f32_rate / 1e9) +
               (is_markdown_ ? "\n" : ""));
        has_columns_ = false;
    }
    void on_row(const BenchRow& row) override {
        std::string lines;
        if (!std::exchange(has_columns_, true)) {
            lines += line([](const Column& column) { return std::string(column.name); });
            if (is_markdown_) {
                lines += "|";
                for (const Column& column : kColumns) lines += column.width < 0 ? "---|" : "---:|";
                lines += "\n";
            }
        }
        write_(lines + line([&](const Column& column) { return column.cell(row); }));
    }
    void finish() override {}

  private:
    template <class Cell>
    std::string line(const Cell& cell) const {
        std::string text;
        for (const Column& column : kColumns) {
            const std::string content = cell(column);
            if (is_markdown_) {
                text += (text.empty() ? "| " : " | ") + content;
            } else {
                text += (text.empty() ? "" : "  ") + format("%*s", column.width, content.c_str());
            }
        }
        return text + (is_markdown_ ? " |\n" : "\n");
    }

    bool is_markdown_;
    std::string path_;
    Write write_;
    bool has_head_ = false, has_columns_ = false;
};

}  // namespace

std::unique_ptr<BenchReport> BenchReport::make(const std::string& format, const std::string& path,
                                               Write write) {
    if (format == "json") return std::make_unique<JsonReport>(path, std::move(write));
    if (format == "csv") return std::make_unique<CsvReport>(path, std::move(write));
    if (format == "text" || format == "md") {
        return std::make_unique<TableReport>(format == "md", path, std::move(write));
    }
    throw InvalidArgument("The output is '" + format + "'; it can be text, json, csv or md.");
}

}  // namespace chatglm
