"""Streaming writer of GGUF v3 files.

The header is complete before the first tensor is read, and tensor data is appended slab by slab, so nothing
of the model is held. The file grows under a temporary name beside the target, and takes its name only when it
is complete.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from gguf import GGML_QUANT_SIZES, GGUF_DEFAULT_ALIGNMENT, GGUF_MAGIC, GGUF_VERSION
from gguf import GGMLQuantizationType as GgmlType
from gguf import GGUFValueType as ValueType

from .errors import ConvertError

_PACKING = {
    ValueType.UINT32: "<I", ValueType.INT32: "<i", ValueType.UINT64: "<Q", ValueType.FLOAT32: "<f",
    ValueType.BOOL: "<?",
}  # fmt: skip
# Windows: access is denied; a sharing violation; the file is mapped.
_IN_USE = (5, 32, 1224)
_ARRAYS = {ValueType.UINT8: "<u1", ValueType.INT32: "<i4", ValueType.FLOAT32: "<f4"}


def tensor_bytes(shape: Sequence[int], ggml_type: GgmlType) -> int:
    """Bytes of a tensor; the last dimension must be a multiple of the type's block size."""
    block, block_bytes = GGML_QUANT_SIZES[ggml_type]
    count = 1
    for n in shape:
        count *= n
    return count // block * block_bytes


class Metadata:
    """The key-value part of a file, in the order of writing."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def __len__(self) -> int:
        return len(self._parts)

    def __bytes__(self) -> bytes:
        return b"".join(self._parts)

    def u32(self, key: str, value: int) -> None:
        self._scalar(key, ValueType.UINT32, value)

    def f32(self, key: str, value: float) -> None:
        self._scalar(key, ValueType.FLOAT32, value)

    def boolean(self, key: str, value: bool) -> None:
        self._scalar(key, ValueType.BOOL, value)

    def string(self, key: str, value: str) -> None:
        self._parts.append(_string(key) + struct.pack("<I", ValueType.STRING) + _string(value))

    def strings(self, key: str, values: Sequence[str]) -> None:
        self._array(key, ValueType.STRING, len(values), b"".join(map(_string, values)))

    def numbers(self, key: str, values: Sequence[Any] | bytes, kind: ValueType) -> None:
        """An array of UINT8 (from bytes), INT32 or FLOAT32."""
        array = np.frombuffer(values, np.uint8) if isinstance(values, bytes) else np.asarray(values)
        self._array(key, kind, len(array), array.astype(_ARRAYS[kind]).tobytes())

    def _scalar(self, key: str, kind: ValueType, value: Any) -> None:
        self._parts.append(_string(key) + struct.pack("<I", kind) + struct.pack(_PACKING[kind], value))

    def _array(self, key: str, kind: ValueType, count: int, data: bytes) -> None:
        head = struct.pack("<IIQ", ValueType.ARRAY, kind, count)
        self._parts.append(_string(key) + head + data)


def _string(text: str) -> bytes:
    try:
        data = text.encode("utf-8")
    except UnicodeEncodeError:
        raise ConvertError(f"the text {text!r:.60} from the checkpoint is not valid Unicode") from None
    return struct.pack("<Q", len(data)) + data


class GgufWriter:
    """Writes one file, as a context manager.

    Leaving the block without an error puts the complete file at `path`, replacing what was there; any error
    or interrupt removes the temporary file and leaves `path` alone.
    """

    def __init__(
        self, path: Path, tensors: Sequence[tuple[str, tuple[int, ...], GgmlType]], metadata: Metadata
    ):
        self.path = path
        self._tensors = tensors
        self._metadata = metadata
        # Without the target's name: that may already be as long as the file system allows.
        self._temporary = path.with_name(f".{secrets.token_hex(8)}.part")
        self._file: BinaryIO | None = None
        self._next = 0  # index of the tensor that write() fills
        self._written = 0  # bytes of it

    def __enter__(self) -> GgufWriter:
        try:
            self._file = open(self._temporary, "xb")
            self._write(self._header())
        except BaseException as error:
            self._discard()
            if isinstance(error, OSError):
                raise self._failed(error) from None
            raise
        return self

    def write(self, data: np.ndarray) -> None:
        """Appends bytes of the current tensor; after its last byte the next tensor is current."""
        _, shape, ggml_type = self._tensors[self._next]
        total = tensor_bytes(shape, ggml_type)
        self._written += data.nbytes
        if self._written > total:
            raise ValueError("more bytes than the tensor has")
        try:
            self._write(memoryview(np.ascontiguousarray(data)).cast("B"))
            if self._written == total:
                self._write(bytes(-total % GGUF_DEFAULT_ALIGNMENT))
                self._next, self._written = self._next + 1, 0
        except OSError as error:
            raise self._failed(error) from None

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._discard()
            return
        try:
            if self._next != len(self._tensors):
                raise ValueError("the file is not complete")
            assert self._file is not None
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            os.replace(self._temporary, self.path)
        except BaseException as error:
            self._discard()
            if isinstance(error, OSError):
                raise self._failed(error) from None
            raise
        _sync_folder(self.path.parent)

    def _header(self) -> bytes:
        head = struct.pack("<IIQQ", GGUF_MAGIC, GGUF_VERSION, len(self._tensors), len(self._metadata))
        parts = [head, bytes(self._metadata)]
        offset = 0
        for name, shape, ggml_type in self._tensors:
            # GGUF lists the fastest-varying dimension first.
            dims = struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
            parts.append(_string(name) + dims + struct.pack("<IQ", ggml_type, offset))
            offset += -(-tensor_bytes(shape, ggml_type) // GGUF_DEFAULT_ALIGNMENT) * GGUF_DEFAULT_ALIGNMENT
        header = b"".join(parts)
        return header + bytes(-len(header) % GGUF_DEFAULT_ALIGNMENT)

    def _write(self, data: bytes | memoryview) -> None:
        assert self._file is not None
        self._file.write(data)

    def _failed(self, error: OSError) -> ConvertError:
        if getattr(error, "winerror", None) in _IN_USE and self.path.exists():
            return ConvertError(
                f"{self.path}: a program has this file open, so that Windows does not replace it; close that "
                "program, or choose another name"
            )
        return ConvertError(f"{self.path}: cannot be written: {error.strerror or error}")

    def _discard(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):  # a full disk refuses the last buffered bytes too
                self._file.close()
        with contextlib.suppress(OSError):  # the error that led here is the one to tell
            self._temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Makes the rename last through a power cut, where the system can."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)
