#include <pybind11/pybind11.h>

#include "bindings/bindings.h"

PYBIND11_MODULE(_C, m) {
    m.doc() = "The C++ engine of chatglm_cpp.";
    m.attr("__version__") = CHATGLM_VERSION;
    chatglm::bindings::bind_errors(m);
    chatglm::bindings::bind_without_lock(m);
    chatglm::bindings::bind_messages(m);
    chatglm::bindings::bind_sampling(m);
    chatglm::bindings::bind_generation(m);
    chatglm::bindings::bind_sessions(m);
    chatglm::bindings::bind_pipeline(m);
    chatglm::bindings::bind_arrays(m);
    chatglm::bindings::bind_bench(m);
}
