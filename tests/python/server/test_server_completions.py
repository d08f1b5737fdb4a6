"""Continuations of texts, tokens, and the scores that evaluation tools ask for."""

from __future__ import annotations

import math

import numpy as np
import pytest
from served import error_of, events

PATH = "/v1/completions"
GREEDY = {"temperature": 0, "max_tokens": 12}
OPTIONS = {"do_sample": False, "max_new_tokens": 12}
TEXT = "今天天气很好，我们"


def ask(client, **body):
    response = client.post(PATH, json=body)
    assert response.status_code == 200, response.text
    return response.json()


def log_softmax(logits: np.ndarray) -> np.ndarray:
    logits = logits.astype(np.float64)
    return (
        logits
        - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True))
        - logits.max(-1, keepdims=True)
    )


def test_texts_and_tokens_are_continued(client, shared_pipeline):
    expected = shared_pipeline.generate(TEXT, **OPTIONS)
    ids = shared_pipeline.tokenizer.encode(TEXT)
    for prompt in (TEXT, ids, [TEXT], [ids]):
        found = ask(client, prompt=prompt, **GREEDY)
        assert found["choices"] == [
            {"index": 0, "text": expected, "logprobs": None, "finish_reason": expected.finish_reason}
        ]
        assert found["object"] == "text_completion" and found["usage"]["prompt_tokens"] == len(ids)


def test_many_prompts_with_alternatives_come_in_order(client, shared_pipeline):
    options = {"temperature": 1.5, "top_p": 1.0}
    found = ask(client, prompt=["今天", "明天"], n=2, seed=3, max_tokens=8, **options)
    expected = [
        shared_pipeline.generate(prompt, seed=3 + i, max_new_tokens=8, **options)
        for prompt in ("今天", "明天")
        for i in range(2)
    ]
    assert [choice["text"] for choice in found["choices"]] == expected
    assert [choice["index"] for choice in found["choices"]] == [0, 1, 2, 3]
    prompts = [len(shared_pipeline.tokenizer.encode(prompt)) for prompt in ("今天", "明天")]
    assert found["usage"]["prompt_tokens"] == sum(prompts)


def test_a_stream_has_the_text_and_scores_of_the_whole(client):
    body = {"prompt": TEXT, "echo": True, "logprobs": 2, **GREEDY}
    (whole,) = ask(client, **body)["choices"]
    body |= {"stream": True, "stream_options": {"include_usage": True}}
    chunks = events(client.post(PATH, json=body))
    assert chunks[-1]["choices"] == [] and chunks[-1]["usage"]["completion_tokens"] > 0
    choices = [chunk["choices"][0] for chunk in chunks[:-1]]
    assert "".join(choice["text"] for choice in choices) == whole["text"]
    assert choices[-1]["finish_reason"] == whole["finish_reason"]
    for name, values in whole["logprobs"].items():
        assert [x for c in choices for x in (c["logprobs"] or {}).get(name, [])] == values


def test_a_prompt_is_scored_as_evaluation_tools_ask(client, shared_pipeline):
    """lm-evaluation-harness sends ids, one token to generate, and reads token_logprobs[context:-1]."""
    rows = [shared_pipeline.tokenizer.encode(text) for text in (TEXT, "The weather is fine")]
    found = ask(client, prompt=rows, echo=True, logprobs=1, max_tokens=1, temperature=0, seed=1234)
    for ids, choice in zip(rows, found["choices"], strict=True):
        expected = log_softmax(shared_pipeline.logits(ids))
        scores = choice["logprobs"]
        assert len(scores["tokens"]) == len(ids) + 1
        assert scores["token_logprobs"][0] is None and scores["top_logprobs"][0] is None
        for i in range(1, len(ids)):
            assert math.isclose(scores["token_logprobs"][i], expected[i - 1, ids[i]], abs_tol=1e-5)
            assert math.isclose(max(scores["top_logprobs"][i].values()), expected[i - 1].max(), abs_tol=1e-5)
            assert scores["tokens"][i] in scores["top_logprobs"][i]
        # The token that was generated is the likeliest one.
        assert math.isclose(scores["token_logprobs"][-1], expected[-1].max(), abs_tol=1e-5)
        assert scores["text_offset"] == sorted(scores["text_offset"])


def test_a_text_is_scored_without_the_tokens_before_it(client, shared_pipeline):
    tokenizer = shared_pipeline.tokenizer
    (choice,) = ask(client, prompt=TEXT, echo=True, logprobs=0, max_tokens=0)["choices"]
    assert choice["text"] == TEXT and choice["finish_reason"] == "length"
    ids = tokenizer.encode(TEXT)
    n_before = len(tokenizer.prefix_ids)
    assert n_before > 0
    expected = log_softmax(shared_pipeline.logits(ids))
    scores = [expected[i - 1, ids[i]] for i in range(n_before, len(ids))]
    np.testing.assert_allclose(choice["logprobs"]["token_logprobs"], scores, atol=1e-5)
    assert "".join(choice["logprobs"]["tokens"]).strip() == TEXT


def test_tokens_of_a_part_of_a_character_say_their_bytes(client, shared_pipeline):
    ids = shared_pipeline.tokenizer.encode_plain("龘")  # in bytes
    (choice,) = ask(client, prompt=ids, echo=True, logprobs=0, max_tokens=0)["choices"]
    assert any(token.startswith("bytes:\\x") for token in choice["logprobs"]["tokens"])
    assert choice["logprobs"]["text_offset"][-1] <= len(choice["text"])


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt[0]"),
        ({"prompt": [1.5]}, None),
        ({"prompt": [-1]}, None),
        ({"prompt": [10**7]}, "prompt"),
        ({"prompt": "x", "suffix": "y"}, "suffix"),
        ({"prompt": "x", "best_of": 3}, "best_of"),
        ({"prompt": "x", "max_tokens": 0}, "max_tokens"),
        ({"prompt": "x", "logprobs": 50}, "logprobs"),
        ({"prompt": ["x"] * 100, "n": 100}, "n"),
        ({"prompt": "x", "messages": []}, "messages"),
    ],
)
def test_fields_are_named(client, body, param):
    error = error_of(client.post(PATH, json=body), 400)
    assert param is None or error["param"] == param


def test_texts_become_tokens_and_back(client, shared_pipeline):
    tokenizer = shared_pipeline.tokenizer
    found = client.post("/tokenize", json={"prompt": TEXT}).json()
    assert found == {"count": len(found["tokens"]), "max_model_len": 2048, "tokens": tokenizer.encode(TEXT)}
    plain = client.post("/tokenize", json={"prompt": TEXT, "add_special_tokens": False}).json()["tokens"]
    assert plain == tokenizer.encode_plain(TEXT)
    assert client.post("/detokenize", json={"tokens": plain}).json() == {"prompt": TEXT}
    messages = [{"role": "user", "content": "你好"}]
    found = client.post("/tokenize", json={"messages": messages}).json()
    assert found["tokens"] == tokenizer.apply_chat_template(messages)
    error_of(client.post("/tokenize", json={}), 400)
    error_of(client.post("/tokenize", json={"prompt": "x", "messages": messages}), 400)
    error_of(client.post("/detokenize", json={"tokens": [10**7]}), 400)
