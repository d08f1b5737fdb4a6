"""Vectors of texts over OpenAI's protocol."""

from __future__ import annotations

import base64

import numpy as np
import pytest
from served import error_of

TEXTS = ["今天天气很好", "hello", ""]


def test_vectors_are_the_pipelines(server, shared_pipeline):
    openai = pytest.importorskip("openai", reason="openai is not installed")
    expected = shared_pipeline.embed(TEXTS)
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="-", max_retries=0) as ask:
        # The client asks for base64 unless it is told otherwise.
        for options in ({}, {"encoding_format": "float"}):
            found = ask.embeddings.create(model="small", input=TEXTS, **options)
            vectors = np.array([one.embedding for one in found.data], dtype=np.float32)
            np.testing.assert_array_equal(vectors, expected)
        assert [one.index for one in found.data] == [0, 1, 2]
        n_tokens = sum(len(shared_pipeline.tokenizer.encode(text)) for text in TEXTS)
        assert found.usage.prompt_tokens == found.usage.total_tokens == n_tokens


def test_every_form_of_input_is_understood(client, shared_pipeline):
    ids = shared_pipeline.tokenizer.encode("你好")
    expected = shared_pipeline.embed("你好")
    for given in ("你好", ["你好"], ids, [ids]):
        (one,) = client.post("/v1/embeddings", json={"input": given}).json()["data"]
        np.testing.assert_array_equal(np.float32(one["embedding"]), expected)
    body = {"input": "你好", "pooling": "last", "normalize": False, "encoding_format": "base64"}
    (one,) = client.post("/v1/embeddings", json=body).json()["data"]
    vector = np.frombuffer(base64.b64decode(one["embedding"]), "<f4")
    np.testing.assert_array_equal(vector, shared_pipeline.embed("你好", pooling="last", normalize=False))


def test_langchain_embeds(server, shared_pipeline):
    langchain = pytest.importorskip("langchain_openai", reason="langchain-openai is not installed")
    model = langchain.OpenAIEmbeddings(
        base_url=f"{server.url}/v1", api_key="-", model="small", check_embedding_ctx_length=False
    )
    np.testing.assert_allclose(model.embed_query("你好"), shared_pipeline.embed("你好"), atol=1e-6)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": []}, None),
        ({"input": [10**7]}, "input"),
        ({"input": "x", "dimensions": 3}, "dimensions"),
        ({"input": "x", "encoding_format": "hex"}, "encoding_format"),
        ({"input": ["x"] * 2049}, "input"),
        ({"input": "长" * 5000}, None),
    ],
)
def test_wrong_input_is_named(client, body, param):
    error = error_of(client.post("/v1/embeddings", json=body), 400)
    assert param is None or error["param"] == param
