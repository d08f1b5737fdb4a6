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
        .def(py::init([](FunctionMessage function, std::string id) {
                 return ToolCallMessage{
                     ToolCallMessage::kTypeFunction, std::move(function), {}, std::move(id)};
             }),
             py::arg("function"), py::arg("id") = "")
        .def(py::init([](CodeMessage code, std::string id) {
                 return ToolCallMessage{ToolCallMessage::kTypeCode, {}, std::move(code), std::move(id)};
             }),
             py::arg("code"), py::arg("id") = "")
        .def_readwrite("type", &ToolCallMessage::type)
        .def_readwrite("function", &ToolCallMessage::function)
        .def_readwrite("code", &ToolCallMessage::code)
        .def_readwrite("id", &ToolCallMessage::id,
                       "Unique within a reply, and the same whenever it is read; not compared by ==.")
        .def(py::self == py::self)
        .def("__repr__", [](const ToolCallMessage& x) {
            const py::str id = x.id.empty() ? py::str("") : py::str(", id={!r}").format(x.id);
            return x.type == ToolCallMessage::kTypeCode
                       ? py::str("ToolCallMessage(code={!r}{})").format(x.code, id)
                       : py::str("ToolCallMessage(function={!r}{})").format(x.function, id);
        });
    tool_call.attr("TYPE_FUNCTION") = ToolCallMessage::kTypeFunction;
    tool_call.attr("TYPE_CODE") = ToolCallMessage::kTypeCode;

    py::class_<ChatMessage> message(m, "ChatMessage", "One message of a conversation.", py::dynamic_attr());
    message
        .def(py::init([](std::string role, std::string content, std::vector<ToolCallMessage> tool_calls,
                         std::string reasoning_content, std::string tool_call_error) {
                 return ChatMessage{std::move(role), std::move(content), std::move(tool_calls),
                                    std::move(reasoning_content), std::move(tool_call_error)};
             }),
             py::arg("role"), py::arg("content"), py::arg("tool_calls") = std::vector<ToolCallMessage>{},
             py::arg("reasoning_content") = "", py::arg("tool_call_error") = "")
        .def_readwrite("role", &ChatMessage::role)
        .def_readwrite("content", &ChatMessage::content)
        .def_readwrite("tool_calls", &ChatMessage::tool_calls)
        .def_readwrite("reasoning_content", &ChatMessage::reasoning_content)
        .def_readwrite("tool_call_error", &ChatMessage::tool_call_error,
                       "In a reply: why something in its content that looks like a call of a tool is none.")
        .def_readwrite(
            "dropped_messages", &ChatMessage::dropped_messages,
            "In a reply: messages of the conversation that the prompt had no room for; not compared "
            "by ==.")
        .def(py::self == py::self)
        .def("__repr__", [](const ChatMessage& x) {
            const auto unless_empty = [](const char* format, const std::string& text) {
                return text.empty() ? py::str("") : py::str(format).format(text);
            };
            return py::str("ChatMessage(role={!r}, content={!r}, tool_calls={!r}{}{})")
                .format(x.role, x.content, x.tool_calls,
                        unless_empty(", reasoning_content={!r}", x.reasoning_content),
                        unless_empty(", tool_call_error={!r}", x.tool_call_error));
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
