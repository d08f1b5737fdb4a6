"""Tools that a model may call: how callers describe them, and a description of a Python function."""

from __future__ import annotations

import inspect
import json
import re
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from ._C import InvalidArgument
from .messages import check_text

ToolLike = Mapping[str, Any] | Callable[..., Any]

_JSON_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean", list: "array", dict: "object"}
_SECTION = re.compile(r"(args|arguments|parameters|returns|raises|yields|examples?|notes?):", re.IGNORECASE)


def tool(function: Callable[..., Any]) -> dict[str, Any]:
    """The description of a Python function as a tool, from its signature, type hints and docstring.

        def get_weather(city: str, days: int = 1) -> str:
            '''The weather forecast of a city.

            Args:
                city: its name, in Chinese
                days: how many days ahead
            '''

        pipeline.chat(messages, tools=[chatglm_cpp.tool(get_weather)])

    A parameter without a default is required. Types may be str, int, float, bool, list, dict, Any, Literal
    and unions of them. The function is described, never called.

    Raises:
        TypeError: a parameter has another type or none, or the function takes *args or **kwargs.
    """
    name = getattr(function, "__name__", None)
    if not callable(function) or name is None:
        raise TypeError(f"{function!r} is no function that can be described as a tool.")
    summary, said = _read_docstring(inspect.getdoc(function) or "")
    hints = get_type_hints(function, include_extras=True)
    properties, required = {}, []
    for parameter in inspect.signature(function).parameters.values():
        where = f"the parameter {parameter.name} of {name}"
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise TypeError(f"{where} cannot be given by its name, as a call of a tool gives it.")
        if parameter.name not in hints:
            raise TypeError(f"{where} has no type: write, for example, {parameter.name}: str.")
        schema = _schema(hints[parameter.name], where)
        if parameter.name in said:
            schema["description"] = said[parameter.name]
        if parameter.default is parameter.empty:
            required.append(parameter.name)
        elif isinstance(parameter.default, (str, int, float)):
            schema["default"] = parameter.default
        properties[parameter.name] = schema
    parameters = {"type": "object", "properties": properties, "required": required}
    return {
        "type": "function",
        "function": {"name": name, "description": summary, "parameters": parameters},
    }


def to_tools(tools: Iterable[ToolLike] | None) -> str:
    """The tools as the engine takes them, the text of a JSON array; "" for none. The engine checks what is in
    the descriptions.

    Raises:
        TypeError: something is neither a dict nor a function, or holds what JSON does not know.
        InvalidArgument: a text is not valid Unicode, or a number is not finite.
    """
    if tools is None:
        return ""
    if isinstance(tools, (str, bytes, Mapping)) or not isinstance(tools, Iterable):
        raise TypeError(
            f"tools is a {type(tools).__name__}; give a list of tools, for example "
            '[{"type": "function", "function": {"name": "get_weather", "parameters": {...}}}].'
        )
    items = [_to_tool(item, f"tools[{i}]") for i, item in enumerate(tools)]
    return f"[{', '.join(items)}]" if items else ""


def _to_tool(item: object, where: str) -> str:
    if callable(item) and not isinstance(item, Mapping):
        item = tool(item)
    if not isinstance(item, Mapping):
        raise TypeError(
            f"{where} is a {type(item).__name__}; give a dict that describes the tool, or a function."
        )
    try:
        text = json.dumps(item, ensure_ascii=False, allow_nan=False, default=_plain)
    except ValueError as error:
        raise InvalidArgument(f"{where} cannot be written as JSON: {error}.") from None
    except (TypeError, RecursionError) as error:
        raise TypeError(f"{where} cannot be written as JSON: {error}.") from None
    return check_text(text, where)


def _plain(value: object) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"it holds a {type(value).__name__}")


def _schema(hint: Any, where: str) -> dict[str, Any]:
    """The JSON schema of a type."""
    if hint is Any:
        return {}
    if hint is None or hint is type(None):
        return {"type": "null"}
    if hint in _JSON_TYPES:
        return {"type": _JSON_TYPES[hint]}
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _schema(args[0], where)
    if origin is Literal and all(isinstance(arg, (str, int)) for arg in args):
        kinds = {_JSON_TYPES[type(arg)] for arg in args}
        return {"enum": list(args)} | ({"type": kinds.pop()} if len(kinds) == 1 else {})
    if origin is list:
        return {"type": "array", "items": _schema(args[0], where)}
    if origin is dict and args[0] is str:
        return {"type": "object", "additionalProperties": _schema(args[1], where)}
    if origin in (Union, types.UnionType):
        options = [_schema(arg, where) for arg in args if arg is not type(None)]
        # Leaving an optional argument out says None.
        return options[0] if len(options) == 1 else {"anyOf": options}
    raise TypeError(
        f"{where} has the type {hint!r}, which JSON does not know; it may be str, int, float, bool, list, "
        "dict, Literal or a union of them."
    )


def _read_docstring(text: str) -> tuple[str, dict[str, str]]:
    """The text before the first section of a docstring, and what its section "Args" says of each."""
    summary: list[str] = []
    said: dict[str, str] = {}
    section, name = "", ""
    for line in text.splitlines():
        if not line.startswith(" ") and (found := _SECTION.fullmatch(line.strip())):
            section = found[1].lower()
        elif not section:
            summary.append(line)
        elif section in ("args", "arguments", "parameters"):
            if found := re.fullmatch(r" {1,4}\*{0,2}(\w+)(?: *\(.*?\))? *: *(.*)", line):
                name = found[1]
                said[name] = found[2].strip()
            elif name and line.strip():
                said[name] += " " + line.strip()
    return "\n".join(summary).strip(), said
