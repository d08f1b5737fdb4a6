// The pipeline, the tokenizer and running generations as Python classes.
#include "chatglm/pipeline.h"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "bindings/bindings.h"
#include "chatglm/error.h"
#include "format/gguf.h"
#include "model/load_config.h"
#include "model/model_file.h"
#include "text/fit_conversation.h"
#include "text/utf8_stream.h"

namespace py = pybind11;

namespace chatglm::bindings {
namespace {

// The tokenizer of a file alone, without its weights.
struct FileTokenizer {
    explicit FileTokenizer(const std::string& path) : file(path), tokenizer(Tokenizer::from_gguf(file)) {}
    GgufFile file;
    std::unique_ptr<Tokenizer> tokenizer;
};

std::vector<Lora> to_loras(const std::vector<std::pair<std::string, float>>& pairs) {
    std::vector<Lora> loras;
    for (const auto& [path, scale] : pairs) loras.push_back({path, scale});
    return loras;
}

Pooling parse_pooling(const std::string& name) {
    if (name == "mean") return Pooling::mean;
    if (name == "last") return Pooling::last;
    throw InvalidArgument("pooling is '" + name + "'; it can be 'mean' or 'last'.");
}

// The engine's thread, which this waits for, may be waiting for the interpreter lock to call a constraint; or
// it is that thread, where Python's garbage collector found a pipeline that nobody uses while a constraint
// ran.
void end_pipeline(Pipeline* pipeline) {
    end_without_lock([pipeline] { delete pipeline; }, pipeline->in_engine_thread());
}

}  // namespace

void bind_pipeline(py::module_& m) {
    using release_gil = py::call_guard<WithoutLock>;
    py::class_<ModelConfig>(m, "ModelConfig", "Sizes and choices of a model, as its file says them.")
        .def_readonly("architecture", &ModelConfig::architecture)
        .def_readonly("name", &ModelConfig::name)
        .def_readonly("dtype", &ModelConfig::dtype)
        .def_readonly("vocab_size", &ModelConfig::vocab_size)
        .def_readonly("hidden_size", &ModelConfig::hidden_size)
        .def_readonly("num_hidden_layers", &ModelConfig::num_hidden_layers)
        .def_readonly("num_attention_heads", &ModelConfig::num_attention_heads)
        .def_readonly("num_key_value_heads", &ModelConfig::num_key_value_heads)
        .def_readonly("head_dim", &ModelConfig::head_dim)
        .def_readonly("intermediate_size", &ModelConfig::intermediate_size)
        .def_readonly("max_length", &ModelConfig::max_length)
        .def_readonly("norm_eps", &ModelConfig::norm_eps)
        .def_readonly("rope_dim", &ModelConfig::rope_dim)
        .def_readonly("rope_theta", &ModelConfig::rope_theta)
        .def_readonly("file_bytes", &ModelConfig::file_bytes)
        .def_readonly("n_parameters", &ModelConfig::n_parameters)
        // Names of earlier versions of the package.
        .def_readonly("num_kv_heads", &ModelConfig::num_key_value_heads)
        .def_readonly("num_layers", &ModelConfig::num_hidden_layers)
        .def("__repr__", [](const ModelConfig& c) {
            return py::str(
                       "ModelConfig(name={!r}, architecture={!r}, dtype={!r}, num_hidden_layers={}, "
                       "hidden_size={}, "
                       "vocab_size={}, max_length={})")
                .format(c.name, c.architecture, c.dtype, c.num_hidden_layers, c.hidden_size, c.vocab_size,
                        c.max_length);
        });

    py::class_<Tokenizer>(m, "Tokenizer", "Text to token ids and back, and conversations to prompts.")
        .def(
            "encode", [](const Tokenizer& t, std::string_view text) { return t.encode(text); },
            py::arg("text"), release_gil())
        .def(
            "encode_plain", [](const Tokenizer& t, std::string_view text) { return t.encode_plain(text); },
            py::arg("text"), release_gil())
        .def(
            "encode_special",
            [](const Tokenizer& t, std::string_view text) { return t.encode_special(text); }, py::arg("text"),
            release_gil())
        .def(
            "decode",
            [](const Tokenizer& t, const std::vector<int32_t>& ids, bool skip_special) {
                return t.decode(ids, skip_special);
            },
            py::arg("ids"), py::arg("skip_special_tokens") = true, release_gil())
        .def(
            "apply_chat_template",
            [](const Tokenizer& t, const std::vector<ChatMessage>& messages, const std::string& tools) {
                return t.apply_chat_template(messages, tools);
            },
            py::arg("messages"), py::arg("tools") = "", release_gil())
        .def(
            "decode_message",
            [](const Tokenizer& t, const std::vector<int32_t>& ids, const std::string& tools) {
                return t.decode_message(ids, tools);
            },
            py::arg("ids"), py::arg("tools") = "", release_gil())
        .def(
            "token_bytes",
            [](const Tokenizer& t, int32_t id, bool skip) { return py::bytes(t.token_bytes(id, skip)); },
            py::arg("id"), py::arg("skip_special_tokens") = true)
        .def(
            "token_id",
            [](const Tokenizer& t, std::string_view text) -> py::object {
                const int32_t id = t.token_id(text);
                return id < 0 ? py::object(py::none()) : py::object(py::int_(id));
            },
            py::arg("text"))
        .def(
            "is_special", [](const Tokenizer& t, int32_t id) { return t.is_special(id); }, py::arg("id"))
        .def_property_readonly("vocab_size", [](const Tokenizer& t) { return t.vocab_size(); })
        .def_property_readonly("prefix_ids", [](const Tokenizer& t) { return t.prefix_ids(); })
        .def_property_readonly("suffix_ids", [](const Tokenizer& t) { return t.suffix_ids(); })
        .def_property_readonly("eos_ids", [](const Tokenizer& t) { return t.eos_ids(); })
        .def_property_readonly("chat_format", [](const Tokenizer& t) { return t.chat_format(); })
        .def_property_readonly("knows_tools", &Tokenizer::knows_tools);

    m.def(
        "load_tokenizer",
        [](const std::string& path) {
            auto owner = std::make_shared<FileTokenizer>(path);
            const Tokenizer* tokenizer = owner->tokenizer.get();
            // The capsule keeps the mapped file alive as long as Python holds the tokenizer.
            py::capsule keep(new std::shared_ptr<FileTokenizer>(std::move(owner)),
                             [](void* p) { delete static_cast<std::shared_ptr<FileTokenizer>*>(p); });
            py::object result = py::cast(tokenizer, py::return_value_policy::reference);
            py::detail::keep_alive_impl(result, keep);
            return result;
        },
        py::arg("path"), "The tokenizer of a GGUF file, without its weights.");
    m.def(
        "check_model", [](const std::string& path) { load_config(open_model_file(path)); }, py::arg("path"),
        "Raises FormatError when the metadata of a GGUF file say that the engine cannot run it. The weights "
        "are\n"
        "not looked at.");

    m.def(
        "fit_conversation",
        [](const Tokenizer& t, const std::vector<ChatMessage>& messages, const std::string& tools,
           const std::string& when_full, int max_tokens) {
            PromptOptions options;
            options.tools = tools;
            FittedPrompt prompt =
                fit_conversation(t, messages, options, parse_when_full(when_full), max_tokens);
            return std::pair(std::move(prompt.ids), prompt.dropped_messages);
        },
        py::arg("tokenizer"), py::arg("messages"), py::arg("tools"), py::arg("when_full"),
        py::arg("max_tokens"), release_gil(),
        "Ids of the prompt, and how many messages were dropped to bring it to max_tokens.");

    py::class_<TextStreamer>(m, "TextStreamer", "Ids of a reply, one by one, into pieces of its text.")
        .def(py::init([](const Tokenizer& t, bool plain, std::vector<std::string> stop,
                         const std::string& tools, bool exact) {
                 const auto mode = exact   ? TextStreamer::kExact
                                   : plain ? TextStreamer::kPlain
                                           : TextStreamer::kReply;
                 return std::make_unique<TextStreamer>(t, mode, std::move(stop), tools);
             }),
             py::arg("tokenizer"), py::arg("plain") = false, py::arg("stop") = std::vector<std::string>{},
             py::arg("tools") = "", py::arg("exact") = false, py::keep_alive<1, 2>())
        .def("put", &TextStreamer::put, py::arg("id"))
        .def("finish", &TextStreamer::finish)
        .def_property_readonly(
            "stopped", &TextStreamer::stopped,
            "Whether one of the texts `stop` has come: no more text comes, and no more calls.")
        .def_property_readonly("reasoning", &TextStreamer::reasoning,
                               "The piece of the thought that became known with the last put or finish.")
        .def_property_readonly(
            "new_tool_calls",
            [](const TextStreamer& s) {
                std::vector<std::pair<size_t, ToolCallMessage>> calls;
                for (size_t i = s.first_new_call(); i < s.tool_calls().size(); ++i)
                    calls.emplace_back(i, s.tool_calls()[i]);
                return calls;
            },
            "The calls that became known with the last put or finish, each with its place among all.")
        .def_property_readonly(
            "tool_call_error", &TextStreamer::tool_call_error,
            "Why a text of the last put or finish looks like a call and is none, or \"\".");

    py::class_<PipelineStats>(m, "PipelineStats", "Replies and memory of a pipeline.")
        .def_readonly("running", &PipelineStats::running, "Replies that are being computed.")
        .def_readonly("waiting", &PipelineStats::waiting, "Requests that wait for their turn.")
        .def_readonly("used_bytes", &PipelineStats::used_bytes,
                      "Bytes of keys and values that running replies need.")
        .def_readonly("cached_bytes", &PipelineStats::cached_bytes,
                      "Bytes that are kept for later replies; some may be in use, too.")
        .def_readonly("allocated_bytes", &PipelineStats::allocated_bytes, "Bytes of keys and values in all.")
        .def("__repr__", [](const PipelineStats& s) {
            return py::str(
                       "PipelineStats(running={}, waiting={}, used_bytes={}, cached_bytes={}, "
                       "allocated_bytes={})")
                .format(s.running, s.waiting, s.used_bytes, s.cached_bytes, s.allocated_bytes);
        });

    const PipelineOptions defaults;
    py::class_<Pipeline, std::shared_ptr<Pipeline>>(m, "Pipeline", "A model file, ready to answer.")
        .def(py::init([](const std::string& path, int n_threads, const std::string& kv_dtype,
                         int prefill_chunk, double max_pause, int max_sequences, int max_queue,
                         int64_t cache_memory, int expected_length,
                         const std::vector<std::pair<std::string, float>>& loras,
                         std::optional<bool> prompt_lookup, const std::string& draft, int draft_tokens) {
                 PipelineOptions options;
                 options.prompt_lookup = prompt_lookup;
                 options.draft = draft;
                 options.draft_tokens = draft_tokens;
                 options.n_threads = n_threads;
                 options.kv_dtype = kv_dtype;
                 options.prefill_chunk = prefill_chunk;
                 options.max_pause = max_pause;
                 options.max_sequences = max_sequences;
                 options.max_queue = max_queue;
                 options.cache_memory = cache_memory;
                 options.expected_length = expected_length;
                 options.loras = to_loras(loras);
                 std::shared_ptr<Pipeline> pipeline(new Pipeline(path, options), &end_pipeline);
                 stop_at_exit(pipeline, [p = pipeline.get()] { p->close(); });
                 return pipeline;
             }),
             py::arg("path"), py::kw_only(), py::arg("n_threads") = defaults.n_threads,
             py::arg("kv_dtype") = defaults.kv_dtype, py::arg("prefill_chunk") = defaults.prefill_chunk,
             py::arg("max_pause") = defaults.max_pause, py::arg("max_sequences") = defaults.max_sequences,
             py::arg("max_queue") = defaults.max_queue, py::arg("cache_memory") = defaults.cache_memory,
             py::arg("expected_length") = defaults.expected_length,
             py::arg("loras") = std::vector<std::pair<std::string, float>>(),
             py::arg("prompt_lookup") = defaults.prompt_lookup, py::arg("draft") = defaults.draft,
             py::arg("draft_tokens") = defaults.draft_tokens, release_gil())
        .def(
            "set_loras",
            [](Pipeline& p, const std::vector<std::pair<std::string, float>>& loras) {
                p.set_loras(to_loras(loras));
            },
            py::arg("loras"), release_gil())
        .def_property_readonly("loras",
                               [](const Pipeline& p) {
                                   std::vector<std::pair<std::string, float>> result;
                                   for (const Lora& lora : p.loras())
                                       result.emplace_back(lora.path, lora.scale);
                                   return result;
                               })
        // Quick, so the interpreter lock is kept: a thread that Python ends could not take it back here.
        .def(
            "start",
            [](Pipeline& p, std::vector<int32_t> prompt, const GenerationConfig& config,
               const py::object& constraint) {
                return p.start(std::move(prompt), config, to_constraint(constraint));
            },
            py::arg("prompt_ids"), py::arg("config"), py::arg("constraint") = py::none(),
            py::keep_alive<0, 1>())
        .def(
            "start_alternatives",
            [](const py::object& self, std::vector<int32_t> prompt, const GenerationConfig& config, int n,
               const std::vector<py::object>& constraints) {
                std::vector<std::shared_ptr<Constraint>> converted;
                for (const py::object& constraint : constraints)
                    converted.push_back(to_constraint(constraint));
                py::list generations;
                for (auto& generation : self.cast<Pipeline&>().start_alternatives(std::move(prompt), config,
                                                                                  n, std::move(converted))) {
                    py::object object = py::cast(std::move(generation));
                    py::detail::keep_alive_impl(object, self);
                    generations.append(std::move(object));
                }
                return generations;
            },
            py::arg("prompt_ids"), py::arg("config"), py::arg("n") = 1,
            py::arg("constraints") = std::vector<py::object>())
        .def_property_readonly("max_sequences", &Pipeline::max_sequences)
        .def_property_readonly("stats", &Pipeline::stats)
        .def("clear_cache", [](Pipeline& p) { run_without_lock([&](const auto&) { p.clear_cache(); }); })
        .def("close", &Pipeline::close, release_gil())
        .def(
            "logits",
            [](Pipeline& p, const std::vector<int32_t>& ids) {
                py::array_t<float> out(
                    {static_cast<py::ssize_t>(ids.size()), static_cast<py::ssize_t>(p.config().vocab_size)});
                float* data = out.mutable_data();
                run_without_lock([&](const auto& interrupted) { p.logits(ids, data, interrupted); });
                return out;
            },
            py::arg("ids"))
        .def(
            "embed",
            [](Pipeline& p, const std::vector<std::vector<int32_t>>& texts, const std::string& pooling,
               bool normalize) {
                EmbeddingOptions options;
                options.pooling = parse_pooling(pooling);
                options.normalize = normalize;
                py::array_t<float> out({static_cast<py::ssize_t>(texts.size()),
                                        static_cast<py::ssize_t>(p.config().hidden_size)});
                float* data = out.mutable_data();
                run_without_lock(
                    [&](const auto& interrupted) { p.embed(texts, data, options, interrupted); });
                return out;
            },
            py::arg("texts"), py::arg("pooling"), py::arg("normalize"))
        .def(
            "save_session",
            [](Pipeline& p, const std::string& path, const std::vector<ChatMessage>& messages,
               const std::string& tools) {
                int n_tokens = 0;
                run_without_lock([&](const auto& interrupted) {
                    n_tokens = p.save_session(path, messages, tools, interrupted);
                });
                return n_tokens;
            },
            py::arg("path"), py::arg("messages"), py::arg("tools"))
        .def(
            "load_session",
            [](Pipeline& p, const std::string& path) {
                Session session;
                run_without_lock(
                    [&](const auto& interrupted) { session = p.load_session(path, interrupted); });
                return session;
            },
            py::arg("path"))
        .def_property_readonly("tokenizer", &Pipeline::tokenizer, py::return_value_policy::reference_internal)
        .def_property_readonly("config", &Pipeline::config, py::return_value_policy::reference_internal)
        .def_property_readonly("n_threads", &Pipeline::n_threads)
        .def_property_readonly("kv_dtype", &Pipeline::kv_dtype)
        .def_property_readonly("isa", &Pipeline::isa)
        .def_property_readonly("notes", &Pipeline::notes);
}

}  // namespace chatglm::bindings
