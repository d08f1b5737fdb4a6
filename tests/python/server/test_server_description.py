"""The server does what its OpenAPI description says, whatever is asked."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from served import TIMEOUT, serving

from chatglm_cpp import Pipeline

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what its libraries deprecate of each other
    schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
    from hypothesis import HealthCheck, Phase, given, settings
    from schemathesis import GenerationMode, checks

OPERATIONS = [
    ("/", "GET"),
    ("/health", "GET"),
    ("/metrics", "GET"),
    ("/tokenize", "POST"),
    ("/detokenize", "POST"),
    ("/v1/models", "GET"),
    ("/v1/models/{model}", "GET"),
    ("/v1/chat/completions", "POST"),
    ("/v1/completions", "POST"),
    ("/v1/embeddings", "POST"),
    ("/v1/responses", "POST"),
    ("/v1/responses/{response_id}", "GET"),
    ("/v1/responses/{response_id}", "DELETE"),
    ("/v1/messages", "POST"),
    ("/v1/messages/count_tokens", "POST"),
    ("/", "POST"),
]


@pytest.fixture(scope="module")
def schema(model_path) -> Iterator[Any]:
    # Few tokens, so that much can be asked.
    with Pipeline(model_path) as pipeline, serving(pipeline, max_tokens=4, max_choices=4) as server:
        yield schemathesis.openapi.from_url(f"{server.url}/openapi.json")


def test_all_endpoints_are_described(client):
    paths = client.get("/openapi.json").json()["paths"]
    described = {(path, method.upper()) for path, operations in paths.items() for method in operations}
    assert described >= set(OPERATIONS)
    for operations in paths.values():
        for operation in operations.values():
            assert "422" not in operation["responses"]  # they are answered 400


def test_who_opens_the_address_is_told_what_programs_need(client):
    answer = client.get("/")
    assert answer.headers["content-type"].startswith("text/plain")
    for address in ("/v1\n", "/openapi.json\n"):
        assert f"{str(client.base_url).rstrip('/')}{address}" in answer.text


@pytest.mark.parametrize(
    ("path", "method", "mode"),
    [(*operation, GenerationMode.POSITIVE) for operation in OPERATIONS]
    + [(path, method, GenerationMode.NEGATIVE) for path, method in OPERATIONS if method == "POST"],
)
def test_requests_are_answered_as_described(schema, path, method, mode):
    operation = schema[path][method]
    # Fields that are valid each may contradict each other, and the model may know no tools.
    excluded = [checks.positive_data_acceptance]

    @settings(
        max_examples=25,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        case.call_and_validate(excluded_checks=excluded, timeout=TIMEOUT)

    ask()
