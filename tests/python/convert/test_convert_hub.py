"""Checkpoints by their name on a hub, which a server on 127.0.0.1 stands in for."""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from chatglm_cpp.convert import ConvertError, convert, hub
from chatglm_cpp.convert.cli import main
from convert_helpers import make_remote
from hub_server import HubServer, Repo

NAME = "THUDM/chatglm3-6b"
NOBODY = "http://127.0.0.1:1"  # nothing listens on port 1

needs_library = pytest.mark.skipif(
    importlib.util.find_spec("huggingface_hub") is None,
    reason="huggingface_hub is not installed: pip install chatglm-cpp[convert]",
)
needs_modelscope = pytest.mark.skipif(
    importlib.util.find_spec("modelscope") is None, reason="modelscope is not installed"
)

Run = Callable[..., subprocess.CompletedProcess]


@pytest.fixture
def server() -> Iterator[HubServer]:
    with HubServer() as running:
        yield running


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A checkpoint that has its name from the folder, among files that a conversion has no use for."""
    folder = make_remote(tmp_path / "source" / "chatglm3-6b", _name_or_path=None)
    for name in ("README.md", "model.onnx", "consolidated.00.pth"):
        (folder / name).write_bytes(b"unused")
    (folder / "modeling_chatglm.py").write_text("raise SystemExit('this was run')")
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs Python, by default the converter, in a new process, as libraries read their variables once."""
    (tmp_path / "work").mkdir()

    def start(url: str, *arguments: str, name: str = NAME, code: str = "", **variables: str):
        environment = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("HF_", "HUGGING", "MODELSCOPE_")) and not key.lower().endswith("_proxy")
        }
        environment |= {
            "HF_ENDPOINT": url,
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "MODELSCOPE_ENDPOINT": url,
            "MODELSCOPE_CACHE": str(tmp_path / "modelscope"),
            "MODELSCOPE_HOME": str(tmp_path / "modelscope-home"),
            "MODELSCOPE_DOWNLOAD_INTRA_CLOUD": "0",  # would ask the machine's cloud where it is
        } | variables
        what = ["-c", code] if code else ["-m", "chatglm_cpp.convert", "-i", name, "-o", "m.gguf"]
        return subprocess.run(
            [sys.executable, *what, *arguments],
            cwd=tmp_path / "work",
            env=environment,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=120,
        )

    return start


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """The file that `run` writes."""
    return tmp_path / "work" / "m.gguf"


def bytes_from_folder(folder: Path, dtype: str = "q4_0") -> bytes:
    target = folder.parent / "expected.gguf"
    convert(folder, target, dtype)
    return target.read_bytes()


def assert_one_sentence(done: subprocess.CompletedProcess, written: Path) -> None:
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert done.stdout == "" and list(written.parent.iterdir()) == []


@needs_library
def test_a_name_gives_the_file_that_its_folder_gives(run, server, source, written):
    server.repos[NAME] = Repo(source, more=("pytorch_model.bin", "../outside", "onnx/model.onnx"))
    done = run(server.url)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # no bars without a terminal
    assert written.read_bytes() == bytes_from_folder(source)
    needed = {"config.json", "tokenizer.model", "modeling_chatglm.py", "model.safetensors"}
    assert server.asked_for() == needed

    # What is in the cache is neither fetched again nor needs the network.
    expected = written.read_bytes()
    for url, variables in (
        (server.url, {}),
        (NOBODY, {}),
        (server.url, {"HF_HUB_OFFLINE": "1"}),
    ):
        written.unlink()
        server.requests.clear()
        done = run(url, **variables)
        assert (done.returncode, done.stderr) == (0, "")
        assert written.read_bytes() == expected and server.asked_for() == set()


@needs_library
@pytest.mark.parametrize("name", ["chatglm3-6b", "chatglm2-6b"])
def test_golden_checkpoints_come_whole(run, server, checkpoints, written, tmp_path, name):
    if name == "chatglm2-6b":
        pytest.importorskip("torch", reason="PyTorch, which .bin checkpoints need, is not installed")
    folder = checkpoints / name
    server.repos[f"THUDM/{name}"] = Repo(folder)
    done = run(server.url, "-q", "-t", "q8_0", "--revision", "v1", name=f"THUDM/{name}")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    convert(folder, tmp_path / "expected.gguf", "q8_0")
    assert written.read_bytes() == (tmp_path / "expected.gguf").read_bytes()
    unused = {"meta.json", "reference.npz", "reference_chat.json", "tokenizer_goldens.json"}
    assert server.asked_for() == {path.name for path in folder.iterdir()} - unused


@needs_library
def test_only_the_tokenizer_is_fetched_for_the_vocabulary(run, server, source):
    server.repos[NAME] = Repo(source)
    assert run(server.url, "--vocab-only").returncode == 0
    assert server.asked_for() == {"config.json", "tokenizer.model", "modeling_chatglm.py"}


@needs_library
def test_a_download_that_breaks_off_is_finished(run, server, source, written):
    """Some versions of the library try again by themselves, others when they are called again."""
    server.repos[NAME] = Repo(source, cut={"model.safetensors": 1})
    done = run(server.url)
    if done.returncode:
        assert_one_sentence(done, written)
        assert "model.safetensors" in done.stderr and "run it again" in done.stderr
        done = run(server.url)
    assert done.returncode == 0, done.stderr
    assert written.read_bytes() == bytes_from_folder(source)
    assert sum(r.method == "GET" and r.file == "model.safetensors" for r in server.requests) == 2


@needs_library
@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("unknown", "no such model on 127.0.0.1"),
        ("unknown revision", "no branch, tag or commit 'v9'"),
        ("gated", "accept its terms"),
        ("refused", "HF_TOKEN"),
        ("unauthorized", "HF_TOKEN"),
        ("nobody", "HF_ENDPOINT to a mirror, or convert with --hub modelscope"),
        ("offline", "HF_HUB_OFFLINE"),
        ("no checkpoint", "no config.json"),
    ],
)
def test_what_cannot_be_had_is_a_sentence(run, server, source, written, case, said):
    refusal = {"gated": (403, "GatedRepo"), "refused": (403, ""), "unauthorized": (401, "")}
    if case == "no checkpoint":
        (source / "config.json").unlink()
    if case != "unknown":
        server.repos[NAME] = Repo(source, refuse=refusal.get(case))
    options = ["--revision", "v9"] if case == "unknown revision" else []
    variables = {"HF_HUB_OFFLINE": "1"} if case == "offline" else {}
    done = run(NOBODY if case == "nobody" else server.url, *options, **variables)
    assert_one_sentence(done, written)
    assert NAME in done.stderr and said in done.stderr


@needs_library
def test_a_cache_with_gaps_is_not_enough_offline(run, server, source, written):
    server.repos[NAME] = Repo(source)
    assert run(server.url, "--vocab-only").returncode == 0
    written.unlink()
    done = run(server.url, HF_HUB_OFFLINE="1")
    assert_one_sentence(done, written)
    assert "HF_HUB_OFFLINE" in done.stderr


@needs_library
def test_a_folder_of_that_name_comes_first(run, server, source, written):
    shutil.copytree(source, written.parent / NAME)
    assert run(NOBODY, "-q").returncode == 0
    assert written.read_bytes() == bytes_from_folder(source)
    done = run(NOBODY, "--revision", "v1")
    assert done.returncode == 2 and "no revisions" in done.stderr


CHAT = """
import chatglm_cpp, sys
pipeline = chatglm_cpp.Pipeline(sys.argv[1], dtype="q8_0")
print(pipeline.path)
print(ascii(pipeline.chat(["hello"], max_new_tokens=8, do_sample=False).content))
"""


@needs_library
def test_a_pipeline_takes_a_name_and_converts_once(run, server, source, tmp_path):
    server.repos[NAME] = Repo(source)
    cache = {"CHATGLM_CPP_CACHE": str(tmp_path / "cache")}
    first = run(server.url, NAME, code=CHAT, **cache)
    assert (first.returncode, first.stderr) == (0, "")
    (file,) = (tmp_path / "cache").iterdir()
    assert file.name.startswith("chatglm3-6b-q8_0-")
    assert file.read_bytes() == bytes_from_folder(source, "q8_0")
    made = file.stat().st_mtime_ns

    # Another program that shares the hub's cache adds a file; the commit is the same.
    (snapshot,) = (tmp_path / "hf" / "hub" / "models--THUDM--chatglm3-6b" / "snapshots").iterdir()
    (snapshot / "README.md").write_text("read by others")
    again = run(server.url, NAME, code=CHAT, HF_HUB_OFFLINE="1", **cache)
    assert again.stdout == first.stdout, again.stderr
    assert file.stat().st_mtime_ns == made and list((tmp_path / "cache").iterdir()) == [file]
    local = run(NOBODY, str(source), code=CHAT, **cache)
    assert local.stdout.splitlines()[1] == first.stdout.splitlines()[1], local.stderr


@needs_library
def test_a_pipeline_says_what_a_converter_says(run, server):
    code = """
import chatglm_cpp
for name in ("THUDM/none", "models/none.gguf"):
    try:
        chatglm_cpp.Pipeline(name)
    except FileNotFoundError as error:
        print(error)
"""
    done = run(server.url, code=code)
    assert done.stderr == ""
    first, second = done.stdout.splitlines()
    assert first.startswith("THUDM/none: ") and "no such model on 127.0.0.1" in first
    assert Path(second.partition(":")[0]) == Path("models/none.gguf") and "no such file" in second
    command = "import sys; from chatglm_cpp.cli import main; sys.exit(main(sys.argv[1:]))"
    done = run(server.url, "chat", "-m", "THUDM/none", "-p", "hi", code=command)
    assert (done.returncode, done.stdout) == (2, "")
    assert "no such model on 127.0.0.1" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "path",
    ["glm", "./glm", "../glm", "a/b/c", "~/glm", "a/m.gguf", "a/model.bin", "a/..", "a/b--c", "-a/b", "a/b/",
     "C:/b", "a\\b", "a/" + "b" * 97, "文/b", ""],
)  # fmt: skip
def test_paths_are_no_names_on_a_hub(path):
    assert hub.hub_name(path) is None


class Listed:
    """A repository whose files are named; indexes hold `index`."""

    name = "a/b"

    def __init__(self, folder: Path, names: list[str], index: object) -> None:
        self.folder, self.names, self.index = folder, names, index
        self.fetched: list[str] = []

    def output(self, quiet: bool) -> nullcontext[None]:
        return nullcontext()

    def files(self) -> list[str]:
        return self.names

    def cached(self) -> None:
        return None

    def fetch(self, names: list[str]) -> Path:
        for name in names:
            if name not in self.fetched:
                self.fetched.append(name)
                (self.folder / name).write_text(json.dumps(self.index))
        return self.folder


SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
BIN_SHARDS = [name.replace("model", "pytorch_model").replace("safetensors", "bin") for name in SHARDS]
INDEX = {"weight_map": {"a": SHARDS[0], "b": SHARDS[1]}}


@pytest.mark.parametrize(
    ("names", "index", "expected"),
    [
        (["model.safetensors", "pytorch_model.bin", "tf_model.h5", "x.safetensors"], {},
         ["model.safetensors"]),
        ([*SHARDS, "model.safetensors.index.json", "model.safetensors"], INDEX,
         ["model.safetensors.index.json", *SHARDS]),
        ([*SHARDS, *BIN_SHARDS], {}, SHARDS),
        ([*BIN_SHARDS, "model-q4_0.gguf"], {}, BIN_SHARDS),
        # An index whose shards are not there: the complete set of the other format.
        ([SHARDS[0], "model.safetensors.index.json", "pytorch_model.bin"], INDEX,
         ["model.safetensors.index.json", "pytorch_model.bin"]),
        (["adapter_config.json", "adapter_model.safetensors", "adapter_model.bin", "tokenizer.json"], {},
         ["adapter_config.json", "adapter_model.safetensors", "tokenizer.json"]),
        (["generation_config.json", "chat_template.jinja", "tokenizer_config.json", "ice_text.model",
          "tokenization_chatglm.py", "quantization.py", "pytorch_model.bin"], {},
         ["generation_config.json", "chat_template.jinja", "tokenizer_config.json", "ice_text.model",
          "tokenization_chatglm.py", "pytorch_model.bin"]),
    ],
)  # fmt: skip
def test_only_what_is_needed_is_fetched(tmp_path, monkeypatch, names, index, expected):
    repository = Listed(tmp_path, ["config.json", "README.md", *names], index)
    monkeypatch.setattr(hub, "_open", lambda *_: repository)
    assert hub.download("a/b") == tmp_path
    assert sorted(repository.fetched) == sorted(["config.json", *expected])


@pytest.mark.parametrize(
    ("names", "index", "said"),
    [
        (["README.md"], {}, r"no checkpoint \(no config.json\)$"),
        (["glm.gguf"], {}, "download one of its .gguf files"),
        (["config.json", "model.onnx"], {}, "no weights that can be converted"),
        (
            ["config.json", "model.safetensors.index.json"],
            {"weight_map": {"a": "../x.safetensors"}},
            "tensor a",
        ),
        (["config.json", "model.safetensors.index.json"], {"weight_map": {"a": ["x"]}}, "tensor a"),
        (["config.json", "model.safetensors.index.json"], {"weight_map": {"a": "config.json"}}, "tensor a"),
        (["config.json", "model.safetensors.index.json"], [], "expected a JSON object"),
    ],
)
def test_a_repository_without_a_checkpoint_is_a_sentence(tmp_path, monkeypatch, names, index, said):
    monkeypatch.setattr(hub, "_open", lambda *_: Listed(tmp_path, names, index))
    with pytest.raises(hub.HubError, match=said):
        hub.download("a/b")


def test_an_interrupted_download_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    class Interrupted(Listed):
        def fetch(self, names: list[str]) -> Path:
            raise KeyboardInterrupt

    repository = Interrupted(tmp_path, ["config.json", "model.safetensors"], {})
    monkeypatch.setattr(hub, "_open", lambda *_: repository)
    assert main(["-i", "a/b", "-o", str(tmp_path / "m.gguf")]) == 130
    assert "run it again" in capsys.readouterr().err


@needs_library
@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "is full; make room"),
        (PermissionError(errno.EACCES, "Permission denied", "/hf/blobs/x"), "/hf/blobs/x cannot be used"),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), "broke off .*run it again"),
        (RuntimeError("Data processing error\nand more"), "Data processing error.; run it again"),
    ],
)
def test_a_download_that_fails_here_is_a_sentence(monkeypatch, tmp_path, error, said):
    huggingface_hub = pytest.importorskip("huggingface_hub")

    def fail(*_: object, **__: object) -> str:
        raise error

    siblings = [
        types.SimpleNamespace(rfilename=name, size=10) for name in ("config.json", "model.safetensors")
    ]
    info = types.SimpleNamespace(sha="0" * 40, siblings=siblings)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: info)
    monkeypatch.setattr(huggingface_hub.HfApi, "hf_hub_download", fail)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    with pytest.raises(hub.HubError, match=said) as raised:
        hub.download(NAME)
    assert "\n" not in str(raised.value)

    siblings[1].size = 1 << 60
    with pytest.raises(hub.HubError, match="GB more, but only"):
        hub.download(NAME)


@pytest.mark.parametrize(
    ("site", "library"), [("huggingface", "huggingface_hub"), ("modelscope", "modelscope")]
)
def test_a_library_that_is_not_installed_is_named(tmp_path, monkeypatch, site, library):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ConvertError, match="pip install"):
        convert("a/b", tmp_path / "m.gguf", hub=site)


def test_the_output_is_checked_before_anything_is_downloaded(tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "_open", lambda *_: pytest.fail("a hub was asked"))
    for target, dtype in ((tmp_path / "none" / "m.gguf", "q4_0"), (tmp_path / "m.gguf", "q2_k")):
        with pytest.raises(ConvertError):
            convert("a/b", target, dtype)


def test_modelscope_is_called_for_the_needed_files(tmp_path, monkeypatch, source, capsys):
    """With a stand-in for the library, which need not be installed."""
    calls: list[dict[str, object]] = []

    class HubApi:
        def get_model_files(self, name: str, **options: object) -> list[dict[str, str]]:
            calls.append({"name": name, **options})
            paths = [{"Path": path.name, "Type": "blob"} for path in source.iterdir()]
            return [*paths, {"Path": "../x", "Type": "blob"}, {"Path": "tokenizer.json", "Type": "tree"}]

    def snapshot_download(name: str, **options: object) -> str:
        calls.append({"name": name, **options})
        print("Downloading")
        return str(source)

    api = types.SimpleNamespace(HubApi=HubApi)
    download = types.SimpleNamespace(snapshot_download=snapshot_download)
    for module, content in (
        ("", None),
        (".hub", None),
        (".hub.api", api),
        (".hub.snapshot_download", download),
    ):
        monkeypatch.setitem(sys.modules, f"modelscope{module}", content or types.ModuleType("modelscope"))
    arguments = ["-i", NAME, "-o", str(tmp_path / "m.gguf"), "--hub", "modelscope", "--revision", "v1", "-q"]
    assert main(arguments) == 0
    assert capsys.readouterr() == ("", "")
    listing, fetching = calls
    assert listing == {"name": NAME, "recursive": False, "revision": "v1"}
    assert fetching.pop("allow_file_pattern") == [
        "config.json",
        "tokenizer.model",
        "modeling_chatglm.py",
        "model.safetensors",
    ]
    assert fetching == {"name": NAME, "revision": "v1"}
    assert (tmp_path / "m.gguf").read_bytes() == bytes_from_folder(source)


@needs_modelscope
def test_a_name_on_modelscope_gives_the_file_that_its_folder_gives(run, server, source, written):
    server.repos[NAME] = Repo(source, more=("pytorch_model.bin", "../outside"), cut={"model.safetensors": 1})
    done = run(server.url, "--hub", "modelscope")
    assert (done.returncode, done.stderr) == (0, "")
    assert written.read_bytes() == bytes_from_folder(source)
    assert server.asked_for() == {
        "config.json",
        "tokenizer.model",
        "modeling_chatglm.py",
        "model.safetensors",
    }
    ranges = [request.range for request in server.requests if request.file == "model.safetensors"]
    assert ranges[0] is None and ranges[1] is not None  # it went on from where it had broken off


@needs_modelscope
@pytest.mark.parametrize(
    ("case", "said"), [("unknown", "no such model on ModelScope"), ("refused", "MODELSCOPE_API_TOKEN")]
)
def test_what_modelscope_does_not_give_is_a_sentence(run, server, source, written, case, said):
    if case != "unknown":
        server.repos[NAME] = Repo(source, refuse=(403, ""))
    done = run(server.url, "--hub", "modelscope")
    assert_one_sentence(done, written)
    assert NAME in done.stderr and said in done.stderr
