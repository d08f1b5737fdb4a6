"""How tokens are chosen: against a reference in NumPy, and through pipelines."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from chatglm_cpp import _C, ChatMessage, GenerationConfig, InvalidArgument, Pipeline

Row = npt.NDArray[np.float64]

MESSAGES = [{"role": "user", "content": "你好，请介绍一下你自己。"}]
N = 10  # the model of the package would go on longer
GREEDY = {"do_sample": False, "max_new_tokens": N}
OFF = {"top_p": 1.0, "temperature": 1.0}


def softmax(x: Row) -> Row:
    weights = np.exp(x - x.max())
    return weights / weights.sum()


def reference(logits: npt.ArrayLike, history: list[int], n_prompt: int, eos: list[int], **settings) -> Row:
    """The distribution of the next token, after the formulas of docs/sampling.md: everything sorted, in
    float64."""
    s = {"top_k": 0, "top_p": 0.7, "min_p": 0.0, "typical_p": 1.0, "temperature": 0.95, **settings}
    x = np.array(logits, dtype=np.float64)
    for i, bias in s.get("logit_bias", {}).items():
        x[i] += bias
    n = s.get("penalty_last_n", -1)
    begin = 0 if n < 0 else max(0, len(history) - n)
    penalty = s.get("repetition_penalty", 1.0)
    for i in set(history[begin:]):
        x[i] = x[i] / penalty if x[i] > 0 else x[i] * penalty
    said = history[max(begin, n_prompt) :]
    for i in set(said):
        x[i] -= s.get("frequency_penalty", 0.0) * said.count(i) + s.get("presence_penalty", 0.0)
    if s.get("ignore_eos") or len(history) - n_prompt < s.get("min_new_tokens", 0):
        x[eos] = -np.inf
    if not s.get("do_sample", True) or s["temperature"] == 0:
        return np.eye(len(x))[np.argmax(x)]
    x = x / s["temperature"]
    order = np.argsort(-x, kind="stable")
    if s["top_k"]:
        x[order[s["top_k"] :]] = -np.inf
    p = softmax(x)
    before = np.cumsum(p[order]) - p[order]
    if s["top_p"] < 1:
        p[order[(before >= s["top_p"]) & (np.arange(len(p)) > 0)]] = 0
    p[p < s["min_p"] * p.max()] = 0
    p /= p.sum()
    if s["typical_p"] < 1:
        with np.errstate(divide="ignore", invalid="ignore"):
            information = np.where(p > 0, -np.log(p), np.inf)
            distance = np.abs(information - np.nansum(np.where(p > 0, p * information, 0)))
        near = np.argsort(distance, kind="stable")
        before = np.cumsum(p[near]) - p[near]
        p[near[(before >= s["typical_p"]) & (np.arange(len(p)) > 0)]] = 0
        p /= p.sum()
    if s.get("xtc_probability"):
        rest = p.copy()
        top = [i for i in order if p[i] >= s.get("xtc_threshold", 0.1)]
        rest[top[:-1]] = 0
        p = (1 - s["xtc_probability"]) * p + s["xtc_probability"] * rest / rest.sum()
    return p / p.sum()


ALONE = [
    {},
    {**OFF},
    {"do_sample": False},
    {"temperature": 0.0},
    {**OFF, "temperature": 0.3},
    {**OFF, "temperature": 3.0},
    {**OFF, "top_k": 1},
    {**OFF, "top_k": 40},
    {**OFF, "top_k": 10**6},
    {**OFF, "top_p": 0.0},
    {**OFF, "top_p": 0.2},
    {**OFF, "top_p": 0.95},
    {**OFF, "min_p": 0.1},
    {**OFF, "min_p": 1.0},
    {**OFF, "typical_p": 0.2},
    {**OFF, "typical_p": 0.9},
    {**OFF, "repetition_penalty": 1.7},
    {**OFF, "repetition_penalty": 0.6},
    {**OFF, "presence_penalty": 1.5},
    {**OFF, "frequency_penalty": 0.7},
    {**OFF, "frequency_penalty": -0.7},
    {**OFF, "repetition_penalty": 1.3, "frequency_penalty": 0.7, "penalty_last_n": 6},
    {**OFF, "repetition_penalty": 1.3, "presence_penalty": 0.7, "penalty_last_n": 0},
    {**OFF, "logit_bias": {3: 2.5, 4: -np.inf, 5: -1.0}},
    {**OFF, "xtc_probability": 1.0, "xtc_threshold": 0.05},
    {**OFF, "xtc_probability": 0.3, "xtc_threshold": 0.02},
    {"xtc_probability": 1.0, "xtc_threshold": 0.9},
    {**OFF, "ignore_eos": True},
    {**OFF, "min_new_tokens": 7},
    {**OFF, "min_new_tokens": 6},
]


def combination(random: np.random.Generator) -> dict:
    return {
        "temperature": float(random.uniform(0.2, 2)),
        "top_k": int(random.integers(0, 100)),
        "top_p": float(random.uniform(0.05, 1)),
        "min_p": float(random.uniform(0, 0.2)),
        "typical_p": float(random.uniform(0.2, 1)),
        "xtc_probability": float(random.integers(0, 2) * random.uniform(0, 1)),
        "xtc_threshold": float(random.uniform(0.01, 0.3)),
        "repetition_penalty": float(random.uniform(0.7, 1.5)),
        "presence_penalty": float(random.uniform(-1, 1)),
        "frequency_penalty": float(random.uniform(-1, 1)),
        "penalty_last_n": int(random.integers(-1, 20)),
        "logit_bias": {int(i): float(random.normal()) for i in random.integers(0, 50, 3)},
    }


@pytest.mark.parametrize("size", [50, 5000])
def test_the_distribution_is_the_reference_s(size: int):
    random = np.random.default_rng(size)
    settings = ALONE + [combination(random) for _ in range(60)]
    for s in settings:
        logits = random.normal(0, 2.5, size).astype(np.float32)
        history = random.integers(0, 40, 14).tolist()
        eos = [1, 7]
        ours = _C.sampling_distribution(logits, GenerationConfig(**s), history, 8, eos)
        theirs = reference(logits, history, 8, eos, **s)
        assert abs(ours.sum() - 1) < 1e-6
        np.testing.assert_allclose(ours, theirs, rtol=3e-5, atol=1e-9, err_msg=str(s))


@pytest.mark.parametrize(
    "settings",
    [
        {"top_p": 1.0, "temperature": 1.5},
        {"top_p": 0.7},
        {"top_p": 0.02},
        {"top_p": 0.9, "min_p": 0.1},
        {"top_p": 0.9, "top_k": 20},
        {"top_p": 0.95, "typical_p": 0.6},
        {"top_p": 0.95, "xtc_probability": 0.5, "xtc_threshold": 0.05},
        {"top_p": 0.5, "min_p": 0.3, "typical_p": 0.5, "top_k": 30},
    ],
    ids=str,
)
def test_draws_have_the_distribution(settings: dict):
    """Pearson's test; the seed is fixed, so it gives the same answer every time."""
    logits = np.random.default_rng(5).normal(0, 1.5, 1200).astype(np.float32)
    config = GenerationConfig(seed=11, **settings)
    expected = _C.sampling_distribution(logits, config)
    n = 40000
    counts = np.bincount(_C.draw_tokens(logits, config, n), minlength=len(logits))
    assert counts[expected == 0].sum() == 0
    # Tokens with fewer than 5 expected draws count as one.
    common = expected * n >= 5
    observed = np.append(counts[common], counts[~common].sum())
    hoped = np.append(expected[common], expected[~common].sum()) * n
    observed, hoped = observed[hoped > 0], hoped[hoped > 0]
    freedom = len(hoped) - 1
    statistic = ((observed - hoped) ** 2 / hoped).sum()
    assert statistic < freedom + 4 * np.sqrt(2 * freedom) + 4  # four standard deviations


def test_equal_logits_are_equally_likely_and_cut_by_their_ids():
    p = _C.sampling_distribution(np.zeros(4000, np.float32), GenerationConfig(top_p=0.5, temperature=1.0))
    assert (p[:2000] == 1 / 2000).all() and (p[2000:] == 0).all()


def test_stop_texts_end_the_answer_and_are_no_part_of_it(shared_pipeline: Pipeline):
    text = shared_pipeline.generate("今天", **GREEDY)
    for begin, end in ((3, 6), (5, 6), (2, len(text))):
        stop = text[begin:end]
        cut = text.index(stop)
        stopped = shared_pipeline.generate("今天", stop=stop, **GREEDY)
        assert stopped == text[:cut]
        assert stopped.finish_reason == "stop"
        with shared_pipeline.generate("今天", stop=["not in it", stop], stream=True, **GREEDY) as stream:
            assert "".join(stream) == text[:cut]
        assert stream.usage.finish_reason == "stop"
    unchanged = shared_pipeline.generate("今天", stop="no such text", **GREEDY)
    assert unchanged == text and unchanged.finish_reason == "length"


def test_stop_texts_in_a_chat(shared_pipeline: Pipeline):
    reply = shared_pipeline.chat(MESSAGES, **GREEDY)
    assert reply.finish_reason == "length"
    stop = reply.content[4:7]
    cut = reply.content.index(stop)
    stopped = shared_pipeline.chat(MESSAGES, stop=[stop], **GREEDY)
    assert stopped.content == reply.content[:cut] and stopped.finish_reason == "stop"
    deltas = list(shared_pipeline.chat(MESSAGES, stop=[stop], stream=True, **GREEDY))
    assert "".join(delta.content for delta in deltas) == stopped.content
    assert shared_pipeline.merge_streaming_messages(deltas) == stopped


def test_stop_tokens_end_a_reply_as_the_model_s_own_do(shared_pipeline: Pipeline):
    with shared_pipeline.chat(MESSAGES, stream=True, **GREEDY) as stream:
        ids = [i for delta in stream for i in delta.token_ids]
    last = next(i for n, i in enumerate(ids) if n >= 4 and i not in ids[:n])
    n = ids.index(last)
    options = {**GREEDY, "stop_token_ids": [last]}
    with shared_pipeline.chat(MESSAGES, stream=True, **options) as stream:
        assert [i for delta in stream for i in delta.token_ids] == ids[:n]
    assert stream.usage.finish_reason == "stop"
    # As an end token it has to wait; as one of the model's own it never comes.
    with shared_pipeline.chat(MESSAGES, stream=True, min_new_tokens=n + 2, **options) as stream:
        waited = [i for delta in stream for i in delta.token_ids]
    assert waited[:n] == ids[:n] and len(waited) >= n + 2 and last not in waited


def test_ignore_eos_and_min_new_tokens_keep_a_reply_going(shared_pipeline: Pipeline):
    likes_ends = {i: 1000.0 for i in shared_pipeline.tokenizer.eos_ids}
    options = {**GREEDY, "logit_bias": likes_ends}
    assert shared_pipeline.generate("今天", **options).finish_reason == "stop"
    for more, n in (({}, 0), ({"min_new_tokens": 5}, 5), ({"ignore_eos": True}, N)):
        with shared_pipeline.generate("今天", stream=True, **options, **more) as stream:
            list(stream)
        assert stream.usage.new_tokens == n


def test_logprobs_are_those_of_the_model(shared_pipeline: Pipeline):
    prompt = shared_pipeline.tokenizer.encode("今天")
    options = {"max_new_tokens": 8, "seed": 3, "temperature": 2.0, "top_p": 1.0}
    with shared_pipeline.generate(prompt, stream=True, logprobs=3, **options) as stream:
        text = "".join(stream)
    found = stream.logprobs
    ids = [entry.token_id for entry in found]
    logits = shared_pipeline.logits(prompt + ids).astype(np.float64)
    expected = logits - np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1, keepdims=True))
    expected -= logits.max(1, keepdims=True)
    for n, entry in enumerate(found):
        row = expected[len(prompt) - 1 + n]
        assert entry.logprob == pytest.approx(row[entry.token_id], abs=1e-4)
        assert [i for i, _ in entry.top] == np.argsort(-row, kind="stable")[:3].tolist()
        assert [p for _, p in entry.top] == pytest.approx(np.sort(row)[:-4:-1].tolist(), abs=1e-4)
    whole = shared_pipeline.generate(prompt, logprobs=True, **options)
    assert whole == text and whole.finish_reason == "length"
    assert [entry.logprob for entry in whole.logprobs] == [entry.logprob for entry in found]
    assert whole.logprobs[0].top == []
    assert shared_pipeline.generate(prompt, **options).logprobs is None


def test_a_chat_s_logprobs_go_with_its_tokens(shared_pipeline: Pipeline):
    for delta in shared_pipeline.chat(MESSAGES, stream=True, logprobs=True, **GREEDY):
        assert [entry.token_id for entry in delta.logprobs] == delta.token_ids
    deltas = list(shared_pipeline.chat(MESSAGES, stream=True, logprobs=2, **GREEDY))
    reply = shared_pipeline.chat(MESSAGES, logprobs=2, **GREEDY)
    assert shared_pipeline.merge_streaming_messages(deltas).logprobs == reply.logprobs
    assert len(reply.logprobs) == N and all(len(entry.top) == 2 for entry in reply.logprobs)
    assert shared_pipeline.chat(MESSAGES, **GREEDY).logprobs is None
    assert ChatMessage("user", "").logprobs is None and ChatMessage("user", "").finish_reason is None


def test_a_reply_with_a_seed_is_the_same_beside_others(shared_pipeline: Pipeline):
    options = {"temperature": 2.0, "top_p": 0.9, "max_new_tokens": 12}
    alone = [shared_pipeline.generate("今天", seed=seed, **options) for seed in range(3)]
    streams = [shared_pipeline.generate("今天", seed=seed, stream=True, **options) for seed in range(3)]
    together = ["", "", ""]
    while any(pieces := [next(stream, None) for stream in streams]):
        together = [text + (piece or "") for text, piece in zip(together, pieces, strict=True)]
    assert together == alone and len(set(alone)) > 1
    config = GenerationConfig(seed=5)
    assert [config.alternative(i).seed for i in range(3)] == [5, 6, 7]


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"min_p": 1.5}, InvalidArgument, "min_p is 1.5"),
        ({"typical_p": 0.0}, InvalidArgument, "typical_p is 0"),
        ({"xtc_probability": 1.5}, InvalidArgument, "xtc_probability is 1.5"),
        ({"xtc_threshold": 0.0}, InvalidArgument, "xtc_threshold is 0"),
        ({"presence_penalty": float("nan")}, InvalidArgument, "presence_penalty"),
        ({"penalty_last_n": -2}, InvalidArgument, "penalty_last_n is -2"),
        ({"logit_bias": {10**7: 1.0}}, InvalidArgument, "logit_bias names token 10000000"),
        ({"logit_bias": {5: float("nan")}}, InvalidArgument, "logit_bias of token 5"),
        ({"logit_bias": [1]}, TypeError, "logit_bias is a list"),
        ({"logit_bias": {"a": 1}}, TypeError, "token id in logit_bias is a str"),
        ({"stop": ""}, InvalidArgument, "empty"),
        ({"stop": ["a", 1]}, TypeError, r"stop\[1\] is a int"),
        ({"stop": b"a"}, TypeError, "stop is a bytes"),
        ({"stop": "\ud800"}, InvalidArgument, r"stop\[0\] holds U\+D800"),
        ({"stop_token_ids": [-1]}, InvalidArgument, "stop_token_ids names token -1"),
        ({"stop_token_ids": 5}, TypeError, "stop_token_ids is a int"),
        ({"min_new_tokens": -1}, InvalidArgument, "min_new_tokens is -1"),
        ({"min_new_tokens": 5, "max_new_tokens": 4}, InvalidArgument, "min_new_tokens is 5"),
        ({"logprobs": -2}, InvalidArgument, "logprobs is -2"),
        ({"temprature": 1.0}, TypeError, "temprature"),
    ],
    ids=str,
)
def test_wrong_settings_are_named_at_the_call(shared_pipeline: Pipeline, options, error, match):
    with pytest.raises(error, match=match):
        shared_pipeline.chat(MESSAGES, stream=True, **options)
    with pytest.raises(error, match=match):
        shared_pipeline.generate("今天", **options)


def test_settings_that_rule_out_every_token_are_an_error(pipeline: Pipeline):
    none = {i: -np.inf for i in range(pipeline.tokenizer.vocab_size)}
    with pytest.raises(_C.Error, match="No token can come next"):
        pipeline.generate("今天", logit_bias=none)
    assert pipeline.generate("今天", **GREEDY)
