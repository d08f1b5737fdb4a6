"""How compare.py talks to the programs that it measures: each runs in a process of its own, under any
interpreter, and answers one line of JSON with one line of JSON. Only the standard library is needed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any


def ids_of(n: int, vocab: int, first: int = 0) -> list[int]:
    """Fixed ids of positions first, first + 1, ..., the same for every program."""
    return [(i * 7919 + 11) % min(vocab, 60000) for i in range(first, first + n)]


def serve(operations: dict[str, Callable[..., Any]]) -> None:
    """Answers requests {"do": name, ...arguments} from standard input until it ends."""
    # Libraries may print; the answers keep the real standard output for themselves.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"result": operations[request.pop("do")](**request)}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


class PeerError(Exception):
    """The program cannot do what was asked; the message says why."""


class Peer:
    """A program in its own process, as a context manager."""

    def __init__(self, name: str, python: str, script: str, *arguments: str) -> None:
        self.name = name
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - __exit__ closes it
        path = os.path.join(os.path.dirname(os.path.abspath(__file__)), script)
        self._process = subprocess.Popen(
            [python, path, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            encoding="utf-8",
            errors="replace",
        )

    def do(self, name: str, **arguments: Any) -> Any:
        assert self._process.stdin and self._process.stdout
        try:
            print(json.dumps({"do": name, **arguments}), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise PeerError(f"{self.name}: ended: {self._last_words()}")
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise PeerError(
                f"{self.name}: {self._process.args[0]} is no Python: it says {line.strip()[:60]!r}"
            )
        if "error" in answer:
            raise PeerError(f"{self.name}: {answer['error']}")
        return answer["result"]

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()  # closes its standard input, at which it ends
        self._errors.close()

    def _last_words(self) -> str:
        self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode("utf-8", "replace").split("\n")
        return next((line for line in reversed(lines) if line.strip()), "without a word")
