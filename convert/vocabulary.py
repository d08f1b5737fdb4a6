"""What every kind of tokenizer is turned into before it is written."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from .errors import ConvertError

# Token types, numbered alike by SentencePiece, GGUF and llama.cpp.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

# Score of SentencePiece tokens that no text may become. llama.cpp merges towards every token by its spelling,
# the best score first: "sop" at 0 would win over the pieces of "soprano". The lowest real score is -64906.
SCORE_OF_NO_PIECE = -1e6


@dataclass
class Vocabulary:
    """The values of `tokenizer.ggml.*` and `chatglm.tokenizer.*`; docs/file-format.md explains them."""

    path: Path  # the file it came from, for messages
    model: str  # "llama" (SentencePiece) or "gpt2" (byte-level BPE)
    tokens: list[str]
    types: list[int]
    scores: list[float] | None = None
    merges: list[str] | None = None
    pre: str = ""
    merge_by_rank: bool = False
    ignore_merges: bool = False
    sentencepiece: bytes = b""
    add_space_prefix: bool = False
    remove_extra_whitespaces: bool = False
    num_image_tokens: int = 0  # ids in front of the pieces that stand for no text (ChatGLM-6B)
    # llama.cpp's names: bos, eos, unknown, padding, eot, eom
    ids: dict[str, int] = field(default_factory=dict)
    prefix_ids: list[int] = field(default_factory=list)
    suffix_ids: list[int] = field(default_factory=list)
    position_ids: dict[str, int] = field(default_factory=dict)  # ChatGLM-6B: gmask, sop
    eos_ids: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def find(self, spelling: str) -> int | None:
        """Id of a special token."""
        # Special tokens lie behind the pieces, so the search from the end is short.
        for i in range(len(self.tokens) - 1, -1, -1):
            if self.types[i] == CONTROL and self.tokens[i] == spelling:
                return i
        return None

    def pad_to(self, size: int, sizes_from: str = "config.json") -> None:
        """Fills up to the rows of the embedding with entries that never occur in text.

        `sizes_from` says in messages where `size` stands.
        """
        if len(self.tokens) > size:
            raise ConvertError(
                f"{self.path}: {len(self.tokens)} tokens do not fit the vocabulary of {size} in {sizes_from}"
            )
        for i in range(len(self.tokens), size):
            self.tokens.append(f"[PAD{i}]")
            self.types.append(UNUSED)
            if self.scores is not None:
                self.scores.append(SCORE_OF_NO_PIECE)

    def check_ids(self, ids: Iterable[int], what: str) -> None:
        for i in ids:
            if not 0 <= i < len(self.tokens):
                raise ConvertError(f"{what}: token id {i} is outside the vocabulary of {len(self.tokens)}")
