"""What a release is checked with, and the Homebrew formula that comes with it."""

from __future__ import annotations

import hashlib
import io
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from types import ModuleType

import pytest

import chatglm_cpp

ROOT = Path(__file__).resolve().parents[2]


def script(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return __import__(name)


@pytest.fixture
def check_dist(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return script("check_dist", monkeypatch)


@pytest.fixture
def homebrew(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return script("homebrew_formula", monkeypatch)


def release() -> dict[str, int]:
    """Names and sizes as cibuildwheel gives them."""
    platforms = (
        "manylinux_2_27_x86_64.manylinux_2_28_x86_64",
        "manylinux_2_26_aarch64.manylinux_2_28_aarch64",
        "macosx_11_0_arm64",
        "macosx_11_0_x86_64",
        "win_amd64",
    )
    pythons = (f"cp3{minor}" for minor in range(10, 15))
    files = {f"chatglm_cpp-1.2.3-{p}-{p}-{q}.whl": 5_000_000 for p in pythons for q in platforms}
    return {**files, "chatglm_cpp-1.2.3.tar.gz": 4_000_000}


def test_a_whole_release_passes(check_dist: ModuleType) -> None:
    assert check_dist.problems(release(), "v1.2.3") == []


@pytest.mark.parametrize(
    ("name", "size", "word"),
    [
        ("chatglm_cpp-1.2.3-cp311-cp311-linux_x86_64.whl", 1, "platform"),
        ("chatglm_cpp-1.2.3-cp311-cp311-manylinux_2_35_x86_64.whl", 1, "platform"),
        ("chatglm_cpp-1.2.3-cp311-cp311-win_amd64.whl", 50_000_000, "50000000"),
        ("chatglm_cpp-1.2.4.tar.gz", 1, "several versions"),
        ("notes.txt", 1, "no file of this package"),
    ],
)
def test_a_file_that_does_not_belong_is_named(
    check_dist: ModuleType, name: str, size: int, word: str
) -> None:
    (found,) = check_dist.problems({"chatglm_cpp-1.2.3.tar.gz": 1, name: size}, "")
    assert word in found


def test_a_release_lacks_nothing(check_dist: ModuleType) -> None:
    for name in release():
        others = {other: size for other, size in release().items() if other != name}
        (found,) = check_dist.problems(others, "v1.2.3")
        assert "no" in found
    (found,) = check_dist.problems(release(), "v1.2.4")
    assert "v1.2.4" in found


def test_releases_are_checked_for_what_is_built(check_dist: ModuleType) -> None:
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    for python in check_dist.PYTHONS:
        assert f"{python}-*" in project
        assert f'"Programming Language :: Python :: 3.{python[3:]}"' in project


def test_the_version_is_the_same_everywhere() -> None:
    project = re.search(r'^version = "([^"]+)"', (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE)
    cmake = re.search(r"project\(chatglm_cpp VERSION (\S+)", (ROOT / "CMakeLists.txt").read_text("utf-8"))
    changes = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert project and cmake and changes
    assert project[1] == cmake[1] == changes[1] == chatglm_cpp.__version__


def write_sdist(path: Path) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("chatglm_cpp-1.2.3/CMakeLists.txt"), io.BytesIO())
    return path


def test_the_formula_names_the_release_and_what_it_installs(homebrew: ModuleType, tmp_path: Path) -> None:
    sdist = write_sdist(tmp_path / "chatglm_cpp-1.2.3.tar.gz")
    homebrew.check_sdist(sdist)
    resources = [
        homebrew.Source("pyyaml", "pyyaml-6.0.4.tar.gz", "0" * 64),
        homebrew.Source("tqdm", "tqdm-4.70.1-py3-none-any.whl", "1" * 64),
    ]
    source = homebrew.source_of("chatglm-cpp", sdist)
    text = homebrew.formula(source, resources, "https://example.org/chatglm_cpp")
    assert "@HOMEPAGE@" not in text and "@URL@" not in text and "@SHA256@" not in text
    assert "@RESOURCES@" not in text and 'homepage "https://example.org/chatglm_cpp"' in text
    assert "/packages/source/c/chatglm-cpp/chatglm_cpp-1.2.3.tar.gz" in text
    assert hashlib.sha256(sdist.read_bytes()).hexdigest() in text
    assert 'resource "pyyaml" do' in text and "/packages/source/p/pyyaml/pyyaml-6.0.4.tar.gz" in text
    assert 'resource "tqdm" do' in text and "/packages/py3/t/tqdm/tqdm-4.70.1-py3-none-any.whl" in text
    if ruby := shutil.which("ruby"):
        (tmp_path / "chatglm-cpp.rb").write_text(text, "utf-8")
        command = [ruby, "-Eutf-8", "-c", "-w", tmp_path / "chatglm-cpp.rb"]
        assert subprocess.run(command, capture_output=True, text=True).stdout.strip() == "Syntax OK"


@pytest.mark.parametrize("name", ["chatglm_cpp-1.2.3-cp311-cp311-win_amd64.whl", "other-1.tar.gz"])
def test_other_files_make_no_formula(tmp_path: Path, name: str) -> None:
    script = ROOT / "scripts" / "homebrew_formula.py"
    options = ["--homepage", "https://example.org", "-o", tmp_path / "formula.rb"]
    command = [sys.executable, script, write_sdist(tmp_path / name), *options]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1 and "no source distribution" in result.stderr
    assert not (tmp_path / "formula.rb").exists()
