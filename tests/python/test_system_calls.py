"""The engine asks the system only in csrc/core, so that one folder knows how systems differ."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

SOURCES = Path(__file__).resolve().parents[2] / "csrc"

# Of compilers and pybind11; and what tells which instructions a processor has, where kernels are chosen.
PORTABLE = re.compile(r"pybind11/\w+\.h|immintrin\.h|arm_neon\.h")
DETECTION = re.compile(r"cpuid\.h|intrin\.h|sys/auxv\.h|asm/hwcap\.h|sys/sysctl\.h")
MACROS = re.compile(r"\b(_WIN32|__APPLE__|__linux__|__unix__)\b")


def foreign_includes(text: str, is_dispatch: bool) -> list[str]:
    headers = re.findall(r"^\s*#\s*include\s*<([^>]+)>", text, re.MULTILINE)
    return [
        header
        for header in headers
        if "." in header  # the standard library's have none
        and not PORTABLE.fullmatch(header)
        and not (is_dispatch and DETECTION.fullmatch(header))
    ]


def test_system_headers_are_included_in_core_alone() -> None:
    sources = [path for path in SOURCES.rglob("*") if path.suffix in (".h", ".cpp")]
    assert len(sources) > 50
    for path in sources:
        if path.parent.name == "core":
            continue
        is_dispatch = path.name == "dispatch.cpp"
        text = path.read_text(encoding="utf-8")
        assert foreign_includes(text, is_dispatch) == [], path
        if not is_dispatch:
            assert not MACROS.search(text), path


@pytest.mark.parametrize("header", ["unistd.h", "sys/mman.h", "windows.h", "pthread.h", "string.h"])
def test_a_system_header_is_noticed(header: str) -> None:
    assert foreign_includes(f"#include <vector>\n  #include <{header}>\n", True) == [header]
