"""Texts to be embedded, as a caller gives them and as the engine takes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import numpy as np

from ._C import ContextLengthError, InvalidArgument
from .messages import check_text, to_token_ids
from .tokenizer import Tokenizer

PoolingName = Literal["mean", "last"]
Text = str | Iterable[int]


def to_texts_of_ids(
    texts: str | Iterable[Text], tokenizer: Tokenizer, vocab_size: int, max_length: int
) -> list[list[int]]:
    """The token ids of each text; a str alone is one text. Raises as Pipeline.embed."""
    if isinstance(texts, str):
        texts = [texts]
    if isinstance(texts, bytes | Mapping) or not isinstance(texts, Iterable):
        raise TypeError(f"texts is a {type(texts).__name__}; give a str or a list of them.")
    result = []
    for i, text in enumerate(texts):
        what = f"texts[{i}]"
        if isinstance(text, str):
            ids = tokenizer.encode(check_text(text, what))
        elif isinstance(text, bytes | Mapping) or not isinstance(text, Iterable):
            # A flat list of ids, which might be meant as one text or as many.
            kind = "an int" if isinstance(text, int | np.integer) else f"a {type(text).__name__}"
            raise TypeError(f"{what} is {kind}; give a str or a list of token ids for each text.")
        else:
            ids = to_token_ids(text, vocab_size, what)
        if not ids:
            raise InvalidArgument(f"{what} has no tokens, so there is nothing to embed.")
        if len(ids) > max_length:
            raise ContextLengthError(
                f"{what} has {len(ids)} tokens, and the model's context has {max_length}. Cut it into parts."
            )
        result.append(ids)
    return result
