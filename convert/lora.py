"""LoRA adapters in PEFT's folders: merged into the weights, or made ready to be kept apart.

    W' = W + scale * B A,    A (rank, columns), B (rows, rank), scale = alpha / rank

(https://arxiv.org/abs/2106.09685; with `use_rslora` alpha / sqrt(rank), https://arxiv.org/abs/2312.03732).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from .checkpoint import Checkpoint
from .errors import ConvertError
from .jsonfile import Settings, load_object
from .safetensors_file import SafetensorsFile
from .tensor import FLOAT_BYTES, TensorRef, add_low_rank, read_float32
from .torch_file import TorchFile

CONFIG_FILE = "adapter_config.json"
WEIGHT_FILES = ("adapter_model.safetensors", "adapter_model.bin")
MAX_RANK = 4096
MAX_ALPHA = 1e6

_ROOT = "base_model.model."
_FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<side>[AB])(\.default)?(\.weight)?")


def is_adapter(folder: Path) -> bool:
    """Whether `folder` holds an adapter and no model."""
    return (folder / CONFIG_FILE).is_file() and not (folder / "config.json").is_file()


@dataclass(frozen=True)
class LowRank:
    """What is added to one matrix: scale * b @ a."""

    a: TensorRef  # (rank, columns)
    b: TensorRef  # (rows, rank)
    scale: float
    transposed: bool = False  # of an embedding, whose rows PEFT takes for columns

    @property
    def rank(self) -> int:
        return self.a.shape[0]


class Adapter:
    """A PEFT folder. `factors` maps a tensor of the base model to what is added to it, `replaced` to what
    takes its place. Use it as a context manager, or call close()."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not folder.is_dir():
            raise ConvertError(f"{folder}: no such folder; expected one with {CONFIG_FILE}")
        if not (folder / CONFIG_FILE).is_file():
            raise ConvertError(f"{folder}: is no LoRA adapter of PEFT: it has no {CONFIG_FILE}")
        self.config = Settings(load_object(folder / CONFIG_FILE), folder / CONFIG_FILE)
        self._check_config()
        path = next((folder / name for name in WEIGHT_FILES if (folder / name).is_file()), None)
        if path is None:
            raise ConvertError(f"{folder}: holds neither {' nor '.join(WEIGHT_FILES)}")
        self.path = path
        self._file = SafetensorsFile(path) if path.suffix == ".safetensors" else TorchFile(path)
        try:
            self.factors, self.replaced = self._sort_tensors()
        except BaseException:
            self.close()
            raise

    @property
    def base(self) -> str:
        """Name or folder of the model that it was trained on; may be empty."""
        return self.config.text("base_model_name_or_path")

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Adapter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_config(self) -> None:
        kind = self.config.text("peft_type")
        if kind != "LORA":
            raise ConvertError(f'{self.config.path}: "peft_type" is "{kind:.40}"; only LORA is supported')
        for key, plain in (("use_dora", False), ("fan_in_fan_out", False), ("bias", "none")):
            if self.config.get(key, plain) not in (plain, None):
                raise ConvertError(
                    f'{self.config.path}: "{key}" is {self.config.get(key)!r:.40}, which is not supported; '
                    "merge the adapter with PEFT (merge_and_unload) and convert the result"
                )
        self.alpha = self._sane(self.config.number("lora_alpha", float))

    def _sane(self, alpha: float) -> float:
        if not abs(alpha) <= MAX_ALPHA:
            raise ConvertError(f"{self.config.path}: an alpha is {alpha:g}, expected at most {MAX_ALPHA:g}")
        return alpha

    def _sort_tensors(self) -> tuple[dict[str, LowRank], dict[str, TensorRef]]:
        sides: dict[str, dict[str, TensorRef]] = {}
        embeddings: set[str] = set()
        replaced: dict[str, TensorRef] = {}
        for name, ref in self._file.tensors.items():
            if ref.dtype not in FLOAT_BYTES:
                raise ConvertError(
                    f"{self.path}: tensor {name} has elements of type {ref.dtype}; floats are expected"
                )
            inner = name.removeprefix(_ROOT)
            match = _FACTOR.fullmatch(inner)
            if match is None:
                if ".lora_" in inner:
                    raise ConvertError(
                        f"{self.path}: tensor {name} belongs to a kind of LoRA that is not supported"
                    )
                replaced[
                    inner.replace(".modules_to_save.default.", ".").replace(".modules_to_save.", ".")
                ] = ref
                continue
            sides.setdefault(match["module"], {})[match["side"]] = ref
            if match["embedding"]:
                embeddings.add(match["module"])
        factors = {}
        for module, pair in sides.items():
            factors[f"{module}.weight"] = self._pair(module, pair, module in embeddings)
        if not factors and not replaced:
            raise ConvertError(f"{self.path}: holds no LoRA tensors")
        return factors, replaced

    def _pair(self, module: str, pair: dict[str, TensorRef], embedding: bool) -> LowRank:
        if len(pair) != 2:
            missing = "B" if "A" in pair else "A"
            raise ConvertError(f"{self.path}: {module} has no lora_{missing}")
        a, b = pair["A"], pair["B"]
        if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != b.shape[1]:
            raise ConvertError(
                f"{self.path}: {module}: the shapes {list(a.shape)} of lora_A and {list(b.shape)} of lora_B "
                "do not fit each other"
            )
        if not 0 < a.shape[0] <= MAX_RANK:
            raise ConvertError(f"{self.path}: {module}: the rank is {a.shape[0]}, expected 1..{MAX_RANK}")
        return LowRank(a, b, self._scale(module, a.shape[0]), embedding)

    def _scale(self, module: str, rank: int) -> float:
        alpha = self.alpha
        pattern = self.config.get("alpha_pattern")
        for key, value in (pattern if isinstance(pattern, dict) else {}).items():
            # PEFT takes the key for a regular expression; what people write are names of modules.
            if (
                not re.fullmatch(r"[\w.]+", key)
                or isinstance(value, bool)
                or not isinstance(value, int | float)
            ):
                raise ConvertError(
                    f'{self.config.path}: "alpha_pattern" has {key!r:.60}: {value!r:.20}, expected names of '
                    "modules with numbers"
                )
            if module == key or module.endswith(f".{key}"):
                alpha = self._sane(float(value) if abs(value) < 1e30 else math.inf)
                break  # the first that fits, as in PEFT
        return alpha / (math.sqrt(rank) if self.config.get("use_rslora") is True else rank)


def merge_adapter(checkpoint: Checkpoint, adapter: Adapter) -> int:
    """Adds the adapter to `checkpoint.tensors`; returns the number of matrices it changes.

    Raises ConvertError for a tensor that the checkpoint does not have, or has in another shape.
    """
    for name, new in adapter.replaced.items():
        _check_fit(checkpoint, adapter, name, new.shape)
        checkpoint.tensors[name] = new
    for name, factor in adapter.factors.items():
        shape = (factor.b.shape[0], factor.a.shape[1])
        old = _check_fit(checkpoint, adapter, name, shape[::-1] if factor.transposed else shape)
        a, b = read_float32(factor.a), read_float32(factor.b)
        if factor.transposed:
            a, b = np.ascontiguousarray(b.T), np.ascontiguousarray(a.T)
        checkpoint.tensors[name] = add_low_rank(old, a, b, factor.scale)
    return len(adapter.factors) + len(adapter.replaced)


def _check_fit(checkpoint: Checkpoint, adapter: Adapter, name: str, shape: tuple[int, ...]) -> TensorRef:
    old = checkpoint.tensors.get(name)
    base = f" (it was trained on {adapter.base})" if adapter.base else ""
    if old is None:
        raise ConvertError(f"{adapter.path}: changes {name}, which this checkpoint does not have{base}")
    if old.shape != shape:
        raise ConvertError(
            f"{adapter.path}: changes {name} as a matrix {list(shape)}, and this checkpoint has "
            f"{list(old.shape)}{base}"
        )
    if old.dtype not in FLOAT_BYTES:
        raise ConvertError(
            f"{old.path}: tensor {name} has elements of type {old.dtype}; f32, f16 or bf16 is expected"
        )
    return old
