"""The page's server in tests where warnings are errors."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from chatglm_cpp.web import Address, serve

# What Gradio still uses of pandas and Starlette, and event loops that it leaves open when it ends.
GRADIO_WARNINGS = [
    pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting' is deprecated"),
    pytest.mark.filterwarnings("ignore:The copy keyword is deprecated"),
    pytest.mark.filterwarnings("ignore:'HTTP_422_UNPROCESSABLE_ENTITY' is deprecated"),
    pytest.mark.filterwarnings("ignore:unclosed (event loop|<socket):ResourceWarning"),
]


@contextmanager
def serving(pipeline: Any, **options: Any) -> Iterator[Address]:
    """`serve` at any free port."""
    with serve(pipeline, **{"port": 0, **options}) as address:
        yield address
    # Before a test that knows nothing of these warnings.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
