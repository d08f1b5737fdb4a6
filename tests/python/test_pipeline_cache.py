"""Checkpoint folders are converted once."""

from __future__ import annotations

import io
import os
import shutil
import sys
import threading
from pathlib import Path

import chatglm_cpp.convert
import pytest

from chatglm_cpp import FormatError, Pipeline, model_file


@pytest.fixture
def checkpoint(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    pytest.importorskip("gguf", reason="the converter's dependencies are not installed")
    source = model_file.DEFAULT_MODEL
    if not (source / "config.json").is_file():
        source = request.getfixturevalue("fixtures") / "checkpoints" / "glm-edge-1.5b-chat"
    return shutil.copytree(source, tmp_path / "边缘 model")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(model_file.CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def files(cache: Path) -> list[Path]:
    return sorted(cache.iterdir())


def test_the_second_use_converts_nothing(checkpoint: Path, cache: Path):
    first = Pipeline(checkpoint, dtype="q8_0")
    (file,) = files(cache)
    assert first.path == str(file) and first.config.dtype == "q8_0"
    before = file.stat()
    assert Pipeline(str(checkpoint), dtype="q8_0").path == str(file)
    after = file.stat()
    assert (before.st_mtime_ns, before.st_ino) == (after.st_mtime_ns, after.st_ino)
    assert files(cache) == [file]


def test_each_type_has_its_own_file(checkpoint: Path, cache: Path):
    assert Pipeline(checkpoint).config.dtype == "q4_0"
    assert Pipeline(checkpoint, dtype="f16").config.dtype == "f16"
    assert len(files(cache)) == 2


def test_a_changed_checkpoint_replaces_its_file(checkpoint: Path, cache: Path):
    Pipeline(checkpoint)
    (old,) = files(cache)
    config = checkpoint / "config.json"
    config.write_text(config.read_text() + "\n")
    Pipeline(checkpoint)
    (new,) = files(cache)
    assert new != old


def test_a_broken_checkpoint_leaves_nothing(checkpoint: Path, cache: Path):
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        Pipeline(checkpoint)
    assert files(cache) == []


def test_two_at_once_convert_once(checkpoint: Path, cache: Path, monkeypatch: pytest.MonkeyPatch):
    """The second waits for the file of the first, and says so."""
    real, conversions, waits = chatglm_cpp.convert.convert, [], threading.Event()

    class Stderr(io.StringIO):
        def write(self, text: str) -> int:
            if "waiting for it" in text:
                waits.set()
            return len(text)

    def convert(*args, **options):
        conversions.append(args)
        second.start()
        assert waits.wait(60)
        return real(*args, **options)

    found = []
    second = threading.Thread(target=lambda: found.append(model_file.find_model(checkpoint, verbose=True)))
    monkeypatch.setattr(chatglm_cpp.convert, "convert", convert)
    monkeypatch.setattr(sys, "stderr", Stderr())
    found.append(model_file.find_model(checkpoint, verbose=True))
    second.join(60)
    assert len(conversions) == 1 and files(cache) == [found[0]] and found == [found[0]] * 2


def test_a_cache_folder_that_cannot_be_made_is_named(checkpoint: Path, cache: Path):
    cache.write_text("in the way")
    with pytest.raises(OSError, match=model_file.CACHE_VARIABLE):
        Pipeline(checkpoint)


def test_it_says_on_request_that_it_converts(checkpoint: Path, cache: Path, capsys: pytest.CaptureFixture):
    Pipeline(checkpoint, verbose=True)
    said = capsys.readouterr()
    assert "Converting" in said.err and said.out == ""
    Pipeline(checkpoint, verbose=True)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {"XDG_CACHE_HOME": "/x"}, "/x/chatglm_cpp"),
        ("linux", {"XDG_CACHE_HOME": ""}, "/h/.cache/chatglm_cpp"),
        ("darwin", {}, "/h/Library/Caches/chatglm_cpp"),
        ("win32", {"LOCALAPPDATA": "/l"}, "/l/chatglm_cpp"),
        ("linux", {model_file.CACHE_VARIABLE: "/c"}, "/c"),
    ],
)
def test_the_cache_is_where_the_platform_keeps_caches(monkeypatch, platform, variables, expected):
    monkeypatch.delenv(model_file.CACHE_VARIABLE, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(model_file.sys, "platform", platform)
    monkeypatch.setattr(model_file.Path, "home", lambda: Path("/h"))
    assert model_file.cache_folder() == Path(expected)


def test_a_damaged_file_in_the_cache_is_made_again(checkpoint: Path, cache: Path):
    file = Path(Pipeline(checkpoint).path)
    whole = file.read_bytes()
    file.write_bytes(whole[:1000])
    assert Pipeline(checkpoint).path == str(file)
    assert file.read_bytes() == whole
    # Given by its own name it is the user's, who is told.
    file.write_bytes(whole[:1000])
    with pytest.raises(FormatError):
        Pipeline(file)
    assert file.stat().st_size == 1000


def test_a_conversion_removes_what_dead_ones_left(checkpoint: Path, cache: Path):
    cache.mkdir()
    dead, running = cache / ".dead.part", cache / ".running.part"
    for part in (dead, running):
        part.write_bytes(b"GGUF")
    os.utime(dead, (0, 0))
    Pipeline(checkpoint)
    assert not dead.exists() and running.exists()


@pytest.mark.parametrize("home", ["none", "in the way"])
def test_without_a_home_folder_the_cache_is_temporary(checkpoint: Path, tmp_path: Path, monkeypatch, home):
    def no_home() -> Path:
        if home == "none":
            raise RuntimeError("Could not determine home directory.")
        return checkpoint / "config.json"

    for name in (model_file.CACHE_VARIABLE, "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(model_file.Path, "home", no_home)
    monkeypatch.setattr(model_file.tempfile, "gettempdir", lambda: str(tmp_path))
    first, second = Pipeline(checkpoint), Pipeline(checkpoint)
    folder = Path(first.path).parent
    assert folder.parent == tmp_path and folder.name.startswith("chatglm_cpp-")
    assert second.path == first.path
