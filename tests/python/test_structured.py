"""Replies of a given format: whatever a model prefers, what it ends is valid."""

from __future__ import annotations

import json
import re
import sys

import numpy as np
import pytest

from chatglm_cpp import _C, Error, GenerationConfig, InvalidArgument, Pipeline
from chatglm_cpp.structured import Formats

pytest.importorskip("llguidance", reason="llguidance is not installed")
jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")

MESSAGES = [{"role": "user", "content": "请用 JSON 回答：北京的天气怎么样？"}]

NAME = {"type": "string", "maxLength": 8}
SCHEMAS = [
    {"type": "boolean"},
    {"type": "null"},
    {"type": "integer", "minimum": -5, "maximum": 120},
    {"type": "integer", "multipleOf": 7, "minimum": 0, "maximum": 99},
    {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
    {"type": "string", "maxLength": 12},
    {"type": "string", "minLength": 3, "maxLength": 5},
    {"type": "string", "pattern": "^[a-f0-9]{8}$"},
    {"type": "string", "format": "date"},
    {"type": "string", "format": "ipv4"},
    {"type": "string", "format": "uuid"},
    {"enum": ["晴", "多云", "雨", None, 3]},
    {"const": {"a": [1, "二"]}},
    {"type": ["integer", "null"], "minimum": 0, "maximum": 9},
    {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 4},
    {
        "type": "array",
        "prefixItems": [{"type": "boolean"}, {"enum": ["a", "b"]}],
        "items": False,
        "minItems": 2,
    },
    {"anyOf": [{"type": "boolean"}, {"type": "string", "maxLength": 3}]},
    {"oneOf": [{"type": "boolean"}, {"type": "null"}]},
    {
        "type": "object",
        "properties": {"name": NAME, "age": {"type": "integer", "minimum": 0, "maximum": 130}},
        "required": ["name", "age"],
        "additionalProperties": False,
    },
    {
        "type": "object",
        "properties": {"城市": NAME, "温度": {"type": "number", "minimum": -60, "maximum": 60}},
        "required": ["温度"],
        "additionalProperties": False,
    },
    {
        "$defs": {"point": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 9},
                            "minItems": 2, "maxItems": 2}},
        "type": "object",
        "properties": {"from": {"$ref": "#/$defs/point"}, "to": {"$ref": "#/$defs/point"}},
        "required": ["from", "to"],
        "additionalProperties": False,
    },
    {
        "allOf": [
            {"type": "object", "properties": {"a": {"type": "boolean"}}},
            {"properties": {"b": {"type": "null"}}, "required": ["a", "b"]},
        ],
        "additionalProperties": True,
        "maxProperties": 2,
    },
    {
        "type": "object",
        "patternProperties": {"^[xy]$": {"type": "boolean"}},
        "additionalProperties": False,
        "minProperties": 1,
        "maxProperties": 1,
    },
]  # fmt: skip

REGEXES = [
    r"\d{3}-\d{4}",
    r"(yes|no|也许)!?",
    r"[一-龥]{2,6}。",
    r"\w{1,8}@\w{1,5}\.(com|cn)",
    r"[^a-z\s]{1,4}x",
    r"^(0|[1-9]\d{0,3})(\.\d{1,2})?$",
    r" ?[ABC](, [ABC]){0,3}",
    r"(\W\S){1,3}",
    r"龘{2}𠮷?",
    "(a|/)\n\\\n[\n]",
    r"",
]


@pytest.fixture(scope="module", params=["chatglm2-real-vocab", "glm-4-9b-chat"])
def random_model(request: pytest.FixtureRequest, converted) -> Pipeline:
    """Random weights: with ChatGLM2's own SentencePiece vocabulary, whose bytes are a fallback, and with a
    byte-level one."""
    return Pipeline(converted(request.param, "f16"))


WILD = {"temperature": 1.5, "top_p": 1.0, "max_new_tokens": 100}


def check_json(text: str, schema: object) -> None:
    format_checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    jsonschema.validate(
        json.loads(text), schema, jsonschema.Draft202012Validator, format_checker=format_checker
    )


def test_json_follows_its_schema(random_model: Pipeline):
    n_complete = 0
    for seed, schema in enumerate(SCHEMAS):
        wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        reply = random_model.chat(MESSAGES, response_format=wanted, seed=seed, **WILD)
        assert reply.tool_calls == [] and reply.reasoning_content == ""
        assert reply.finish_reason in ("stop", "length"), schema
        if reply.finish_reason == "stop":
            check_json(reply.content, schema)
            n_complete += 1
    assert n_complete >= len(SCHEMAS) * 3 / 4


def test_json_mode_gives_an_object(random_model: Pipeline):
    ends = {i: 6.0 for text in '}"' for i in random_model.tokenizer.encode_plain(text)}
    texts = [
        random_model.generate(
            "今天", response_format={"type": "json_object"}, seed=seed, logit_bias=ends, **WILD
        )
        for seed in range(6)
    ]
    complete = [text for text in texts if text.finish_reason == "stop"]
    assert complete
    for text in complete:
        assert isinstance(json.loads(text), dict)


def test_a_regex_is_matched_from_end_to_end(random_model: Pipeline):
    n_complete = 0
    for seed, regex in enumerate(REGEXES):
        text = random_model.generate("今天", regex=regex, seed=seed, **WILD)
        streamed = random_model.chat(MESSAGES, regex=regex, seed=seed, stream=True, **WILD)
        pieces = list(streamed)
        for whole, reason in (
            (text, text.finish_reason),
            ("".join(piece.content for piece in pieces), streamed.usage.finish_reason),
        ):
            if reason == "stop":
                assert re.fullmatch(regex, whole, re.ASCII), (regex, whole)
                n_complete += 1
            else:
                assert reason == "length"
        merged = random_model.merge_streaming_messages(pieces)
        assert merged.content == "".join(piece.content for piece in pieces)
    assert n_complete >= len(REGEXES) * 3 / 2


@pytest.mark.parametrize(
    ("grammar", "regex"),
    [
        ('start: item ("," item)*\nitem: "a" | /[0-9]{1,2}/', r"(a|[0-9]{1,2})(,(a|[0-9]{1,2}))*"),
        ('root ::= "你好" ("，" name)? "！"\nname ::= [a-z]{1,3}', r"你好(，[a-z]{1,3})?！"),
    ],
)
def test_a_grammar_bounds_the_text(random_model: Pipeline, grammar: str, regex: str):
    for seed in range(3):
        text = random_model.generate("今天", grammar=grammar, seed=seed, **WILD)
        assert text.finish_reason == "length" or re.fullmatch(regex, text)
    # A nested one, which no regular expression is.
    text = random_model.generate(
        "今天", grammar='root ::= "(" root ")" | "x"', temperature=0, max_new_tokens=50
    )
    assert text.finish_reason == "length" or re.fullmatch(r"\(*x\)*", text)
    assert text.count("(") == text.count(")") or text.finish_reason == "length"


def test_a_reply_that_is_cut_says_so(random_model: Pipeline):
    array = {"type": "array", "minItems": 9}
    for options in (
        {"regex": "[一-龥]{40}"},
        {"response_format": {"type": "json_schema", "json_schema": array}},
    ):
        reply = random_model.chat(MESSAGES, max_new_tokens=3, **options)
        assert reply.finish_reason == "length", (options, reply)


def test_formats_of_replies_that_run_together_stay_apart(random_model: Pipeline):
    regexes = [r"\d{4}", r"[a-z]{5}", r"[一-龥]{4}"]
    options = {"temperature": 1.5, "top_p": 1.0, "seed": 1, "stream": True}
    streams = [random_model.generate("今天", regex=regex, **options) for regex in regexes]
    together = ["", "", ""]
    while any(pieces := [next(stream, None) for stream in streams]):
        together = [text + (piece or "") for text, piece in zip(together, pieces, strict=True)]
    for regex, text in zip(regexes, together, strict=True):
        assert re.fullmatch(regex, text)


@pytest.mark.parametrize("name", ["chatglm", "chatglm2", "glm4"])
def test_masks_are_exact_for_the_bytes_of_a_real_vocabulary(vocabulary, name: str):
    """Every allowed token leaves the text a beginning of a match, and every other token does not."""
    tokenizer = _C.load_tokenizer(str(vocabulary(name)))
    n = tokenizer.vocab_size
    texts = [tokenizer.token_bytes(i) for i in range(n)]
    # The regular expression allows exactly these texts.
    matches = {"今天，好", "今天！", "昨 day\n", "龘龘"}
    regex = "|".join(re.escape(match) for match in matches)
    constraint = Formats(tokenizer).constraint(None, regex, None)
    encoded = {match.encode() for match in matches}
    random = np.random.default_rng(0)
    said = b""
    complete = False
    while not complete:
        words = np.zeros((n + 31) // 32, np.uint32)
        constraint.fill_mask(memoryview(words).cast("B"))
        allowed = set(np.flatnonzero(np.unpackbits(words.view(np.uint8), bitorder="little")[:n]).tolist())
        fits = {i for i, text in enumerate(texts) if text and any(m.startswith(said + text) for m in encoded)}
        # Where only one text can follow, the library wants its usual tokens.
        assert allowed and allowed <= fits
        if len({m[: len(said) + 1] for m in encoded if m.startswith(said)}) > 1:
            assert allowed == fits
        token = int(random.choice(sorted(allowed)))
        said += texts[token]
        complete = constraint.accept(token)
    assert said in encoded


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "object", "requird": ["a"]}, "'requird'.*did you mean 'required'"),
        ({"type": "object", "properties": {"a": {"typ": "string"}}}, r"\['properties'\]\['a'\]\['typ'\]"),
        ({"type": "strng"}, "strng"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"not": {"type": "string"}}, "not"),
        ({"if": {}, "then": {}}, "if"),
        ({"type": "object", "propertyNames": {"pattern": "a"}}, "propertyNames"),
        ({"type": "array", "contains": {}}, "contains"),
        ({"type": "string", "format": "colour"}, "colour"),
        ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
        ({"type": "string", "pattern": "["}, "regex"),
        ({"oneOf": [{"type": "number"}, {"type": "integer"}]}, "oneOf"),
        ({"$ref": "#/$defs/nothing"}, "nothing"),
        ({"$ref": "https://example.com/schema"}, "example.com"),
        ({"type": "integer", "minimum": 5, "maximum": 2}, "minimum"),
        ({"enum": []}, "empty"),
        ({"type": "array", "items": [{}]}, "prefixItems"),
        ({"x-guidance": {"lenient": True}, "type": "array", "uniqueItems": True}, "x-guidance"),
        (False, "False"),
        ("string", "is a str"),
        ({"const": {1, 2}}, "no JSON"),
        ({"const": float("inf")}, "no JSON"),
    ],
    ids=str,
)
def test_schemas_that_cannot_be_held_to_are_refused(shared_pipeline: Pipeline, schema, words: str):
    wanted = {"type": "json_schema", "json_schema": schema}
    with pytest.raises(InvalidArgument, match=words) as error:
        shared_pipeline.chat(MESSAGES, response_format=wanted)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"regex": "("}, "regex cannot be used"),
        ({"regex": r"(a)\1"}, "backreferences"),
        ({"regex": r"\ba"}, "lookaround"),
        ({"regex": "a*+"}, "regex cannot be used"),
        ({"regex": "[[:alpha:]]"}, "nested set"),
        ({"regex": "(?x) a"}, "flag x"),
        ({"grammar": "start: nothing"}, "nothing"),
        ({"grammar": "start: <|user|>"}, "grammar cannot be used"),
        ({"grammar": "("}, "grammar cannot be used"),
        ({"grammar": "start: start"}, "grammar cannot be used"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"$ref": "#"}}},
            "response_format cannot be used",
        ),
        ({"grammar": ""}, "grammar cannot be used"),
        ({"regex": "a", "grammar": 'start: "a"'}, "regex and grammar are given"),
        ({"response_format": {"type": "xml"}}, "'xml'"),
        ({"response_format": {"type": "json_schema"}}, 'no "json_schema"'),
        ({"response_format": {"type": "json_object", "schema": {}}}, "'schema'"),
        ({"regex": "a", "stop": "a"}, "stop"),
        ({"regex": "a", "ignore_eos": True}, "ignore_eos"),
    ],
    ids=str,
)
def test_wrong_formats_are_one_sentence(shared_pipeline: Pipeline, options: dict, words: str):
    with pytest.raises(InvalidArgument, match=words) as error:
        shared_pipeline.generate("今天", **options)
    assert "\n" not in str(error.value)


def test_without_the_library_a_format_says_what_to_install(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(Error, match=r"chatglm-cpp\[structured\]"):
        pipeline.generate("今天", regex="a")
    assert pipeline.generate("今天", max_new_tokens=1)


def test_a_reply_that_has_a_format_has_no_thought(thinking_model):
    pipeline = Pipeline(thinking_model)
    reply = pipeline.chat(["你好"], regex="[a-z]{4}", do_sample=False)
    assert re.fullmatch("[a-z]{4}", reply.content) and reply.reasoning_content == ""


def test_an_error_of_a_constraint_ends_the_reply(pipeline: Pipeline):
    class Broken:
        def fill_mask(self, mask: memoryview) -> None:
            raise RuntimeError("broken")

        def accept(self, token: int) -> bool:
            return False

    ids = pipeline.tokenizer.encode("今天")
    generation = pipeline._engine.start(ids, GenerationConfig(), Broken())
    with pytest.raises(RuntimeError, match="broken"):
        generation.step()
    assert generation.done and generation.finish_reason == "cancelled"
    assert pipeline.generate("今天", max_new_tokens=2)
