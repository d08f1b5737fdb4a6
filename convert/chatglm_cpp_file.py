"""Reader of the model files of chatglm.cpp, as its versions up to 0.4 write them (usually named .bin).

Little-endian: the magic "ggml", the type of the model, the version of the header, the header, the tokenizer
with its size in front, and tensors to the end of the file. Each tensor is its name, its shape, its type,
zeros up to the next multiple of 16 bytes, and its data in ggml's layout, which is ours too.
"""

from __future__ import annotations

import math
import os
import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from .errors import ConvertError
from .reading import read_exactly
from .tensor import BLOCK, BLOCK_BYTES, TensorRef

MAGIC = b"ggml"
CHATGLM, CHATGLM2, CHATGLM3, GLM4 = 1, 2, 3, 4
MODEL_NAMES = {CHATGLM: "ChatGLM-6B", CHATGLM2: "ChatGLM2-6B", CHATGLM3: "ChatGLM3-6B", GLM4: "GLM-4"}
_REFUSED = {
    1004: "GLM-4V, a vision model, which is not supported",
    1024: "Baichuan, which is not of the GLM family",
    1025: "Baichuan2, which is not of the GLM family",
    1280: "InternLM, which is not of the GLM family",
}

# ggml's numbers of the types that these files have.
TYPES = {0: "f32", 1: "f16", 2: "q4_0", 3: "q4_1", 6: "q5_0", 7: "q5_1", 8: "q8_0"}

# The headers, in the order of the file. Names are those of config.json, or else of chatglm.cpp; all but two
# fields are int32.
_FLOATS = ("layernorm_epsilon", "rope_theta")
_VERSION_1 = (
    "dtype", "vocab_size", "hidden_size", "num_attention_heads", "num_layers", "intermediate_size",
    "max_length", "bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id",
)  # fmt: skip
_VERSION_2 = (
    "dtype", "vocab_size", "hidden_size", "num_attention_heads", "num_kv_heads", "num_layers",
    "intermediate_size", "layernorm_epsilon", "num_virtual_tokens", "rope_theta", "max_length",
    "eos_token_id", "pad_token_id",
)  # fmt: skip
_IMPLIED = {"layernorm_epsilon": 1e-5, "num_virtual_tokens": 0, "rope_theta": 10000.0}  # by version 1

ALIGNMENT = 16  # of a tensor's data in the file
MAX_TOKENIZER_BYTES = 64 << 20
MAX_NAME_BYTES = 256
MAX_DIMS = 4
MAX_LAYERS = 1024
TENSORS_A_LAYER = 16  # at most; ChatGLM-6B has 12


def is_chatglm_cpp_file(path: Path) -> bool:
    """Whether `path` is a regular file that begins with the magic. Raises OSError when it cannot be read."""
    if not path.is_file():  # opening a pipe would wait for its other end
        return False
    with open(path, "rb") as file:
        return file.read(len(MAGIC)) == MAGIC


class ChatglmCppFile:
    """One file: its header, its tokenizer as stored, and `tensors`, whose rows are read on demand.

    Use it as a context manager, or call close(). No number of the file decides about an allocation before it
    was compared with what is left of the file.
    """

    sizes_from = "its header"

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file: BinaryIO = open(path, "rb", buffering=0)  # noqa: SIM115 - closed by close()
        except OSError as error:
            raise ConvertError(f"{path}: cannot be opened: {error.strerror or error}") from None
        try:
            self._size = os.fstat(self._file.fileno()).st_size
            self._at = 0
            self.model_type, self.version = self._read_kind()
            self.header: dict[str, Any] = self._read_header()
            self.tokenizer = self._read_tokenizer()
            self.tensors = self._read_tensors()
        except BaseException:
            self._file.close()
            raise

    def where(self, tensor: str) -> Path:
        return self.path

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> ChatglmCppFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def dtype(self) -> str:
        """The type of the matrices, as the header says."""
        return TYPES[self.header["dtype"]]

    def _read_kind(self) -> tuple[int, int]:
        if self._take(len(MAGIC), "the magic") != MAGIC:
            raise self._wrong('it does not begin with "ggml", as the files of chatglm.cpp do')
        model_type = self._int("the type of the model")
        if model_type not in MODEL_NAMES:
            known = ", ".join(f"{number} ({name})" for number, name in MODEL_NAMES.items())
            what = _REFUSED.get(model_type, "which is unknown")
            raise ConvertError(
                f"{self.path}: the type of the model is {model_type}, {what}; supported: {known}"
            )
        version = self._int("the version")
        known_versions = (2,) if model_type == GLM4 else (1, 2)
        if version not in known_versions:
            raise ConvertError(
                f"{self.path}: the version of the header is {version}; {MODEL_NAMES[model_type]} has "
                f"{' or '.join(map(str, known_versions))}"
            )
        return model_type, version

    def _read_header(self) -> dict[str, Any]:
        names = _VERSION_2 if self.version == 2 else _VERSION_1
        if self.version == 1 and self.model_type != CHATGLM:
            names = (*names, "num_kv_heads")
        values: dict[str, Any] = {} if self.version == 2 else dict(_IMPLIED)
        for name in names:
            kind = "<f" if name in _FLOATS else "<i"
            (values[name],) = struct.unpack(kind, self._take(4, f'"{name}" of the header'))
        if values["dtype"] not in TYPES:
            raise self._wrong(f'"dtype" of the header is {values["dtype"]}, expected {_known_types()}')
        values.setdefault("num_kv_heads", values["num_attention_heads"])
        return values

    def _read_tokenizer(self) -> bytes:
        size = self._int("the size of the tokenizer")
        if not 0 < size <= min(self._left, MAX_TOKENIZER_BYTES):
            raise self._wrong(
                f"the tokenizer claims {size} bytes, and {self._left} are left in the file; expected 1 to "
                f"{MAX_TOKENIZER_BYTES}"
            )
        return bytes(self._take(size, "the tokenizer"))

    def _read_tensors(self) -> dict[str, TensorRef]:
        tensors: dict[str, TensorRef] = {}
        n_layers = self.header["num_layers"]
        limit = TENSORS_A_LAYER * (1 + min(max(n_layers, 0), MAX_LAYERS))
        while self._left:
            if len(tensors) == limit:
                raise self._wrong(f"there are more than {limit} tensors for {n_layers} layers")
            ref = self._read_tensor(len(tensors))
            if ref.name in tensors:
                raise self._wrong(f"tensor {ref.name} is there twice")
            tensors[ref.name] = ref
        return tensors

    def _read_tensor(self, number: int) -> TensorRef:
        which = f"tensor number {number}"
        length = self._int(f"the length of the name of {which}")
        if not 0 < length <= MAX_NAME_BYTES:
            raise self._wrong(f"the name of {which} claims {length} bytes, expected 1 to {MAX_NAME_BYTES}")
        raw = self._take(length, f"the name of {which}")
        if not all(0x20 < byte < 0x7F for byte in raw):
            raise self._wrong(f"the name of {which} is {bytes(raw)!r:.60}, which is no name")
        name = raw.decode("ascii")
        n_dims = self._int(f"the shape of tensor {name}")
        if not 0 < n_dims <= MAX_DIMS:
            raise self._wrong(f"tensor {name} has {n_dims} dimensions, expected 1 to {MAX_DIMS}")
        shape = tuple(self._int(f"the shape of tensor {name}") for _ in range(n_dims))
        if min(shape) <= 0:
            raise self._wrong(f"tensor {name} has the shape {list(shape)}")
        number_of_type = self._int(f"the type of tensor {name}")
        dtype = TYPES.get(number_of_type)
        if dtype is None:
            raise self._wrong(f"tensor {name} has the type {number_of_type}, expected {_known_types()}")
        if dtype in BLOCK_BYTES and (n_dims == 1 or shape[-1] % BLOCK):
            raise self._wrong(
                f"tensor {name} of type {dtype} has the shape {list(shape)}: no rows of whole blocks"
            )
        if any(self._take(-self._at % ALIGNMENT, f"the padding before tensor {name}")):
            raise self._wrong(f"the bytes between tensor {name} and its aligned data are not zero")
        return self._reference(name, dtype, shape)

    def _reference(self, name: str, dtype: str, shape: tuple[int, ...]) -> TensorRef:
        # What read() gives for a row: its numbers, or the bytes of its blocks.
        element, row_shape = {"f32": "<f4", "f16": "<f2"}.get(dtype, "u1"), shape[1:]
        if dtype in BLOCK_BYTES:
            row_shape = (*shape[1:-1], shape[-1] // BLOCK * BLOCK_BYTES[dtype])
        row_bytes = math.prod(row_shape) * np.dtype(element).itemsize
        start, n_bytes = self._at, shape[0] * row_bytes
        if n_bytes > self._left:
            raise self._wrong(
                f"tensor {name} of the shape {list(shape)} and type {dtype} needs {n_bytes} bytes, and "
                f"{self._left} are left in the file"
            )
        self._at += n_bytes

        def read(begin: int, end: int) -> np.ndarray:
            raw = read_exactly(
                self._file, self.path, start + begin * row_bytes, (end - begin) * row_bytes, f"tensor {name}"
            )
            return np.frombuffer(raw, element).reshape(end - begin, *row_shape)

        return TensorRef(name, dtype, shape, self.path, read)

    @property
    def _left(self) -> int:
        return self._size - self._at

    def _int(self, what: str) -> int:
        return int(struct.unpack("<i", self._take(4, what))[0])

    def _take(self, n_bytes: int, what: str) -> bytearray:
        if n_bytes > self._left:
            raise self._wrong(f"the file ends inside {what}")
        data = read_exactly(self._file, self.path, self._at, n_bytes, what)
        self._at += n_bytes
        return data

    def _wrong(self, problem: str) -> ConvertError:
        return ConvertError(
            f"{self.path}: {problem} (near byte {self._at} of {self._size}); "
            "it is no file of chatglm.cpp that can be read, or truncated or damaged"
        )


def _known_types() -> str:
    return ", ".join(f"{number} ({name})" for number, name in TYPES.items())
