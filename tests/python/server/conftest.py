"""Servers that the tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from chatglm_cpp import Pipeline

if TYPE_CHECKING:
    import httpx
    from served import Server


@pytest.fixture(scope="session")
def server(model_path: Path) -> Iterator[Server]:
    """A server of the small model."""
    from served import serving

    with (
        Pipeline(model_path) as pipeline,
        serving(pipeline, model_name="small", model_alias="tiny") as server,
    ):
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client
