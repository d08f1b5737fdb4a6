"""Finds the tokenizer of a checkpoint folder, its chat format and the ids that end a reply."""

from __future__ import annotations

import os
from pathlib import Path

from . import identify, templates
from .bpe import load_tiktoken, load_tokenizer_json, looks_like_tiktoken
from .errors import ConvertError
from .jsonfile import Settings, load_object
from .sentencepiece_model import load_ice_text, load_sentencepiece
from .vocabulary import Vocabulary

ICE_TEXT = "ice_text.model"  # the tokenizer of ChatGLM-6B
MAX_MODEL_BYTES = 64 << 20
MAX_TEMPLATE_BYTES = 1 << 20


def load_tokenizer(folder: Path, config: Settings, chat_format: str | None) -> tuple[Vocabulary, str, str]:
    """(vocabulary, chat format, chat template) of `folder`.

    `chat_format` overrides what the files say. The format is empty when the model has none, as base models.
    """
    tokenizer_config = optional_settings(folder / "tokenizer_config.json")
    template = _chat_template(folder, tokenizer_config)
    path = _tokenizer_file(folder, config)
    notes: list[str] = []
    if path.name == "tokenizer.json":
        vocabulary = load_tokenizer_json(path, tokenizer_config)
        if chat_format is None:
            chat_format, notes = ("template", []) if template else _format_of_roles(vocabulary)
    elif path.name == ICE_TEXT:
        vocabulary = load_ice_text(path, _read(path), config, tokenizer_config)
        chat_format = chat_format or "chatglm"
    else:
        data = _read(path)
        if looks_like_tiktoken(data):
            vocabulary = load_tiktoken(path, data)
            chat_format = chat_format or "glm4"
        else:
            if chat_format is None:
                chat_format, notes = identify.identify_sentencepiece_model(
                    folder, config, tokenizer_config, template
                )
            vocabulary = load_sentencepiece(path, data, chat_format)
    vocabulary.notes += notes
    check_chat_format(vocabulary, chat_format)
    if chat_format == "template" and not template:
        raise ConvertError(f"{tokenizer_config.path}: chat format template needs a chat_template")
    _end_ids(vocabulary, folder, config)
    return vocabulary, chat_format, template or templates.BY_FORMAT.get(chat_format, "")


def check_chat_format(vocabulary: Vocabulary, chat_format: str) -> None:
    """Raises ConvertError when prompts of this format cannot be made of these tokens."""
    if vocabulary.position_ids:
        known: tuple[str, ...] = ("chatglm",)
    else:
        known = ("chatglm2", "chatglm3") if vocabulary.model == "llama" else ("glm4", "template", "")
    if chat_format not in known:
        raise ConvertError(f"{vocabulary.path}: chat format {chat_format} does not go with this tokenizer")


def _tokenizer_file(folder: Path, config: Settings) -> Path:
    # Beside the original layout a tokenizer.json is a conversion; tokenizer.model is what was published.
    names = ["tokenizer.json", "tokenizer.model", ICE_TEXT]
    if config.text("model_type") == "chatglm":
        names.reverse()
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise ConvertError(f"{folder}: no tokenizer here; expected {' or '.join(names)}")


def optional_settings(path: Path) -> Settings:
    """The settings in `path`; empty when there is no such file."""
    return Settings(load_object(path) if path.is_file() else {}, path)


def _end_ids(vocabulary: Vocabulary, folder: Path, config: Settings) -> None:
    """Adds the end-of-text ids of config.json and generation_config.json to those of the tokenizer.

    SentencePiece models are left alone: ChatGLM3's configs name only one of its three.
    """
    if vocabulary.model == "llama":
        return
    ids: list[int] = []
    for settings in (config, optional_settings(folder / "generation_config.json")):
        value = settings.get("eos_token_id")
        for i in value if isinstance(value, list) else [] if value is None else [value]:
            if not isinstance(i, int) or isinstance(i, bool):
                raise settings.wrong("eos_token_id", "token ids")
            vocabulary.check_ids([i], str(settings.path))
            ids.append(i)
    if not ids:
        ids = [vocabulary.ids[name] for name in ("eos", "eot", "eom") if name in vocabulary.ids]
    vocabulary.eos_ids = list(dict.fromkeys(ids))
    if not vocabulary.eos_ids:
        vocabulary.notes.append("no end-of-text token is known; replies end only at their length limit")
    elif "eos" not in vocabulary.ids:
        vocabulary.ids["eos"] = vocabulary.eos_ids[0]
        vocabulary.ids.setdefault("bos", vocabulary.eos_ids[0])


def _format_of_roles(vocabulary: Vocabulary) -> tuple[str, list[str]]:
    if vocabulary.find("<|user|>") is not None and vocabulary.find("<|assistant|>") is not None:
        return "glm4", [
            "the checkpoint has no chat template; GLM-4's chat format is used for its role tokens"
        ]
    return "", ["the checkpoint has no chat template: the file completes text, but has no chat format"]


def _chat_template(folder: Path, tokenizer_config: Settings) -> str:
    """The template as text: from its own file (recent transformers) or from tokenizer_config.json."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        data = _read(path, MAX_TEMPLATE_BYTES)
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ConvertError(f"{path}: is not UTF-8 text (byte {error.start})") from None
    value = tokenizer_config.get("chat_template")
    if isinstance(value, list):  # several named ones
        named = {t.get("name"): t.get("template") for t in value if isinstance(t, dict)}
        value = named.get("default", next(iter(named.values()), None))
    return value if isinstance(value, str) else ""


def _read(path: Path, limit: int = MAX_MODEL_BYTES) -> bytes:
    try:
        with open(path, "rb") as file:
            # Asked for more than there is, Python would allocate all of it.
            data = file.read(min(limit, os.fstat(file.fileno()).st_size) + 1)
    except OSError as error:
        raise ConvertError(f"{path}: cannot be read: {error.strerror or error}") from None
    if len(data) > limit:
        raise ConvertError(f"{path}: is larger than the {limit >> 20} MiB that such a file may have")
    return data
