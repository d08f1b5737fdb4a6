"""The lock that keeps two processes from the same work."""

from __future__ import annotations

import errno
import importlib.util
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType

import pytest

from chatglm_cpp import file_lock

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]


class Windows:
    """Windows' locks of bytes, as msvcrt has them: one holder, who loses it when closing the file, and an
    error at once for everybody else. Made of this system's, which know all that but the error."""

    LK_NBLCK, LK_UNLCK = 2, 0

    def locking(self, handle: int, mode: int, size: int) -> None:
        assert size == 1 and os.lseek(handle, 0, os.SEEK_CUR) == 0
        try:
            fcntl.flock(handle, fcntl.LOCK_UN if mode == self.LK_UNLCK else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PermissionError(errno.EACCES, "Permission denied") from None


def unlink_on_windows(path: Path) -> None:
    """No file is removed while somebody has it open; here, while somebody has its lock."""
    handle = os.open(path, os.O_RDWR)
    try:
        Windows().locking(handle, Windows.LK_NBLCK, 1)
        os.unlink(path)
    finally:
        os.close(handle)


def load_for_windows(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module as it is on Windows. Only while it loads is this another system: others ask too."""
    spec = importlib.util.spec_from_file_location("file_lock_of_windows", file_lock.__file__)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "platform", "win32")
        patch.setitem(sys.modules, "msvcrt", Windows())
        spec.loader.exec_module(module)
    monkeypatch.setattr(Path, "unlink", unlink_on_windows)
    return module


@pytest.fixture(params=["this system", "Windows"])
def locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    if request.param == "this system":
        return file_lock
    if fcntl is None:
        pytest.skip("this system is Windows")
    return load_for_windows(monkeypatch)


def test_who_comes_second_is_told_once_and_waits(locks: ModuleType, tmp_path: Path) -> None:
    path, order = tmp_path / "x.lock", []
    waiting = threading.Event()

    def second() -> None:
        def tell() -> None:
            order.append("waits")
            waiting.set()

        with locks.hold(path, tell):
            order.append("second")

    with locks.hold(path):
        thread = threading.Thread(target=second)
        thread.start()
        assert waiting.wait(30)
        order.append("first")
    thread.join(30)
    assert order == ["waits", "first", "second"]
    assert list(tmp_path.iterdir()) == []


def test_many_hold_it_one_at_a_time(
    locks: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while files are made and removed under it."""
    monkeypatch.setattr(locks, "_PAUSE", 0.001)
    inside, most, count = 0, 0, 0

    def work() -> None:
        nonlocal inside, most, count
        for _ in range(20):
            with locks.hold(tmp_path / "x.lock"):
                inside += 1
                most = max(most, inside)
                count += 1
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (most, count) == (1, 80)


def test_an_error_releases_it(locks: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), locks.hold(tmp_path / "x.lock"):
        raise ZeroDivisionError
    with locks.hold(tmp_path / "x.lock", lambda: pytest.fail("somebody holds it")):
        pass


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    code = (
        "import sys; from pathlib import Path; from chatglm_cpp import file_lock\n"
        "with file_lock.hold(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, path]
    with subprocess.Popen(command, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout and other.stdout.readline().strip() == b"held"
        with file_lock.hold(path, other.kill):
            assert other.wait(30) != 0


def test_without_locks_the_work_is_done_all_the_same(locks: ModuleType, tmp_path: Path, monkeypatch) -> None:
    def refuse(*_: object) -> bool:
        raise OSError(errno.ENOLCK, "No locks available")

    done = []
    with locks.hold(tmp_path / "no such folder" / "x.lock"):
        done.append("without a folder")
    monkeypatch.setattr(locks, "_try_lock", refuse)
    with locks.hold(tmp_path / "x.lock"):
        done.append("without locks")
    assert len(done) == 2
