// The bench: whole reports, and single runs for programs that compare.
#include "tools/bench/bench.h"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <string>
#include <vector>

#include "bindings/bindings.h"
#include "tools/bench/report.h"

namespace py = pybind11;

namespace chatglm::bindings {
namespace {

void run_report(const std::string& path, const BenchOptions& options, const std::string& output,
                const py::function& write) {
    const auto report = BenchReport::make(output, path, [&](const std::string& text) {
        const py::gil_scoped_acquire acquire;
        write(text);
    });
    run_without_lock([&](const Interrupt& interrupted) { run_bench(path, options, *report, interrupted); });
    report->finish();
}

}  // namespace

void bind_bench(py::module_& m) {
    py::class_<Bench>(m, "Bench", "A model file, ready to be measured.")
        .def(py::init([](const std::string& path, int n_threads, const std::string& kv_dtype) {
                 return std::make_unique<Bench>(path, n_threads, kv_dtype);
             }),
             py::arg("path"), py::kw_only(), py::arg("n_threads") = 0, py::arg("kv_dtype") = "f16",
             py::call_guard<py::gil_scoped_release>())
        .def(
            "prompt",
            [](Bench& bench, int n_tokens, int depth) {
                double seconds = 0;
                run_without_lock([&](const Interrupt& interrupted) {
                    seconds = bench.prompt(n_tokens, depth, interrupted).seconds;
                });
                return seconds;
            },
            py::arg("n_tokens"), py::arg("depth") = 0,
            "Seconds that a prompt of n_tokens takes behind `depth` tokens in the cache.")
        .def(
            "decode",
            [](Bench& bench, int n_tokens, int depth, int batch) {
                double seconds = 0;
                run_without_lock([&](const Interrupt& interrupted) {
                    seconds = bench.decode(n_tokens, depth, batch, interrupted).seconds;
                });
                return seconds;
            },
            py::arg("n_tokens"), py::arg("depth") = 0, py::arg("batch") = 1,
            "Seconds that n_tokens for each of `batch` sequences take behind `depth` tokens in the cache.")
        .def_property_readonly("config", &Bench::config, py::return_value_policy::reference_internal)
        .def_property_readonly("n_threads", &Bench::n_threads)
        .def_property_readonly("isa", &Bench::isa)
        .def_property_readonly("load_seconds", &Bench::load_seconds);

    const BenchOptions defaults;
    py::class_<BenchOptions>(m, "BenchOptions", "What to measure: every combination of the lists.")
        .def(py::init([](const std::vector<int>& prompts, const std::vector<int>& tokens,
                         const std::vector<int>& depths, const std::vector<int>& batches,
                         const std::vector<int>& threads, const std::vector<std::string>& kv_dtypes,
                         int repetitions) {
                 const BenchOptions options{prompts, tokens,    depths,     batches,
                                            threads, kv_dtypes, repetitions};
                 options.validate();
                 return options;
             }),
             py::kw_only(), py::arg("prompts") = defaults.prompts, py::arg("tokens") = defaults.tokens,
             py::arg("depths") = defaults.depths, py::arg("batches") = defaults.batches,
             py::arg("threads") = defaults.threads, py::arg("kv_dtypes") = defaults.kv_dtypes,
             py::arg("repetitions") = defaults.repetitions);
    m.def("run_bench", &run_report, py::arg("path"), py::arg("options"), py::arg("output"), py::arg("write"),
          "Measures and calls write(text) with the lines of a report: text, json, csv or md.");
}

}  // namespace chatglm::bindings
