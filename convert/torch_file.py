"""Reader of one PyTorch pickle (.bin). PyTorch is imported only here, and only for such a file."""

from __future__ import annotations

import ctypes
import mmap
import pickle
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from .errors import ConvertError
from .tensor import TensorRef

# Before 2.6 `weights_only=True` could be tricked into running code (CVE-2025-32434).
MIN_TORCH = (2, 6)


def _import_torch(path: Path) -> Any:
    try:
        import torch
    except ImportError:
        raise ConvertError(
            f"{path}: a .bin checkpoint needs PyTorch to be read: pip install torch (a CPU build is enough), "
            "or get the safetensors files of this model"
        ) from None
    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if version < MIN_TORCH:
        raise ConvertError(
            f"{path}: PyTorch {torch.__version__} cannot open untrusted .bin files safely; "
            "pip install -U 'torch>=2.6'"
        )
    return torch


class TorchFile:
    """One file; `tensors` describes what is in it and reads rows on demand."""

    def __init__(self, path: Path) -> None:
        self.path = path
        torch = _import_torch(path)
        try:
            state, self._mapped = _load(torch, path)
        except FileNotFoundError:
            raise ConvertError(f"{path}: no such file") from None
        except pickle.UnpicklingError:
            raise ConvertError(
                f"{path}: holds something other than plain tensors, or is damaged; "
                "it was not loaded because that could run code"
            ) from None
        except OSError as error:
            raise ConvertError(f"{path}: cannot be read: {error.strerror or error}") from None
        except Exception as error:  # damaged files make torch.load fail in every way there is
            reason = str(error).split("\n")[0][:160] or type(error).__name__
            raise ConvertError(f"{path}: is truncated or no PyTorch checkpoint ({reason})") from None
        if not isinstance(state, dict):
            raise ConvertError(f"{path}: holds a {type(state).__name__} where a table of tensors is expected")
        names = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16", torch.int8: "i8"}
        self.tensors: dict[str, TensorRef] = {}
        for name, value in state.items():
            if not isinstance(name, str) or not isinstance(value, torch.Tensor):
                raise ConvertError(f"{path}: entry {name!r:.80} is no tensor; expected a plain state dict")
            if (
                value.layout != torch.strided
                or value.device.type != "cpu"
                or value.is_nested
                or value.is_neg()
            ):
                raise ConvertError(f"{path}: tensor {name!r:.80} is sparse or of another unusual kind")
            dtype = names.get(value.dtype, str(value.dtype).removeprefix("torch."))
            reader = self._reader(torch, value.detach(), dtype)
            self.tensors[name] = TensorRef(name, dtype, tuple(value.shape), path, reader)

    def close(self) -> None:
        self.tensors.clear()

    def _reader(self, torch: Any, tensor: Any, dtype: str) -> Any:
        def read_rows(start: int, stop: int) -> np.ndarray:
            rows = tensor[start:stop].contiguous()
            if dtype == "bf16":
                array = rows.view(torch.int16).numpy().view(np.uint16).copy()
            else:
                array = rows.numpy().copy()
            if self._mapped and rows.data_ptr() == tensor[start:stop].data_ptr():
                _drop_pages(rows.data_ptr(), rows.nbytes)
            return array

        return read_rows


def _load(torch: Any, path: Path) -> tuple[Any, bool]:
    """The content of the file, and whether it is a map of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they speak to the developers of PyTorch, about the file's making
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True), True
        except RuntimeError as error:
            # Files of torch < 1.6 are no zip archives and cannot be mapped.
            if "mmap can only be used" not in str(error):
                raise
            return torch.load(path, map_location="cpu", weights_only=True), False


def _drop_pages(address: int, n_bytes: int) -> None:
    """Gives mapped pages that have been read back to the system, so that the map of a whole model does not
    count as our memory. They are unmodified pages of a file and would be read from it again."""
    if sys.platform != "linux":
        return
    page = mmap.PAGESIZE
    begin = -(-address // page) * page
    length = (address + n_bytes) // page * page - begin
    if length > 0:
        madvise = ctypes.CDLL(None, use_errno=True).madvise
        madvise(ctypes.c_void_p(begin), ctypes.c_size_t(length), mmap.MADV_DONTNEED)
