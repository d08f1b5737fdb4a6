// The parts of the Python module chatglm_cpp._C.
#pragma once

#include <pybind11/pybind11.h>

#include <functional>
#include <memory>

#include "chatglm/constraint.h"

namespace chatglm::bindings {

void bind_errors(pybind11::module_& m);
void bind_messages(pybind11::module_& m);
void bind_sampling(pybind11::module_& m);
void bind_pipeline(pybind11::module_& m);
void bind_arrays(pybind11::module_& m);
void bind_bench(pybind11::module_& m);

// A Python object with fill_mask(buffer) and accept(id) -> bool as a constraint; None as none.
std::shared_ptr<Constraint> to_constraint(const pybind11::object& object);

// Runs compute(interrupted) without the interpreter lock; Ctrl-C ends it as a Python exception.
void run_without_lock(const std::function<void(const std::function<bool()>& interrupted)>& compute);

}  // namespace chatglm::bindings
