"""The files of a batch. Whenever a run is killed, the next one goes on: no record is lost or doubled."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple

from .._C import InvalidArgument
from .records import MAX_LINE_BYTES, RECORD_START, BadLine, Line, Record, parse_request, read_record

try:
    import fcntl
except ImportError:  # Windows; there two runs on one output are the user's to avoid
    fcntl = None  # type: ignore[assignment]

SYNC_SECONDS = 1.0  # records of so many seconds can be lost when the machine fails, and are computed again
_ADVICE = "Give another output with -o."


class _Place(NamedTuple):
    number: int
    offset: int


class Input:
    """The lines of a file that hold something, of which only the places are kept in memory.

    Raises:
        InvalidArgument: two of them have the same custom_id, or there are none.
        OSError: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._places: dict[str, _Place] = {}  # by the ids of their records
        custom_ids: dict[str, int] = {}
        for line, place in self._scan():
            self._places[line.id] = place
            with contextlib.suppress(BadLine):
                custom_id = parse_request(line).custom_id
                if custom_id in custom_ids:
                    raise InvalidArgument(
                        f"{path}: the lines {custom_ids[custom_id]} and {line.number} have the same "
                        f"custom_id {custom_id!r}; each needs one of its own."
                    )
                custom_ids[custom_id] = line.number
        if not self._places:
            raise InvalidArgument(f"{path}: has no requests.")

    @property
    def ids(self) -> Collection[str]:
        """Of the records that its lines need."""
        return self._places.keys()

    def lines(self, without: Collection[str]) -> Iterator[Line]:
        """Its lines, but for those whose records' ids are in `without`.

        Raises:
            InvalidArgument: the file has changed meanwhile.
        """
        with open(self._path, "rb") as file:
            for record_id, place in self._places.items():
                if record_id in without:
                    continue
                file.seek(place.offset)
                line = Line(place.number, _read_line(file))
                if line.id != record_id:
                    raise InvalidArgument(f"{self._path}: line {place.number} was changed during the run.")
                yield line

    def _scan(self) -> Iterator[tuple[Line, _Place]]:
        with open(self._path, "rb") as file:
            if not file.seekable():
                raise InvalidArgument(f"{self._path}: is no file that can be read again; save it first.")
            number, offset = 1, 0
            while data := _read_line(file, keep_end=True):
                stripped = data.rstrip(b"\r\n")
                if stripped.strip():
                    yield Line(number, stripped), _Place(number, offset)
                number, offset = number + 1, file.tell()


def _read_line(file: BinaryIO, keep_end: bool = False) -> bytes:
    """The next line. Of one that is too long to be a request only the beginning is kept."""
    data = file.readline(MAX_LINE_BYTES + 2)
    part = data
    while len(part) == MAX_LINE_BYTES + 2 and not part.endswith(b"\n"):
        part = file.readline(MAX_LINE_BYTES + 2)
    return data if keep_end else data.rstrip(b"\r\n")


class Output:
    """A file of records that only grows, by whole lines.

    What an earlier run has left is kept, and is found in `answered`; a line that it could not finish is cut
    off. One process at a time may have a file open.

    Args:
        path: the file; made when it is not there.
        ids: of the records that may be in it.

    Raises:
        InvalidArgument: it holds something else, or answers of another input.
        OSError: it cannot be read or written.
    """

    def __init__(self, path: Path, ids: Collection[str]) -> None:
        self._path = path
        self._file = open(path, "a+b", buffering=0)  # noqa: SIM115 - closed by `close`
        try:
            self._lock()
            self.answered: dict[str, bool] = {}  # ids of its records, and whether they succeeded
            end = self._read(ids)
            self._file.truncate(end)
        except BaseException:
            self._file.close()
            raise
        self._synced = time.monotonic()

    def write(self, record: Record) -> None:
        """Appends a record. When there is no room for it, the file stays as it was."""
        end = self._file.seek(0, os.SEEK_END)
        rest = memoryview(record.to_line())
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.truncate(end)
            raise type(error)(f"{self._path}: cannot be written: {error.strerror}.") from None
        self.answered[record.id] = record.succeeded
        if time.monotonic() - self._synced >= SYNC_SECONDS:
            self._sync()

    def close(self) -> None:
        if not self._file.closed:
            self._sync()
            self._file.close()

    def __enter__(self) -> Output:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _sync(self) -> None:
        with contextlib.suppress(OSError):  # pipes and devices cannot
            os.fsync(self._file.fileno())
        self._synced = time.monotonic()

    def _lock(self) -> None:
        if fcntl is None:
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InvalidArgument(
                f"{self._path}: another run is writing it; wait for its end. {_ADVICE}"
            ) from None
        except OSError:  # a file system without locks
            return

    def _read(self, ids: Collection[str]) -> int:
        """Finds the records; gives the offset behind the last whole one."""
        end = 0
        with open(self._path, "rb") as file:
            # A file of another kind can be one line of any length.
            start = file.read(len(RECORD_START)).rstrip(b"\0")
            if not RECORD_START.startswith(start):
                raise InvalidArgument(f"{self._path}: is no output of a batch. {_ADVICE}")
            file.seek(0)
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n") and _is_beginning(line):
                    break
                record = read_record(line)
                if record is None:
                    raise InvalidArgument(f"{self._path}: line {number} is no record of a batch. {_ADVICE}")
                if record[0] not in ids:
                    raise InvalidArgument(
                        f"{self._path}: line {number} answers a line that the input does not have: the "
                        "input was changed since, or is another one. Restore it, or give another output "
                        "with -o."
                    )
                self.answered[record[0]] = record[1]
                end += len(line)
        return end


def _is_beginning(line: bytes) -> bool:
    """Whether a last line is what a killed run leaves: the beginning of a record. A machine that failed may
    have left zeros in place of bytes that it did not store."""
    line = line.rstrip(b"\0")
    return RECORD_START.startswith(line[: len(RECORD_START)])
