"""The page's server in tests where warnings are errors."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from chatglm_cpp.web import Address, serve

# A constant of Starlette that Gradio still uses.
GRADIO_WARNING = "ignore:'HTTP_422_UNPROCESSABLE_ENTITY' is deprecated"


@contextmanager
def serving(pipeline: Any, **options: Any) -> Iterator[Address]:
    """`serve` at any free port."""
    with serve(pipeline, **{"port": 0, **options}) as address:
        yield address
    # Gradio leaves an event loop open, of which a later test would be told.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
