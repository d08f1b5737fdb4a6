"""The weights of a checkpoint folder: one file or shards, safetensors or PyTorch pickles."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from .errors import ConvertError
from .jsonfile import load_object
from .safetensors_file import SafetensorsFile
from .tensor import TensorRef
from .torch_file import TorchFile

SINGLE_FILES = ("model.safetensors", "pytorch_model.bin")
INDEX_FILES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
SHARD = re.compile(r"(?:model|pytorch_model)-(\d+)-of-(\d+)\.(?:safetensors|bin)")


class Checkpoint:
    """The tensors of all weight files of a folder; nothing is read before it is asked for.

    Use it as a context manager, or call close().
    """

    sizes_from = "config.json"

    def __init__(self, folder: Path) -> None:
        self.files, self._index = find_weight_files(folder)
        self._open: list[SafetensorsFile | TorchFile] = []
        self.tensors: dict[str, TensorRef] = {}
        try:
            for path in self.files:
                reader: Callable[[Path], SafetensorsFile | TorchFile]
                reader = SafetensorsFile if path.suffix == ".safetensors" else TorchFile
                self._open.append(reader(path))
                for name, ref in self._open[-1].tensors.items():
                    other = self.tensors.get(name)
                    if other is None or self._index.get(name) == path.name:
                        self.tensors[name] = ref
                    elif self._index.get(name) != other.path.name:
                        raise ConvertError(f"{path}: tensor {name} is also in {other.path.name}")
        except BaseException:
            self.close()
            raise

    def where(self, tensor: str) -> Path:
        """The file that should hold `tensor`, for messages about one that is missing."""
        folder = self.files[0].parent
        if tensor in self._index:
            return folder / self._index[tensor]
        return self.files[0] if len(self.files) == 1 else folder

    def close(self) -> None:
        for file in self._open:
            file.close()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def find_weight_files(folder: Path) -> tuple[list[Path], dict[str, str]]:
    """The weight files of `folder` and the table tensor -> file name of its index (empty without one).

    Safetensors come first. A folder can carry the index of a format whose shards were not downloaded, so a
    complete set of the other format is taken before the gap is reported.
    """
    problems: list[ConvertError] = []
    for single, index in zip(SINGLE_FILES, INDEX_FILES, strict=True):
        if (folder / index).is_file():
            try:
                return _indexed(folder / index)
            except ConvertError as error:
                problems.append(error)
        if (folder / single).is_file():
            return [folder / single], {}
        shards = sorted(p for p in folder.glob(f"*{Path(single).suffix}") if SHARD.fullmatch(p.name))
        if shards and not (folder / index).is_file():
            return _numbered(shards), {}
    if problems:
        raise problems[0]
    raise ConvertError(
        f"{folder}: no weights here; expected {' or '.join(SINGLE_FILES)}, or shards with their index"
    )


def _indexed(index: Path) -> tuple[list[Path], dict[str, str]]:
    table = load_object(index).get("weight_map")
    if not isinstance(table, dict) or not table:
        raise ConvertError(f'{index}: has no "weight_map" from tensors to files')
    for name, file in table.items():
        if not isinstance(file, str) or not file or Path(file).name != file or "\\" in file:
            raise ConvertError(f"{index}: tensor {name}: {file!r:.80} is no name of a file in this folder")
        if Path(file).suffix not in (".safetensors", ".bin"):
            raise ConvertError(f"{index}: tensor {name}: {file!r:.80} is neither .safetensors nor .bin")
    files = [index.parent / name for name in sorted(set(table.values()))]
    missing = [path.name for path in files if not path.is_file()]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ConvertError(
            f"{index}: names {missing[0]}{more}, which the folder does not hold; is the download complete?"
        )
    return files, table


def _numbered(shards: list[Path]) -> list[Path]:
    """Shards without an index: their names say how many there must be."""
    total = int(SHARD.fullmatch(shards[0].name).group(2))  # type: ignore[union-attr]
    present = {int(SHARD.fullmatch(p.name).group(1)) for p in shards}  # type: ignore[union-attr]
    if (len(present), min(present), max(present)) != (total, 1, total):
        raise ConvertError(
            f"{shards[0].parent}: {len(present)} of {total} shards are here; is the download complete?"
        )
    return shards
