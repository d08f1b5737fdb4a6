"""The server does what its OpenAPI description says, whatever is asked."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
from served import serving

from chatglm_cpp import Pipeline

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what its libraries deprecate of each other
    schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")

from hypothesis import HealthCheck, settings  # noqa: E402
from schemathesis import checks  # noqa: E402


@pytest.fixture(scope="module")
def schema(model_path) -> Any:
    # Few tokens, so that many questions can be asked.
    with Pipeline(model_path) as pipeline, serving(pipeline, max_tokens=4, max_choices=4) as server:
        yield schemathesis.openapi.from_url(f"{server.url}/openapi.json")


def test_it_is_a_valid_description_of_all_endpoints(client):
    description = client.get("/openapi.json").json()
    assert set(description["paths"]) >= {
        "/health", "/metrics", "/tokenize", "/detokenize", "/v1/models", "/v1/models/{model}",
        "/v1/chat/completions", "/v1/completions", "/v1/embeddings",
    }  # fmt: skip
    for path in description["paths"].values():
        for operation in path.values():
            assert "422" not in operation["responses"]


described = schemathesis.pytest.from_fixture("schema")


@described.parametrize()
@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_requests_are_answered_as_described(case):
    # Fields that are valid each may contradict each other, and the model may know no tools.
    excluded = [checks.positive_data_acceptance]
    case.call_and_validate(excluded_checks=excluded, timeout=TIMEOUT)
