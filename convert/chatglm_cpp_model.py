"""A model file of chatglm.cpp as the GGUF file that it will become. Block types are the same, so their bytes
are copied, in another order of rows where the engine wants one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from . import templates
from .architecture import Architecture, Hparams, read_hparams
from .architectures import ARCHITECTURES
from .bpe import load_tiktoken
from .chatglm_cpp_file import CHATGLM, CHATGLM2, CHATGLM3, GLM4, ChatglmCppFile
from .checkpoint import Checkpoint
from .checkpoint_model import Choices, Model, make_model
from .errors import ConvertError
from .jsonfile import Settings
from .plan import DTYPES, Plan, count_by_type, make_plan
from .ptuning import Prefix, read_prefix
from .sentencepiece_model import load_ice_text, load_sentencepiece
from .tensor import BLOCK_BYTES, FLOAT_BYTES, TensorRef, dequantized
from .tokenizers import check_chat_format
from .vocabulary import CONTROL, Vocabulary

CHAT_FORMATS = {CHATGLM: "chatglm", CHATGLM2: "chatglm2", CHATGLM3: "chatglm3", GLM4: "glm4"}
PREFIX = "past_key_values"
ROPE_THETA = 10000.0  # that rope_ratio is multiplied with

# Names of the header that config.json spells in another way.
_KEYS_1 = {"intermediate_size": "inner_hidden_size", "max_length": "max_sequence_length"}
_KEYS_2 = {
    "intermediate_size": "ffn_hidden_size", "max_length": "seq_length", "vocab_size": "padded_vocab_size",
    "num_kv_heads": "multi_query_group_num",
}  # fmt: skip


@contextlib.contextmanager
def open_chatglm_cpp_file(path: Path, choices: Choices) -> Iterator[Model]:
    """The model in a file of chatglm.cpp. Its tensors can be read until the block ends.

    Without `choices.dtype` every matrix keeps its type.

    Raises ConvertError when the file is damaged, or a choice cannot be honoured.
    """
    if choices.lora is not None:
        raise ConvertError(
            f"{path}: --lora adds to weights before they are quantized; give the folder of the checkpoint "
            "that this file was made of"
        )
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(ChatglmCppFile(path))
        arch = _architecture(file)
        config = _config(file)
        hparams = read_hparams(arch, config)
        _check_ids(file)
        notes = _change_types(file, choices)
        prefix = _stored_prefix(file, hparams)
        if choices.ptuning is not None:
            if prefix is not None:
                raise ConvertError(f"{path}: carries a P-Tuning prefix already, so --ptuning cannot add one")
            if not choices.ptuning.is_dir():
                raise ConvertError(
                    f"{choices.ptuning}: no such folder; expected one with the weights of a prefix"
                )
            source = stack.enter_context(Checkpoint(choices.ptuning))
            prefix = read_prefix(arch, hparams, source.tensors, choices.ptuning)
        if prefix is not None:
            hparams = replace(hparams, prefix_length=prefix.length)
        # Before the vocabulary, which is padded to the size that the embedding's rows confirm here.
        plan = _plan(file, arch, hparams, choices, prefix)
        vocabulary, chat_format = _vocabulary(file, config, choices)
        model = make_model(
            choices.name or path.stem or "model",
            arch,
            hparams,
            choices.dtype or DTYPES[_type_of_most(plan)],
            choices.rope_scaling == "position",
            vocabulary,
            chat_format,
            templates.BY_FORMAT.get(chat_format, ""),
        )
        model.plan = plan
        model.notes = (*model.notes, *notes, *_rope_notes(file, hparams, choices))
        yield model


def _architecture(file: ChatglmCppFile) -> Architecture:
    wanted = "chatglm1" if file.model_type == CHATGLM else "chatglm"
    return next(arch for arch in ARCHITECTURES if arch.id == wanted)


def _config(file: ChatglmCppFile) -> Settings:
    """The header as the config.json of the checkpoint that the file was made of."""
    header = file.header
    keys = _KEYS_1 if file.model_type == CHATGLM else _KEYS_2
    values = {keys.get(name, name): value for name, value in header.items()}
    for name in [key for key in values if key.endswith("_token_id") and values[key] == -1]:
        del values[name]  # there is none
    # Compared so that NaN fails too.
    if not 1 <= header["rope_theta"] <= 1e10:
        raise ConvertError(
            f'{file.path}: "rope_theta" of the header is {header["rope_theta"]}, expected 1 to 1e10'
        )
    if file.model_type == CHATGLM:
        if header["num_kv_heads"] != header["num_attention_heads"]:
            raise ConvertError(
                f'{file.path}: "num_kv_heads" of the header is {header["num_kv_heads"]}, and ChatGLM-6B '
                f"has as many as other heads, {header['num_attention_heads']}"
            )
        return Settings({**values, "position_encoding_2d": True}, file.path)
    fixed = {"multi_query_attention": True, "add_qkv_bias": True, "add_bias_linear": False}
    # chatglm.cpp multiplies the base, whatever the model's own code does with the ratio.
    return Settings({**values, **fixed, "rope_ratio": header["rope_theta"] / ROPE_THETA}, file.path)


def _check_ids(file: ChatglmCppFile) -> None:
    limit = file.header["vocab_size"]
    for name, value in file.header.items():
        if name.endswith("_token_id") and not -1 <= value < limit:
            raise ConvertError(
                f'{file.path}: "{name}" of the header is {value}, expected -1 for none, or 0 to {limit - 1}'
            )


def _change_types(file: ChatglmCppFile, choices: Choices) -> list[str]:
    """Makes floats of the matrices that are to have another type; returns what the user should know of it."""
    changed = set()
    for name, ref in file.tensors.items():
        if choices.dtype and ref.dtype in BLOCK_BYTES and ref.dtype != choices.dtype.name:
            changed.add(ref.dtype)
            file.tensors[name] = dequantized(ref)
    if not changed or not choices.dtype:
        return []
    return [
        f"matrices of type {', '.join(sorted(changed))} became {choices.dtype.name}: what their rounding "
        "took is lost, and converting the original checkpoint gives a better file"
    ]


def _stored_prefix(file: ChatglmCppFile, hparams: Hparams) -> Prefix | None:
    """The P-Tuning prefix of the file: (layers * 2, heads, positions, head_dim), keys and values in turn."""
    length = file.header["num_virtual_tokens"]
    if not 0 <= length <= 1 << 16:
        raise ConvertError(
            f'{file.path}: "num_virtual_tokens" of the header is {length}, expected 0 to 65536'
        )
    ref = file.tensors.pop(PREFIX, None)
    if not length and ref is None:
        return None
    if ref is None:
        raise ConvertError(
            f'{file.path}: "num_virtual_tokens" of the header is {length}, and the tensor {PREFIX} with '
            "their keys and values is missing"
        )
    if file.model_type == CHATGLM:
        raise ConvertError(f"{file.path}: a tensor {PREFIX} does not belong to ChatGLM-6B")
    shape = (2 * hparams.n_layers, hparams.n_kv_heads, length, hparams.head_dim)
    if ref.dtype not in FLOAT_BYTES or ref.shape != shape:
        raise ConvertError(
            f"{file.path}: tensor {PREFIX} has the type {ref.dtype} and the shape {list(ref.shape)}, its "
            f"header makes it floats of the shape {list(shape)}"
        )
    kv = hparams.n_kv_heads * hparams.head_dim
    parts = []
    for layer in range(hparams.n_layers):
        for row, kind in ((2 * layer, "k"), (2 * layer + 1, "v")):
            name = f"blk.{layer}.attn_prefix_{kind}.weight"
            parts.append((name, replace(_by_position(ref, row), name=name, shape=(length, kv))))
    return Prefix(length, tuple(parts))


def _by_position(ref: TensorRef, row: int) -> TensorRef:
    """ref[row], (heads, positions, head_dim), with the positions first and the heads of each side by side."""

    def read(start: int, stop: int) -> np.ndarray:
        values = ref.read(row, row + 1)[0, :, start:stop]
        return np.ascontiguousarray(values.transpose(1, 0, 2)).reshape(stop - start, -1)

    return replace(ref, read=read)


def _plan(
    file: ChatglmCppFile, arch: Architecture, hparams: Hparams, choices: Choices, prefix: Prefix | None
) -> Plan:
    stored = {ref.dtype for ref in file.tensors.values() if len(ref.shape) > 1}
    plan = make_plan(arch, hparams, file, choices.dtype, prefix)
    if plan.skipped:
        raise ConvertError(
            f"{file.path}: tensor {plan.skipped[0]} does not belong to a model of {hparams.n_layers} layers "
            "of this type; the header or the tensor is damaged"
        )
    if choices.dtype is None and file.dtype not in stored:
        raise ConvertError(
            f'{file.path}: "dtype" of the header is {file.header["dtype"]} ({file.dtype}), and no '
            "matrix has it"
        )
    return plan


def _vocabulary(file: ChatglmCppFile, config: Settings, choices: Choices) -> tuple[Vocabulary, str]:
    """The vocabulary, padded to the rows of the embedding, and the chat format."""
    chat_format = choices.chat_format or CHAT_FORMATS[file.model_type]
    if chat_format == "template":
        raise ConvertError(
            f"{file.path}: chat format template needs a template, and such a file carries none"
        )
    if file.model_type == CHATGLM:
        vocabulary = load_ice_text(file.path, file.tokenizer, config, Settings({}, file.path))
    elif file.model_type == GLM4:
        vocabulary = load_tiktoken(file.path, file.tokenizer)
        vocabulary.eos_ids = [vocabulary.ids[name] for name in ("eos", "eot", "eom")]
    else:
        vocabulary = load_sentencepiece(file.path, file.tokenizer, chat_format)
    check_chat_format(vocabulary, chat_format)
    vocabulary.pad_to(file.header["vocab_size"], file.sizes_from)
    end = file.header["eos_token_id"]
    if end != -1 and end not in vocabulary.eos_ids:
        if vocabulary.types[end] != CONTROL:
            raise ConvertError(
                f'{file.path}: "eos_token_id" of the header is {end}, in the tokenizer '
                f"{vocabulary.tokens[end]!r:.40}, which ends no text; expected {vocabulary.eos_ids[0]}"
            )
        vocabulary.eos_ids.append(end)
    return vocabulary, chat_format


def _type_of_most(plan: Plan) -> str:
    """The type of most matrices."""
    matrices = count_by_type([tensor for tensor in plan.tensors if len(tensor.shape) > 1])
    return max(matrices, key=lambda name: matrices[name][0])


def _rope_notes(file: ChatglmCppFile, hparams: Hparams, choices: Choices) -> list[str]:
    if file.model_type != CHATGLM2 or hparams.rope_ratio == 1 or choices.rope_scaling != "auto":
        return []
    return [
        f"the rotary base is {file.header['rope_theta']:g}, as chatglm.cpp computes it; the code of "
        "ChatGLM2-6B-32k divides positions instead, which --rope-scaling position does"
    ]
