// Sessions in files.
#include "chatglm/session.h"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "bindings/bindings.h"

namespace py = pybind11;

namespace chatglm::bindings {

void bind_sessions(py::module_& m) {
    py::class_<Session>(m, "Session", "A conversation from a file; chatglm_cpp.Session has its tools parsed.")
        .def_readonly("messages", &Session::messages)
        .def_readonly("tools", &Session::tools)
        .def_readonly("model", &Session::model)
        .def_readonly("cached_tokens", &Session::cached_tokens);
    m.def("read_session", &read_session, py::arg("path"), py::call_guard<WithoutLock>(),
          "The text of a session, without its model.");
}

}  // namespace chatglm::bindings
