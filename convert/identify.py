"""Telling the generations apart that share one config.json: ChatGLM2 and ChatGLM3 differ in the chat format,
and ChatGLM2-6B-32k reads `rope_ratio` in its own way. Python files of a checkpoint are read as text, never
run.
"""

from __future__ import annotations

import re
from pathlib import Path

from .hub import checkpoint_name
from .jsonfile import Settings

CHAT_FORMATS = ("chatglm", "chatglm2", "chatglm3", "glm4", "template")
ROPE_SCALINGS = ("auto", "base", "position")

MAX_SOURCE_BYTES = 1 << 20
_NAMES = (("chatglm3", "chatglm3"), ("chatglm2", "chatglm2"), ("codegeex2", "chatglm2"))


def identify_sentencepiece_model(
    folder: Path, config: Settings, tokenizer_config: Settings, template: str
) -> tuple[str, list[str]]:
    """The chat format of a checkpoint in the original layout with a SentencePiece tokenizer, and sentences
    for the user where it was a guess.

    From the surest clue to the weakest: the name that the publisher wrote into the configs (it survives
    renamed folders and fine-tuning), the chat template, the source of the tokenizer and the model, the name
    of the folder, the container of the weights (ChatGLM2 was published as .bin only).
    """
    for text in (config.text("_name_or_path"), tokenizer_config.text("name_or_path")):
        for name, chat_format in _NAMES:
            if name in text.lower().replace("_", "").replace("-", ""):
                return chat_format, []
    if template:
        return "chatglm3" if "<|" in template else "chatglm2", []
    for file in ("tokenization_chatglm.py", "modeling_chatglm.py"):
        source = _source(folder / file)
        if source:
            roles = "<|observation|>" in source or "<|user|>" in source
            return "chatglm3" if roles else "chatglm2", []
    folder_name = checkpoint_name(folder).lower().replace("_", "").replace("-", "")
    for name, chat_format in _NAMES:
        if name in folder_name:
            return chat_format, [f"chat format {chat_format} was taken from the name of the folder"]
    guess = "chatglm3" if any(folder.glob("*.safetensors")) else "chatglm2"
    return guess, [
        f"nothing in {folder} says whether this is ChatGLM2 or ChatGLM3; chat format {guess} is a guess, "
        "set it with --chat-format"
    ]


def scales_positions(folder: Path, chat_format: str) -> bool:
    """Whether `rope_ratio` divides the positions (ChatGLM2-6B-32k) instead of multiplying the rotary base
    (ChatGLM3, GLM-4)."""
    source = _source(folder / "modeling_chatglm.py")
    if re.search(r"base\s*\*\s*(self\.)?rope_ratio", source):
        return False
    if re.search(r"/\s*(self\.)?rope_ratio", source):
        return True
    return chat_format == "chatglm2"


def _source(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return file.read(MAX_SOURCE_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""
