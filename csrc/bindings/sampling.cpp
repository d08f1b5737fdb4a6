// The settings of a reply, what its text must look like, and the distribution that tokens are drawn from.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <utility>

#include "bindings/bindings.h"
#include "chatglm/constraint.h"
#include "chatglm/error.h"
#include "chatglm/generation.h"
#include "generate/sampler.h"

namespace py = pybind11;

namespace chatglm::bindings {
namespace {

// A Python object with fill_mask(buffer) and accept(id) -> bool. The lock of the interpreter is taken for
// each call and for the end of the object: a reply may be computed and dropped without it.
class PythonConstraint final : public Constraint {
  public:
    explicit PythonConstraint(py::object object) : object_(std::move(object)) {}
    ~PythonConstraint() override {
        if (!Py_IsInitialized()) {
            object_.release();  // there is nobody left to give it back to
            return;
        }
        const py::gil_scoped_acquire acquire;
        object_ = py::object();
    }
    PythonConstraint(const PythonConstraint&) = delete;
    PythonConstraint& operator=(const PythonConstraint&) = delete;

    void fill_mask(std::span<uint32_t> mask) override {
        const py::gil_scoped_acquire acquire;
        object_.attr("fill_mask")(py::memoryview::from_memory(static_cast<void*>(mask.data()),
                                                              static_cast<py::ssize_t>(mask.size_bytes())));
    }
    bool accept(int32_t id) override {
        const py::gil_scoped_acquire acquire;
        return object_.attr("accept")(id).cast<bool>();
    }

  private:
    py::object object_;
};

using Logits = py::array_t<float, py::array::c_style | py::array::forcecast>;

py::array_t<double> sampling_distribution(const Logits& logits, const GenerationConfig& config,
                                          const std::vector<int32_t>& history, size_t n_prompt,
                                          const std::vector<int32_t>& eos_ids, const py::object& constraint) {
    config.validate();
    if (logits.ndim() != 1 || logits.size() == 0) throw InvalidArgument("logits must be a row of numbers.");
    std::vector<float> copy(logits.data(), logits.data() + logits.size());
    Sampler sampler(config, eos_ids, to_constraint(constraint));
    const std::vector<double> result = sampler.distribution(copy, history, n_prompt);
    return py::array_t<double>(static_cast<py::ssize_t>(result.size()), result.data());
}

py::array_t<int32_t> draw_tokens(const Logits& logits, const GenerationConfig& config, int n) {
    config.validate();
    if (logits.ndim() != 1 || logits.size() == 0) throw InvalidArgument("logits must be a row of numbers.");
    Sampler sampler(config);
    py::array_t<int32_t> result(n);
    std::vector<float> copy;
    for (int i = 0; i < n; ++i) {
        copy.assign(logits.data(), logits.data() + logits.size());
        result.mutable_at(i) = sampler.sample(copy, {});
    }
    return result;
}

EarlyStopping to_early_stopping(const py::object& value) {
    if (py::isinstance<py::bool_>(value))
        return value.cast<bool>() ? EarlyStopping::kYes : EarlyStopping::kNo;
    if (py::isinstance<py::str>(value) && value.cast<std::string>() == "never") return EarlyStopping::kNever;
    throw InvalidArgument("early_stopping is " + py::repr(value).cast<std::string>() +
                          "; it must be False, True or 'never'.");
}

}  // namespace

std::shared_ptr<Constraint> to_constraint(const py::object& object) {
    return object.is_none() ? nullptr : std::make_shared<PythonConstraint>(object);
}

void bind_sampling(py::module_& m) {
    const GenerationConfig d;
    py::class_<GenerationConfig> config(m, "GenerationConfig",
                                        "How a reply is generated; see Pipeline.chat for the fields.");
    config
        .def(py::init([](int max_length, int max_new_tokens, int max_context_length, bool do_sample,
                         int top_k, float top_p, float temperature, float repetition_penalty, int64_t seed,
                         double max_time, float min_p, float typical_p, float presence_penalty,
                         float frequency_penalty, int penalty_last_n, std::map<int32_t, float> logit_bias,
                         std::vector<std::string> stop, std::vector<int32_t> stop_token_ids, bool ignore_eos,
                         int min_new_tokens, int logprobs, int num_beams, float length_penalty,
                         const py::object& early_stopping, float xtc_probability, float xtc_threshold) {
                 GenerationConfig c{.max_length = max_length,
                                    .max_new_tokens = max_new_tokens,
                                    .max_context_length = max_context_length,
                                    .do_sample = do_sample,
                                    .top_k = top_k,
                                    .top_p = top_p,
                                    .temperature = temperature,
                                    .repetition_penalty = repetition_penalty,
                                    .seed = seed,
                                    .max_time = max_time,
                                    .min_p = min_p,
                                    .typical_p = typical_p,
                                    .xtc_probability = xtc_probability,
                                    .xtc_threshold = xtc_threshold,
                                    .presence_penalty = presence_penalty,
                                    .frequency_penalty = frequency_penalty,
                                    .penalty_last_n = penalty_last_n,
                                    .logit_bias = std::move(logit_bias),
                                    .stop = std::move(stop),
                                    .stop_token_ids = std::move(stop_token_ids),
                                    .ignore_eos = ignore_eos,
                                    .min_new_tokens = min_new_tokens,
                                    .logprobs = logprobs,
                                    .num_beams = num_beams,
                                    .length_penalty = length_penalty,
                                    .early_stopping = to_early_stopping(early_stopping)};
                 c.validate();
                 return c;
             }),
             py::arg("max_length") = d.max_length, py::arg("max_new_tokens") = d.max_new_tokens,
             py::arg("max_context_length") = d.max_context_length, py::arg("do_sample") = d.do_sample,
             py::arg("top_k") = d.top_k, py::arg("top_p") = d.top_p, py::arg("temperature") = d.temperature,
             py::arg("repetition_penalty") = d.repetition_penalty, py::arg("seed") = d.seed,
             py::arg("max_time") = d.max_time, py::arg("min_p") = d.min_p, py::arg("typical_p") = d.typical_p,
             py::arg("presence_penalty") = d.presence_penalty,
             py::arg("frequency_penalty") = d.frequency_penalty, py::arg("penalty_last_n") = d.penalty_last_n,
             py::arg("logit_bias") = d.logit_bias, py::arg("stop") = d.stop,
             py::arg("stop_token_ids") = d.stop_token_ids, py::arg("ignore_eos") = d.ignore_eos,
             py::arg("min_new_tokens") = d.min_new_tokens, py::arg("logprobs") = d.logprobs,
             py::arg("num_beams") = d.num_beams, py::arg("length_penalty") = d.length_penalty,
             py::arg("early_stopping") = false, py::arg("xtc_probability") = d.xtc_probability,
             py::arg("xtc_threshold") = d.xtc_threshold)
        .def("alternative", &GenerationConfig::alternative, py::arg("i"),
             "The settings for alternative i of several replies to one prompt: the seed is i more.");
#define FIELD(name) config.def_readwrite(#name, &GenerationConfig::name)
    FIELD(max_length);
    FIELD(max_new_tokens);
    FIELD(max_context_length);
    FIELD(do_sample);
    FIELD(top_k);
    FIELD(top_p);
    FIELD(temperature);
    FIELD(repetition_penalty);
    FIELD(seed);
    FIELD(max_time);
    FIELD(min_p);
    FIELD(typical_p);
    FIELD(xtc_probability);
    FIELD(xtc_threshold);
    FIELD(presence_penalty);
    FIELD(frequency_penalty);
    FIELD(penalty_last_n);
    FIELD(logit_bias);
    FIELD(stop);
    FIELD(stop_token_ids);
    FIELD(ignore_eos);
    FIELD(min_new_tokens);
    FIELD(logprobs);
    FIELD(num_beams);
    FIELD(length_penalty);
#undef FIELD
    config.def_property(
        "early_stopping",
        [](const GenerationConfig& c) -> py::object {
            if (c.early_stopping == EarlyStopping::kNever) return py::str("never");
            return py::bool_(c.early_stopping == EarlyStopping::kYes);
        },
        [](GenerationConfig& c, const py::object& value) { c.early_stopping = to_early_stopping(value); });

    m.def("sampling_distribution", &sampling_distribution, py::arg("logits"), py::arg("config"),
          py::arg("history") = std::vector<int32_t>{}, py::arg("n_prompt") = 0,
          py::arg("eos_ids") = std::vector<int32_t>{}, py::arg("constraint") = py::none(),
          "The probabilities, float64 (vocab_size,), that a token would be drawn by after `history`, whose\n"
          "first n_prompt ids are the prompt.");
    m.def("draw_tokens", &draw_tokens, py::arg("logits"), py::arg("config"), py::arg("n"),
          "n tokens, int32 (n,), drawn one after the other from the same logits by one reply's sampler.");
}

}  // namespace chatglm::bindings
