"""A lock between processes: a file that one of them holds at a time."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

_PAUSE = 0.1  # seconds between two tries: short for somebody who waits, and no work for the processor

if sys.platform == "win32":
    import msvcrt

    def _try_lock(handle: int) -> bool:
        """Whether this process has the lock now. Raises OSError where a file system has no locks."""
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # the first byte, which need not exist
        except PermissionError:
            return False
        return True

    def _release(handle: int, path: Path) -> None:
        msvcrt.locking(handle, msvcrt.LK_UNLCK, 1)
        os.close(handle)
        with contextlib.suppress(OSError):  # somebody else has it open, who removes it later
            path.unlink()

else:
    import fcntl

    def _try_lock(handle: int) -> bool:
        """Whether this process has the lock now. Raises OSError where a file system has no locks."""
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _release(handle: int, path: Path) -> None:
        with contextlib.suppress(OSError):
            path.unlink()  # while nobody else can have the lock, for whom it would be another file
        fcntl.flock(handle, fcntl.LOCK_UN)  # closing would leave it to a process forked meanwhile
        os.close(handle)


@contextlib.contextmanager
def hold(path: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Holds the lock of the file `path`, which is made where it is missing and removed afterwards.

    A lock ends with its process, however that ends. Where the file system has no locks, or `path` cannot be
    made, nothing is held: the lock saves work, and whoever uses it must be right without.

    Args:
        path: in a folder that exists.
        waiting: called once if another process or thread has the lock, before waiting for it.
    """
    handle = _acquire(path, waiting)
    try:
        yield
    finally:
        if handle is not None:
            _release(handle, path)


def _acquire(path: Path, waiting: Callable[[], None]) -> int | None:
    """The handle of the locked file; None where there are no locks."""
    told = False
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError:
            # On Windows also a file that is just being removed; without the lock the work is done twice.
            return None
        held = False
        try:
            held = _try_lock(handle)
            # Whoever had it may have removed the file, and others lock another one by now.
            held = held and _is_at(handle, path)
        except OSError:
            return None
        finally:
            if not held:
                os.close(handle)
        if held:
            return handle
        if not told:
            waiting()
            told = True
        time.sleep(_PAUSE)


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False
