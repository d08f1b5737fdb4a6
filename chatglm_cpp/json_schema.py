"""Finds the mistakes in a JSON Schema that would pass as annotations: JSON Schema lets a validator skip
keywords that it does not know, so that one misspelt word would silently bind nothing."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from typing import Any

from ._C import InvalidArgument

_SCHEMA = {
    "additionalItems", "additionalProperties", "contains", "contentSchema", "else", "if", "items", "not",
    "propertyNames", "then", "unevaluatedItems", "unevaluatedProperties",
}  # fmt: skip
_SCHEMAS = {"allOf", "anyOf", "oneOf", "prefixItems"}
_NAMED_SCHEMAS = {"$defs", "definitions", "dependentSchemas", "patternProperties", "properties"}
_OTHERS = {
    "$anchor", "$comment", "$dynamicAnchor", "$dynamicRef", "$id", "$ref", "$schema", "const",
    "contentEncoding", "contentMediaType", "default", "dependencies", "dependentRequired", "deprecated",
    "description", "enum", "examples", "exclusiveMaximum", "exclusiveMinimum", "format", "id", "maxContains",
    "maxItems", "maxLength", "maxProperties", "maximum", "minContains", "minItems", "minLength",
    "minProperties", "minimum", "multipleOf", "pattern", "readOnly", "required", "title", "type",
    "uniqueItems", "writeOnly",
}  # fmt: skip
_KEYWORDS = sorted(_SCHEMA | _SCHEMAS | _NAMED_SCHEMAS | _OTHERS)
_MAX_DEPTH = 100


def check_schema(schema: Any, where: str = "the schema") -> None:
    """Raises InvalidArgument, naming the place, when `schema` is no JSON or has a keyword that JSON Schema
    does not have. Whether the other keywords can be held to is not looked at."""
    try:
        json.dumps(schema, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidArgument(f"{where} is no JSON: {error}.") from None
    _check(schema, where, 0)


def _check(schema: Any, where: str, depth: int) -> None:
    if isinstance(schema, bool):
        return
    if not isinstance(schema, Mapping):
        raise InvalidArgument(f"{where} is a {type(schema).__name__}; a schema is a dict, True or False.")
    if depth > _MAX_DEPTH:
        raise InvalidArgument(f"{where} is nested more than {_MAX_DEPTH} deep.")
    for key, value in schema.items():
        inner = f"{where}[{key!r}]"
        if key not in _KEYWORDS:
            near = difflib.get_close_matches(str(key), _KEYWORDS, 1)
            meant = f"; did you mean {near[0]!r}?" if near else "."
            raise InvalidArgument(f"{inner} is no keyword of JSON Schema{meant}")
        if key in _SCHEMAS:
            if not isinstance(value, (list, tuple)):
                raise InvalidArgument(f"{inner} must be a list of schemas.")
            for i, one in enumerate(value):
                _check(one, f"{inner}[{i}]", depth + 1)
        elif key in _NAMED_SCHEMAS:
            if not isinstance(value, Mapping):
                raise InvalidArgument(f"{inner} must be a dict of schemas.")
            for name, one in value.items():
                _check(one, f"{inner}[{name!r}]", depth + 1)
        elif key == "items" and isinstance(value, (list, tuple)):
            raise InvalidArgument(f"{inner} is a list; schemas of single items are 'prefixItems'.")
        elif key in _SCHEMA:
            _check(value, inner, depth + 1)
