"""Models that the tests share, each converted once a run."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from thinking_model import make_checkpoint, say_instead

from chatglm_cpp import Pipeline
from chatglm_cpp.model_file import CACHE_VARIABLE, DEFAULT_MODEL

FIXTURES = Path(__file__).resolve().parents[3] / "shared" / "fixtures"

ConvertedFile = Callable[..., Path]

# Goldens of a model with something added: the model, and the option of the converter that adds it.
ADDITIONS = {
    "chatglm2-6b-ptuning-v2": ("chatglm2-6b", "ptuning"),
    "chatglm3-6b-lora": ("chatglm3-6b", "lora"),
}


# A shell has what it starts in the background ignore Ctrl-C, and that is handed on to the programs that are
# tested. (POSIX: "asynchronous lists".)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keeps conversions of the tests out of the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE_VARIABLE, str(folder))
        yield folder


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """The folder of golden data."""
    if not FIXTURES.is_dir():
        pytest.skip(f"the golden data are not at {FIXTURES}")
    return FIXTURES


@pytest.fixture(scope="session")
def converted(fixtures: Path, tmp_path_factory: pytest.TempPathFactory) -> ConvertedFile:
    """converted(name, dtype) is the GGUF file of a golden checkpoint.

    CHATGLM_TEST_CONVERTED names a folder that keeps the files for another run (scripts/check_aarch64.sh).
    """
    convert = pytest.importorskip(
        "chatglm_cpp.convert", reason="the converter's dependencies are not installed", exc_type=ImportError
    ).convert
    folder = Path(os.environ.get("CHATGLM_TEST_CONVERTED") or tmp_path_factory.mktemp("converted"))

    def make(name: str, dtype: str = "f32") -> Path:
        target = folder / f"{name}-{dtype}.gguf"
        if not target.exists():
            base, option = ADDITIONS.get(name, (name, None))
            source = fixtures / "checkpoints" / base
            if any(source.glob("*.bin")):
                pytest.importorskip("torch", reason="PyTorch checkpoints need torch")
            convert(source, target, dtype, **({option: fixtures / "checkpoints" / name} if option else {}))
        return target

    return make


@pytest.fixture(scope="session")
def vocabulary(fixtures: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """vocabulary(name) is a GGUF file with a real tokenizer and no weights."""
    convert = pytest.importorskip(
        "chatglm_cpp.convert", reason="the converter's dependencies are not installed", exc_type=ImportError
    ).convert
    folder = tmp_path_factory.mktemp("vocabularies")

    def make(name: str, num_image_tokens: int | None = None) -> Path:
        target = folder / f"{name}-{num_image_tokens}.gguf"
        if not target.exists():
            source = folder / target.stem
            source.mkdir()
            config = json.loads((fixtures / "tokenizers" / name / "tokenizer_config.json").read_text())
            if num_image_tokens is not None:
                config["num_image_tokens"] = num_image_tokens
            (source / "tokenizer_config.json").write_text(json.dumps(config))
            # ChatGLM3 shares ChatGLM2's file.
            shared = "chatglm2" if name == "chatglm3" else name
            file = "ice_text.model" if name == "chatglm" else "tokenizer.model"
            shutil.copy(fixtures / "tokenizers" / shared / file, source)
            convert(source, target, vocab_only=True)
        return target

    return make


@pytest.fixture(scope="session")
def thinking_model(fixtures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small f32 model that, asked 你好 and decoded greedily, thinks some tokens and then answers."""
    convert = pytest.importorskip(
        "chatglm_cpp.convert", reason="the converter's dependencies are not installed", exc_type=ImportError
    ).convert
    folder = tmp_path_factory.mktemp("thinking")
    make_checkpoint(fixtures / "checkpoints" / "glm-4-9b-0414", folder / "checkpoint", mark="</think>")
    model = folder / "thinking.gguf"
    convert(folder / "checkpoint", model, "f32")
    pipeline = Pipeline(model)
    with pipeline.chat(["你好"], stream=True, do_sample=False, max_new_tokens=24) as stream:
        ids = [i for delta in stream for i in delta.token_ids]
    # The thought ends where a token comes for the first time, some way into the reply.
    said = next(i for n, i in enumerate(ids) if n >= 6 and i not in ids[:n])
    end = pipeline.tokenizer.token_id("</think>")
    assert end is not None
    del pipeline, stream
    say_instead(model, said, end)
    return model


@pytest.fixture(scope="session")
def model_path(request: pytest.FixtureRequest) -> Path:
    """A small model: the one of the package, or else a golden one."""
    if (DEFAULT_MODEL / "config.json").is_file():
        request.getfixturevalue("cache_folder")
        return Path(Pipeline(verbose=False).path)
    return request.getfixturevalue("converted")("chatglm3-6b", "q8_0")


@pytest.fixture(scope="session")
def shared_pipeline(model_path: Path) -> Pipeline:
    return Pipeline(model_path)


@pytest.fixture
def pipeline(model_path: Path) -> Pipeline:
    """A pipeline with an empty cache."""
    return Pipeline(model_path)
