// C++ errors as Python exceptions.
#include <pybind11/pybind11.h>

#include <cstring>
#include <new>

#include "bindings/bindings.h"
#include "chatglm/error.h"

namespace py = pybind11;

namespace chatglm::bindings {
namespace {

// Kept for the life of the process, as exception classes are.
PyObject* error_class = nullptr;
PyObject* format_error_class = nullptr;
PyObject* argument_error_class = nullptr;
PyObject* context_error_class = nullptr;
PyObject* busy_class = nullptr;

PyObject* make_class(py::module_& m, const char* name, const char* doc, const py::tuple& bases) {
    const std::string qualified = std::string("chatglm_cpp.") + name;
    PyObject* type = PyErr_NewExceptionWithDoc(qualified.c_str(), doc, bases.ptr(), nullptr);
    if (!type) throw py::error_already_set();
    m.attr(name) = py::reinterpret_borrow<py::object>(type);
    return type;
}

py::handle builtin(PyObject* type) {
    return py::handle(type);
}

// Messages quote names from files, whose bytes may be no UTF-8.
void set_error(PyObject* type, const char* what) {
    PyObject* text = PyUnicode_DecodeUTF8(what, static_cast<Py_ssize_t>(std::strlen(what)), "replace");
    if (!text) return;  // Python's own error stands
    PyErr_SetObject(type, text);
    Py_DECREF(text);
}

}  // namespace

void bind_errors(py::module_& m) {
    error_class = make_class(m, "Error", "Base of the errors that chatglm_cpp raises on purpose.",
                             py::make_tuple(builtin(PyExc_Exception)));
    const py::handle error(error_class);
    format_error_class = make_class(m, "FormatError", "The bytes of a file are not what they should be.",
                                    py::make_tuple(error, builtin(PyExc_ValueError)));
    argument_error_class = make_class(m, "InvalidArgument", "An argument is out of its range.",
                                      py::make_tuple(error, builtin(PyExc_ValueError)));
    context_error_class = make_class(m, "ContextLengthError", "The prompt does not fit in the context.",
                                     py::make_tuple(py::handle(argument_error_class)));
    busy_class = make_class(m, "Busy", "As many replies as may run and wait at once do so already.",
                            py::make_tuple(error));
    py::register_exception_translator([](std::exception_ptr p) {
        try {
            if (p) std::rethrow_exception(p);
        } catch (const ContextLengthError& e) {
            set_error(context_error_class, e.what());
        } catch (const InvalidArgument& e) {
            set_error(argument_error_class, e.what());
        } catch (const FormatError& e) {
            set_error(format_error_class, e.what());
        } catch (const FileError& e) {
            set_error(e.not_found() ? PyExc_FileNotFoundError : PyExc_OSError, e.what());
        } catch (const Busy& e) {
            set_error(busy_class, e.what());
        } catch (const OutOfMemory& e) {
            set_error(PyExc_MemoryError, e.what());
        } catch (const Error& e) {
            set_error(error_class, e.what());
        }
    });
}

}  // namespace chatglm::bindings
