"""JSON files of a checkpoint: read with limits, and every value checked before it is used."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import ConvertError

# Parsed JSON takes up to 25 times its size. The tokenizer.json of a 150k vocabulary has about 20 MB, all
# others a few kilobytes to a few hundred.
MAX_JSON_BYTES = 4 << 20
MAX_TOKENIZER_JSON_BYTES = 64 << 20


def load_json(path: Path) -> Any:
    """Parses `path`. Raises ConvertError when it is missing, too large or not JSON."""
    try:
        size = path.stat().st_size
        if size > (MAX_TOKENIZER_JSON_BYTES if path.name == "tokenizer.json" else MAX_JSON_BYTES):
            raise ConvertError(f"{path}: {size} bytes is too large for a JSON file of a checkpoint")
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ConvertError(f"{path}: no such file") from None
    except OSError as error:
        raise ConvertError(f"{path}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise ConvertError(f"{path}: is not UTF-8 text (byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise ConvertError(f"{path}: is not valid JSON: {error}") from None
    except (RecursionError, ValueError) as error:
        if isinstance(error, ConvertError):
            raise
        raise ConvertError(f"{path}: is not usable JSON: {error}") from None


def load_object(path: Path) -> dict[str, Any]:
    """Parses `path`, which must hold a JSON object."""
    value = load_json(path)
    if not isinstance(value, dict):
        raise ConvertError(f"{path}: holds {shown(value)}, expected a JSON object")
    return value


def shown(value: Any) -> str:
    """A value as its file has it, short enough for a message."""
    if isinstance(value, list) and len(value) > 40:  # before it is written out
        value = value[:40]
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


class Settings:
    """A JSON object with typed access; a key may be a dotted path into nested objects."""

    def __init__(self, values: Mapping[str, Any], path: Path) -> None:
        self.values = values
        self.path = path

    def get(self, key: str, default: Any = None) -> Any:
        node: Any = self.values
        for part in key.split("."):
            if not isinstance(node, Mapping) or part not in node:
                return default
            node = node[part]
        return node

    def has(self, key: str) -> bool:
        return self.get(key) is not None

    def number(self, key: str, kind: type) -> Any:
        """The value at `key` as `kind` (int, float or bool); ConvertError when it is something else."""
        value = self.get(key)
        if kind is bool:
            if isinstance(value, bool):
                return value
            raise self.wrong(key, "true or false")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.wrong(key, "a number")
        if kind is int:
            if isinstance(value, float) and not value.is_integer():
                raise self.wrong(key, "a whole number")
            return int(value)
        if not -1e300 < value < 1e300:
            raise self.wrong(key, "a finite number")
        return float(value)

    def text(self, key: str) -> str:
        """The string at `key`, or an empty one."""
        value = self.get(key)
        return value if isinstance(value, str) else ""

    def wrong(self, key: str, expected: str) -> ConvertError:
        return ConvertError(f'{self.path}: "{key}" is {shown(self.get(key))}, expected {expected}')
