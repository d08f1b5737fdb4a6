"""The engine asks the system only in csrc/core, so that one folder knows how systems differ."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

SOURCES = Path(__file__).resolve().parents[2] / "csrc"

# Of compilers and pybind11.
PORTABLE = re.compile(r"pybind11/\w+\.h|immintrin\.h|arm_neon\.h|intrin\.h|cpuid\.h")
MACROS = re.compile(r"\b(_WIN32|__APPLE__|__linux__|__unix__)\b")


def foreign_includes(text: str) -> list[str]:
    headers = re.findall(r"^\s*#\s*include\s*<([^>]+)>", text, re.MULTILINE)
    return [header for header in headers if "." in header and not PORTABLE.fullmatch(header)]


def test_system_headers_are_included_in_core_alone() -> None:
    sources = [path for path in SOURCES.rglob("*") if path.suffix in (".h", ".cpp")]
    assert len(sources) > 50
    for path in sources:
        if path.parent.name == "core":
            continue
        text = path.read_text(encoding="utf-8")
        assert foreign_includes(text) == [], path
        assert not MACROS.search(text), path


@pytest.mark.parametrize("header", ["unistd.h", "sys/mman.h", "windows.h", "pthread.h", "string.h"])
def test_a_system_header_is_noticed(header: str) -> None:
    assert foreign_includes(f"#include <vector>\n  #include <{header}>\n") == [header]
