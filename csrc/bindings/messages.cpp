// Messages as Python classes.
#include <pybind11/operators.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "bindings/bindings.h"
#include "chatglm/message.h"

namespace py = pybind11;

namespace chatglm::bindings {

void bind_messages(py::module_& m) {
    py::class_<FunctionMessage>(m, "FunctionMessage", "A function that the model asks to be called.")
        .def(py::init<std::string, std::string>(), py::arg("name"), py::arg("arguments"))
        .def_readwrite("name", &FunctionMessage::name)
        .def_readwrite("arguments", &FunctionMessage::arguments)
        .def(py::self == py::self)
        .def("__repr__", [](const FunctionMessage& x) {
            return py::str("FunctionMessage(name={!r}, arguments={!r})").format(x.name, x.arguments);
        });
    py::class_<CodeMessage>(m, "CodeMessage", "Python source that the model asks to be run; never run by us.")
        .def(py::init<std::string>(), py::arg("input"))
        .def_readwrite("input", &CodeMessage::input)
        .def(py::self == py::self)
        .def("__repr__",
             [](const CodeMessage& x) { return py::str("CodeMessage(input={!r})").format(x.input); });

    py::class_<ToolCallMessage> tool_call(m, "ToolCallMessage", "A call of a function, or code to run.");
    tool_call
        .def(py::init([](FunctionMessage function) {
                 return ToolCallMessage{ToolCallMessage::kTypeFunction, std::move(function), {}};
             }),
             py::arg("function"))
        .def(py::init([](CodeMessage code) {
                 return ToolCallMessage{ToolCallMessage::kTypeCode, {}, std::move(code)};
             }),
             py::arg("code"))
        .def_readwrite("type", &ToolCallMessage::type)
        .def_readwrite("function", &ToolCallMessage::function)
        .def_readwrite("code", &ToolCallMessage::code)
        .def(py::self == py::self)
        .def("__repr__", [](const ToolCallMessage& x) {
            return x.type == ToolCallMessage::kTypeCode
                       ? py::str("ToolCallMessage(code={!r})").format(x.code)
                       : py::str("ToolCallMessage(function={!r})").format(x.function);
        });
    tool_call.attr("TYPE_FUNCTION") = ToolCallMessage::kTypeFunction;
    tool_call.attr("TYPE_CODE") = ToolCallMessage::kTypeCode;

    py::class_<ChatMessage> message(m, "ChatMessage", "One message of a conversation.", py::dynamic_attr());
    message
        .def(py::init<std::string, std::string, std::vector<ToolCallMessage>, std::string>(), py::arg("role"),
             py::arg("content"), py::arg("tool_calls") = std::vector<ToolCallMessage>{},
             py::arg("reasoning_content") = "")
        .def_readwrite("role", &ChatMessage::role)
        .def_readwrite("content", &ChatMessage::content)
        .def_readwrite("tool_calls", &ChatMessage::tool_calls)
        .def_readwrite("reasoning_content", &ChatMessage::reasoning_content)
        .def(py::self == py::self)
        .def("__repr__", [](const ChatMessage& x) {
            const py::str thought = x.reasoning_content.empty()
                                        ? py::str("")
                                        : py::str(", reasoning_content={!r}").format(x.reasoning_content);
            return py::str("ChatMessage(role={!r}, content={!r}, tool_calls={!r}{})")
                .format(x.role, x.content, x.tool_calls, thought);
        });
    // What Pipeline.chat notes on its replies; no part of the message, so that messages compare without it.
    message.attr("finish_reason") = py::none();
    message.attr("logprobs") = py::none();
    message.attr("ROLE_SYSTEM") = ChatMessage::kRoleSystem;
    message.attr("ROLE_USER") = ChatMessage::kRoleUser;
    message.attr("ROLE_ASSISTANT") = ChatMessage::kRoleAssistant;
    message.attr("ROLE_OBSERVATION") = ChatMessage::kRoleObservation;
}

}  // namespace chatglm::bindings
