"""SentencePiece models (ice_text.model of ChatGLM-6B; tokenizer.model of ChatGLM2, ChatGLM3 and CodeGeeX2).

The file is a protocol buffer of which a few fields are needed, so it is read here directly.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from .errors import ConvertError
from .jsonfile import Settings
from .vocabulary import BYTE, CONTROL, NORMAL, SCORE_OF_NO_PIECE, UNUSED, Vocabulary

# ChatGLM-6B has its special tokens among the pieces.
CHATGLM_SPECIALS = {"gmask": "[gMASK]", "sop": "<sop>", "eop": "<eop>"}
MAX_IMAGE_TOKENS = 1 << 20
CHATGLM2_SPECIALS = ("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop")
CHATGLM3_SPECIALS = (*CHATGLM2_SPECIALS, "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")


@dataclass
class SentencePieceModel:
    """The fields of ModelProto that matter here, with the defaults of its definition."""

    pieces: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    types: list[int] = field(default_factory=list)
    unk_id: int = 0
    bos_id: int = 1
    eos_id: int = 2
    pad_id: int = -1
    add_dummy_prefix: bool = True
    remove_extra_whitespaces: bool = True


def parse_sentencepiece(data: bytes, path: Path) -> SentencePieceModel:
    """Reads a serialized ModelProto. Raises ConvertError when it is none."""
    model = SentencePieceModel()
    try:
        for number, value in _fields(data):
            if number == 1 and isinstance(value, bytes):
                _parse_piece(model, value)
            elif number == 2 and isinstance(value, bytes):
                _parse_trainer(model, value)
            elif number == 3 and isinstance(value, bytes):
                _parse_normalizer(model, value)
    except (ValueError, struct.error) as error:
        raise ConvertError(f"{path}: is damaged or no SentencePiece model ({error})") from None
    if not model.pieces:
        raise ConvertError(f"{path}: is no SentencePiece model: it holds no pieces")
    return model


def load_sentencepiece(path: Path, data: bytes, chat_format: str) -> Vocabulary:
    """The vocabulary of a ChatGLM2 / ChatGLM3 checkpoint: the pieces, then the special tokens of its code."""
    model = parse_sentencepiece(data, path)
    specials = CHATGLM3_SPECIALS if chat_format == "chatglm3" else CHATGLM2_SPECIALS
    n = len(model.pieces)
    special_id = {token: n + i for i, token in enumerate(specials)}
    vocabulary = Vocabulary(
        path=path,
        model="llama",
        tokens=[*model.pieces, *specials],
        types=[*model.types, *[CONTROL] * len(specials)],
        scores=[*model.scores, *[SCORE_OF_NO_PIECE] * len(specials)],
        sentencepiece=data,
        add_space_prefix=model.add_dummy_prefix,
        remove_extra_whitespaces=model.remove_extra_whitespaces,
        prefix_ids=[special_id["[gMASK]"], special_id["sop"]],
    )
    for name, i in (("bos", model.bos_id), ("eos", model.eos_id), ("unknown", model.unk_id)):
        if 0 <= i < n:
            vocabulary.ids[name] = i
    # The original pads with <unk> when the model has no piece for it.
    vocabulary.ids["padding"] = model.pad_id if 0 <= model.pad_id < n else vocabulary.ids.get("unknown", 0)
    if "eos" not in vocabulary.ids:
        raise ConvertError(f"{path}: has no end-of-text piece")
    vocabulary.eos_ids = [vocabulary.ids["eos"]]
    if chat_format == "chatglm3":
        vocabulary.ids["eot"] = special_id["<|user|>"]
        vocabulary.ids["eom"] = special_id["<|observation|>"]
        vocabulary.eos_ids += [special_id["<|user|>"], special_id["<|observation|>"]]
    return vocabulary


def load_ice_text(path: Path, data: bytes, config: Settings, tokenizer_config: Settings) -> Vocabulary:
    """The vocabulary of a ChatGLM-6B checkpoint: ids for images, which no text uses, then the pieces."""
    model = parse_sentencepiece(data, path)
    piece_ids = {token: i for i, token in enumerate(model.pieces)}
    for token in CHATGLM_SPECIALS.values():
        if token not in piece_ids:
            raise ConvertError(f"{path}: has no piece {token}; is this the tokenizer of ChatGLM-6B?")
    first = _image_tokens(config, tokenizer_config, piece_ids)
    special = {name: first + piece_ids[token] for name, token in CHATGLM_SPECIALS.items()}
    vocabulary = Vocabulary(
        path=path,
        model="llama",
        tokens=[*(f"<image_{i}>" for i in range(first)), *model.pieces],
        types=[*[UNUSED] * first, *model.types],
        scores=[*[SCORE_OF_NO_PIECE] * first, *model.scores],
        sentencepiece=data,
        add_space_prefix=model.add_dummy_prefix,
        remove_extra_whitespaces=model.remove_extra_whitespaces,
        num_image_tokens=first,
        suffix_ids=[special["gmask"], special["sop"]],
        position_ids={"gmask": special["gmask"], "sop": special["sop"]},
        eos_ids=[special["eop"]],
    )
    vocabulary.ids |= {"bos": special["sop"], "eos": special["eop"]}
    if 0 <= model.unk_id < len(model.pieces):
        vocabulary.ids["unknown"] = first + model.unk_id
    if "<pad>" in piece_ids:
        vocabulary.ids["padding"] = first + piece_ids["<pad>"]
    return vocabulary


def _image_tokens(config: Settings, tokenizer_config: Settings, piece_ids: dict[str, int]) -> int:
    """How many ids come before the pieces: 20000 in the first files that were published, 0 in the last.

    config.json, which belongs to the weights, says it through the ids of the special tokens.
    """
    keys = {"gmask_token_id": "[gMASK]", "bos_token_id": "<sop>", "eos_token_id": "<eop>"}
    for key, token in keys.items():
        if config.has(key):
            number = config.number(key, int) - piece_ids[token]
            if not 0 <= number <= MAX_IMAGE_TOKENS:
                raise config.wrong(key, f"at least {piece_ids[token]}, where the tokenizer has {token}")
            return number
    if not tokenizer_config.has("num_image_tokens"):
        return 0
    number = tokenizer_config.number("num_image_tokens", int)
    if not 0 <= number <= MAX_IMAGE_TOKENS:
        raise tokenizer_config.wrong("num_image_tokens", f"a number in 0..{MAX_IMAGE_TOKENS}")
    return number


def _parse_piece(model: SentencePieceModel, data: bytes) -> None:
    piece, score, kind = "", 0.0, NORMAL
    for number, value in _fields(data):
        if number == 1 and isinstance(value, bytes):
            piece = value.decode("utf-8")
        elif number == 2 and isinstance(value, float):
            score = value
        elif number == 3 and isinstance(value, int):
            kind = value
    if not piece or not NORMAL <= kind <= BYTE or not math.isfinite(score):
        raise ValueError(f"piece {len(model.pieces)} makes no sense")
    model.pieces.append(piece)
    model.scores.append(score)
    model.types.append(kind)


def _parse_trainer(model: SentencePieceModel, data: bytes) -> None:
    names = {40: "unk_id", 41: "bos_id", 42: "eos_id", 43: "pad_id"}
    for number, value in _fields(data):
        if number in names and isinstance(value, int):
            # Negative numbers are stored as 64-bit two's complement.
            setattr(model, names[number], value - (1 << 64) if value >> 63 else value)


def _parse_normalizer(model: SentencePieceModel, data: bytes) -> None:
    for number, value in _fields(data):
        if number == 3 and isinstance(value, int):
            model.add_dummy_prefix = bool(value)
        elif number == 4 and isinstance(value, int):
            model.remove_extra_whitespaces = bool(value)


def _fields(data: bytes) -> Iterator[tuple[int, int | float | bytes]]:
    """(number, value) of each field of a protocol buffer message: varints as int, 32 bits as float."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if number == 0:
            raise ValueError(f"bad field at byte {at}")
        if wire == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == 2:
            length, at = _varint(data, at)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ValueError(f"bad field at byte {at}")
        if length > len(data) - at:
            raise ValueError("it ends in the middle of a field")
        raw = data[at : at + length]
        at += length
        yield number, struct.unpack("<f", raw)[0] if wire == 5 else raw


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise ValueError("it ends in the middle of a number")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
    raise ValueError(f"bad number at byte {at}")
