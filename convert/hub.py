"""Checkpoints by their name on a hub: which files of a repository a conversion reads, and fetching only those
through the hub's own library, into that library's cache."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from .checkpoint import INDEX_FILES, SHARD, SINGLE_FILES, find_weight_files
from .errors import ConvertError
from .jsonfile import load_object

HUBS = ("huggingface", "modelscope")

# What the readers of a checkpoint open besides weights. The Python files are read as text, never run.
TEXT_FILES = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer.model", "ice_text.model",
    "tokenizer_config.json", "chat_template.jinja", "tokenization_chatglm.py", "modeling_chatglm.py",
    "adapter_config.json",
)  # fmt: skip
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")
CONFIG_FILES = ("config.json", "adapter_config.json")

_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?"
_NAME = re.compile(rf"{_PART}/{_PART}")
_FILE_SUFFIXES = (".gguf", ".ggml", ".bin", ".safetensors", ".json", ".pt", ".pth", ".git")


class HubError(ConvertError):
    """A checkpoint cannot be had from a hub. The message is one sentence that says why and what to do."""


class MissingLibraryError(HubError):
    """The library that downloads from the hub is not installed."""


class Repository(Protocol):
    """One revision of a repository on a hub. The methods raise HubError."""

    name: str

    def files(self) -> list[str]:
        """Names of the files in its root, as the hub lists them."""

    def cached(self) -> Path | None:
        """The folder that the library's cache has for it, perhaps with gaps, without asking the hub."""

    def fetch(self, names: list[str]) -> Path:
        """Downloads those files that the cache lacks; returns the folder that holds them."""

    def output(self, quiet: bool) -> AbstractContextManager[None]:
        """Keeps the library to its progress bars, or, if `quiet`, to nothing."""


def hub_name(path: str | os.PathLike[str]) -> str | None:
    """`path` if it can be a name on a hub, ORGANIZATION/MODEL; None if something of that name is on disk."""
    name = os.fspath(path)
    if not isinstance(name, str) or not _NAME.fullmatch(name) or "--" in name or ".." in name:
        return None
    if name.lower().endswith(_FILE_SUFFIXES) or os.path.lexists(name):
        return None
    return name


def download(
    name: str,
    hub: str = "huggingface",
    revision: str | None = None,
    *,
    weights: bool = True,
    quiet: bool = False,
) -> Path:
    """The folder of the checkpoint `name` in the cache of the hub's library; downloads what is missing there.

    When the hub cannot be asked, a complete checkpoint in the cache is taken as it is.

    Args:
        name: ORGANIZATION/MODEL.
        hub: "huggingface" or "modelscope".
        revision: branch, tag or commit; by default the hub's main branch.
        weights: fetch the weights too.
        quiet: no progress bars, which are drawn on a terminal only.

    Raises:
        HubError: it cannot be had; the message says why and what to do.
    """
    repository = _open(name, hub, revision)
    try:
        with repository.output(quiet):
            try:
                listed = repository.files()
            except HubError:
                folder = repository.cached()
                if folder is None or not is_complete(folder, weights):
                    raise
                return folder
            return _fetch_needed(repository, listed, weights)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"interrupted; the finished files of {name} are kept, run it again for the others"
        ) from None


def is_complete(folder: Path, weights: bool = True) -> bool:
    """Whether `folder` holds a configuration and, if asked for, all weights."""
    if not any((folder / name).is_file() for name in CONFIG_FILES):
        return False
    try:
        return not weights or bool(files_in_use(folder))
    except ConvertError:
        return False


def files_in_use(folder: Path) -> list[str]:
    """Names of the files in a checkpoint folder that a conversion reads.

    Raises:
        ConvertError: weights are missing.
    """
    names = [name for name in TEXT_FILES if (folder / name).is_file()]
    if "adapter_config.json" in names:
        adapters = [name for name in ADAPTER_FILES if (folder / name).is_file()]
        if adapters:
            return [*names, adapters[0]]
    weights, index = find_weight_files(folder)
    names += [name for name in INDEX_FILES if index and (folder / name).is_file()]
    return [*names, *(path.name for path in weights)]


def checkpoint_name(folder: Path) -> str:
    """What a checkpoint folder is called: in a hub's cache the repository, not the revision, has the name."""
    folder = folder.resolve()
    if folder.parent.name == "snapshots" and "--" in folder.parent.parent.name:
        return folder.parent.parent.name.rpartition("--")[2]
    return folder.name


def _open(name: str, hub: str, revision: str | None) -> Repository:
    if hub == "huggingface":
        from .hub_huggingface import HuggingFaceRepository

        return HuggingFaceRepository(name, revision)
    if hub == "modelscope":
        from .hub_modelscope import ModelScopeRepository

        return ModelScopeRepository(name, revision)
    raise ConvertError(f"unknown hub {hub!r}; choose one of {', '.join(HUBS)}")


def _fetch_needed(repository: Repository, listed: list[str], weights: bool) -> Path:
    """Chooses by what the repository lists, before anything large is asked for."""
    texts = [name for name in TEXT_FILES if name in listed]
    if not any(name in texts for name in CONFIG_FILES):
        hint = "; download one of its .gguf files and give that" if _has(listed, ".gguf") else ""
        raise HubError(f"{repository.name}: the repository holds no checkpoint (no config.json){hint}")
    if not weights:
        return repository.fetch(texts)
    candidates = list(_weight_candidates(listed, "adapter_config.json" in texts))
    if not candidates:
        hint = "; download one of its .gguf files and give that" if _has(listed, ".gguf") else ""
        raise HubError(
            f"{repository.name}: the repository holds no weights that can be converted; expected "
            f"{' or '.join(SINGLE_FILES)}, or shards{hint}"
        )
    problem = HubError("")
    for names in candidates:
        if names[0] not in INDEX_FILES:
            return repository.fetch([*texts, *names])
        try:
            shards = _shards(repository.fetch(names) / names[0], listed)
        except HubError:
            raise
        except ConvertError as error:
            problem = HubError(str(error))
        else:
            return repository.fetch([*texts, *names, *shards])
    raise problem


def _has(listed: list[str], suffix: str) -> bool:
    return any(name.endswith(suffix) for name in listed)


def _weight_candidates(listed: list[str], adapter: bool) -> Iterator[list[str]]:
    """Sets of files that could be the weights, the best first; an index stands for the shards it names."""
    if adapter:
        yield from ([name] for name in ADAPTER_FILES if name in listed)
    for single, index in zip(SINGLE_FILES, INDEX_FILES, strict=True):
        if index in listed:
            yield [index]
        if single in listed:
            yield [single]
        shards = [name for name in listed if SHARD.fullmatch(name) and name.endswith(Path(single).suffix)]
        if shards and index not in listed:
            yield sorted(shards)


def _shards(index: Path, listed: list[str]) -> list[str]:
    table = load_object(index).get("weight_map")
    if not isinstance(table, dict) or not table:
        raise ConvertError(f'{index}: has no "weight_map" from tensors to files')
    for name, file in table.items():
        if file not in listed or not file.endswith((".safetensors", ".bin")):
            raise ConvertError(f"{index}: tensor {name}: {file!r:.80} is no weight file of the repository")
    return sorted(set(table.values()))
