"""How likely a model finds a text that it is given."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..messages import TokenLogprob
from ..pipeline import Pipeline
from .errors import ApiError

# Bytes of the logits of a whole prompt, which the engine gives at once.
_MAX_BYTES = 2 * 2**30


def score(pipeline: Pipeline, ids: Sequence[int], top: int) -> list[TokenLogprob]:
    """A TokenLogprob for each of `ids` but the first, of which nothing is known, with the `top` likeliest
    tokens at its place.

    Raises ApiError when the logits would take too much memory, and what Pipeline.logits raises.
    """
    n_bytes = len(ids) * pipeline.config.vocab_size * 4
    if n_bytes > _MAX_BYTES:
        most = _MAX_BYTES // (pipeline.config.vocab_size * 4)
        raise ApiError(
            400,
            f"The prompt has {len(ids)} tokens; echo with logprobs takes at most {most} of this model.",
            param="prompt",
            code="context_length_exceeded",
        )
    if pipeline.tokenizer.suffix_ids:
        raise ApiError(
            400,
            "This model sees a prompt as a whole: its tokens have no logprobs. Leave out echo.",
            param="echo",
        )
    logits = pipeline.logits(ids)[:-1]
    return [_logprob(row, token, top) for row, token in zip(logits, ids[1:], strict=True)]


def _logprob(row: np.ndarray, token: int, top: int) -> TokenLogprob:
    # As the engine does for replies: the sum in float64.
    largest = float(row.max())
    log_sum = largest + float(np.log(np.exp(row - largest, dtype=np.float64).sum()))
    best: list[int] = []
    if top:
        candidates = np.argpartition(row, -top)[-top:]
        best = [int(i) for i in candidates[np.lexsort((candidates, -row[candidates]))]]
    return TokenLogprob(token, float(row[token]) - log_sum, [(i, float(row[i]) - log_sum) for i in best])
