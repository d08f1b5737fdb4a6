"""Plain reads of files that nobody trusts: a file that shrinks meanwhile is an error message."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from .errors import ConvertError


def read_exactly(file: BinaryIO, path: Path, offset: int, n_bytes: int, what: str) -> bytearray:
    """`n_bytes` at `offset` of `file`, which was opened unbuffered; `what` names them in messages.

    The buffer is made before anything is read: the caller knows that the file is long enough.
    """
    buffer = bytearray(n_bytes)
    view = memoryview(buffer)
    done = 0
    try:
        file.seek(offset)
        while done < n_bytes:
            n = file.readinto(view[done:])  # type: ignore[attr-defined]
            if not n:
                raise ConvertError(f"{path}: the file ends inside {what}")
            done += n
    except OSError as error:
        raise ConvertError(f"{path}: reading {what} failed: {error.strerror or error}") from None
    return buffer
