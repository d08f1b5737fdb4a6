"""A conversion that does not finish leaves nothing behind, and an older file as it was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from chatglm_cpp.convert import ConvertError, convert
from chatglm_cpp.convert.cli import main
from convert_helpers import Gguf, make_remote

POSIX_ONLY = pytest.mark.skipif(os.name != "posix", reason="POSIX signals and limits")


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    path = tmp_path / "out" / "m.gguf"
    path.write_bytes(b"the file of yesterday")
    return path


def untouched(target: Path) -> bool:
    return list(target.parent.iterdir()) == [target] and target.read_bytes() == b"the file of yesterday"


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, RuntimeError])
def test_an_error_in_the_middle_removes_the_temporary_file(tmp_path, target, error):
    folder = make_remote(tmp_path / "in")
    seen: list[str] = []

    def stop(tensor: str, done: int, total: int) -> None:
        seen.append(tensor)
        if len(seen) == 7:
            assert len(list(target.parent.iterdir())) == 2
            raise error

    with pytest.raises(error):
        convert(folder, target, "f32", progress=stop)
    assert len(seen) == 7 and untouched(target)


def test_a_checkpoint_that_shrinks_meanwhile(tmp_path, target):
    folder = make_remote(tmp_path / "in")

    def shrink(tensor: str, done: int, total: int) -> None:
        os.truncate(folder / "model.safetensors", 5000)

    with pytest.raises(ConvertError, match="ends inside tensor"):
        convert(folder, target, "f32", progress=shrink)
    assert untouched(target)


def test_a_finished_file_replaces_the_old_one(tmp_path, target):
    convert(make_remote(tmp_path / "in"), target)
    assert list(target.parent.iterdir()) == [target]
    assert Gguf(target).metadata["general.architecture"] == "chatglm"


@POSIX_ONLY
def test_a_link_keeps_pointing_at_the_new_file(tmp_path, target):
    link = tmp_path / "link.gguf"
    link.symlink_to(target)
    convert(make_remote(tmp_path / "in"), link)
    assert link.is_symlink() and Gguf(target).version == 3


@POSIX_ONLY
def test_a_name_as_long_as_names_can_be(tmp_path):
    target = tmp_path / ("n" * 250 + ".gguf")
    convert(make_remote(tmp_path / "in"), target)
    assert Gguf(target).version == 3


@POSIX_ONLY
def test_the_new_file_has_the_usual_permissions(tmp_path):
    convert(make_remote(tmp_path / "in"), tmp_path / "m.gguf")
    (tmp_path / "plain").touch()
    assert (tmp_path / "m.gguf").stat().st_mode == (tmp_path / "plain").stat().st_mode


CHILD = """
import os, signal, sys
from chatglm_cpp.convert import cli
from chatglm_cpp.convert.driver import convert as real
def slow(*args, progress, **options):
    def step(tensor, done, total):
        progress(tensor, done, total)
        if done * 2 > total:
            os.kill(os.getpid(), int(sys.argv[3]))
    return real(*args, progress=step, **options)
cli.convert = slow
sys.exit(cli.main(["-i", sys.argv[1], "-o", sys.argv[2], "-t", "f32"]))
"""


@POSIX_ONLY
@pytest.mark.parametrize(("number", "status"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_signals_end_the_program_cleanly(tmp_path, target, number, status):
    folder = make_remote(tmp_path / "in")
    # Whoever runs the tests, under nohup for example, may ignore some.
    heard = "import signal; signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
    heard += "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    child = heard + CHILD
    command = [sys.executable, "-c", child, str(folder), str(target), str(int(getattr(signal, number)))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == status
    assert "Traceback" not in done.stderr and done.stdout == ""
    assert untouched(target)


@POSIX_ONLY
def test_a_hangup_that_is_ignored_stays_ignored(tmp_path, target):
    """As under nohup."""
    folder = make_remote(tmp_path / "in")
    child = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n" + CHILD
    command = [sys.executable, "-c", child, str(folder), str(target), str(int(signal.SIGHUP))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert list(target.parent.iterdir()) == [target] and Gguf(target).version == 3


@POSIX_ONLY
def test_a_reader_that_has_gone_is_no_traceback(tmp_path):
    folder = make_remote(tmp_path / "in")
    code = "import sys; from chatglm_cpp.convert.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "-i", str(folder), "-o", str(tmp_path / "m.gguf")]
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        done = subprocess.run(command, stdout=write_end, stderr=subprocess.PIPE, text=True, timeout=60)
    finally:
        os.close(write_end)
    assert (done.returncode, done.stderr) == (141, "")
    assert Gguf(tmp_path / "m.gguf").version == 3


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="/dev/full is Linux's")
def test_an_output_that_is_full_is_a_sentence(tmp_path):
    code = "import sys; from chatglm_cpp.convert.cli import main; sys.exit(main(['--list']))"
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60
        )
    assert done.returncode == 2
    assert done.stderr.startswith("error: standard output") and done.stderr.count("\n") == 1


FULL_DISK = """
import resource, signal, sys
from chatglm_cpp.convert import cli
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))
sys.exit(cli.main(["-i", sys.argv[1], "-o", sys.argv[2], "-t", "f32"]))
"""


@POSIX_ONLY
@pytest.mark.parametrize("limit", [100, 100_000])
def test_a_write_that_fails_is_a_sentence(tmp_path, target, limit):
    """A limit on the size of files stands in for a full disk: both are an OSError of write()."""
    folder = make_remote(tmp_path / "in")
    command = [sys.executable, "-c", FULL_DISK, str(folder), str(target), str(limit)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert "m.gguf: cannot be written" in done.stderr
    assert untouched(target)


def test_interrupt_from_the_keyboard_is_status_130(tmp_path, target, monkeypatch, capsys):
    from chatglm_cpp.convert import cli

    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "convert", interrupted)
    assert main(["-i", "x", "-o", str(target)]) == 130
    assert capsys.readouterr().err == "interrupted; nothing was written\n"
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
