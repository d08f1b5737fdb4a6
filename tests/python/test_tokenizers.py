"""The real tokenizers, read from GGUF files, against what the originals give."""

from __future__ import annotations

import pytest
from golden import as_chat, load_json

from chatglm_cpp import InvalidArgument, Tokenizer

NAMES = ["chatglm2", "chatglm3", "glm4"]


@pytest.fixture(scope="module", params=NAMES)
def tokenizer(request, vocabulary):
    return Tokenizer(vocabulary(request.param))


@pytest.fixture
def cases(tokenizer, fixtures):
    """cases(file) are the golden cases of the tokenizer at hand."""
    folder = fixtures / "tokenizers" / tokenizer.chat_format
    return lambda file: load_json(folder / file)


def test_encode(tokenizer, cases):
    goldens = cases("encode.json")
    assert tokenizer.prefix_ids == goldens["prefix"]
    for case in goldens["cases"]:
        ids = tokenizer.encode_plain(case["text"])
        assert ids == case["ids"], repr(case["text"])
        assert tokenizer.encode(case["text"]) == [*goldens["prefix"], *ids]
        assert tokenizer.decode(ids) == case["decoded"], repr(case["text"])


def test_encode_special(tokenizer, cases):
    """HF's encode finds special tokens in the text of GLM-4; ChatGLM3 can be told to find the role tokens."""
    key = {"glm4": "hf_ids", "chatglm3": "ids_encode_special_tokens"}.get(tokenizer.chat_format)
    if key is None:
        pytest.skip("ChatGLM2 never finds special tokens in a text")
    found = [case for case in cases("encode.json")["cases"] if key in case]
    assert found
    for case in found:
        assert tokenizer.encode_special(case["text"]) == case[key], repr(case["text"])


def test_decode(tokenizer, cases):
    """ChatGLM2's decode leaves special tokens out, the others spell them."""
    spells_special_tokens = tokenizer.chat_format != "chatglm2"
    for case in cases("decode.json")["cases"]:
        if case["text"] is None:  # the original raises
            tokenizer.decode(case["ids"])
            continue
        text = tokenizer.decode(case["ids"], skip_special_tokens=not spells_special_tokens)
        assert text == case.get("text_no_join_space", case["text"]), case["ids"]
        if "text_skip_special" in case:
            assert tokenizer.decode(case["ids"]) == case["text_skip_special"], case["ids"]


def test_chat_prompts(tokenizer, cases):
    n = 0
    for case in cases("chat.json")["cases"]:
        if tokenizer.chat_format == "glm4" and any("tools" in m for m in case["messages"]):
            continue  # GLM-4's long descriptions of tools are a matter of the caller
        if False in case.get("options", {}).values():
            continue  # parts of a prompt
        assert tokenizer.apply_chat_template(as_chat(case["messages"])) == case["ids"], case["messages"]
        n += 1
    assert n >= 10


def test_ids_outside_the_vocabulary_are_an_error(tokenizer):
    for bad in (-1, tokenizer.vocab_size, 2**40):
        with pytest.raises(InvalidArgument, match=str(bad)):
            tokenizer.decode([0, bad])


def test_half_a_surrogate_pair_is_an_error(tokenizer):
    with pytest.raises(InvalidArgument, match=r"U\+D800 at position 1"):
        tokenizer.encode("a\ud800")


def test_a_cut_prompt_keeps_its_first_tokens(tokenizer):
    ids = tokenizer.encode("The quick brown fox jumps over the lazy dog.")
    n = len(tokenizer.prefix_ids)
    cut = tokenizer.encode("The quick brown fox jumps over the lazy dog.", 6)
    assert cut == ids[:n] + ids[-(6 - n) :]


@pytest.fixture(scope="module", params=[0, 20000])
def first_generation(request, vocabulary, fixtures):
    """The tokenizer of ChatGLM-6B, whose ids begin after those for images, and its golden cases."""
    goldens = load_json(
        fixtures / "tokenizers" / "chatglm" / f"goldens_num_image_tokens_{request.param}.json"
    )
    return Tokenizer(vocabulary("chatglm", request.param)), goldens


def test_the_first_generation_encodes(first_generation):
    tokenizer, goldens = first_generation
    end = [goldens["special"]["[gMASK]"], goldens["special"]["<sop>"]]
    assert (tokenizer.prefix_ids, tokenizer.suffix_ids) == ([], end)
    assert tokenizer.eos_ids == [goldens["special"]["<eop>"]]
    for case in goldens["encode"]:
        assert tokenizer.encode_plain(case["text"]) == case["ids"], repr(case["text"])
        assert tokenizer.encode(case["text"]) == case["ids"] + end
        assert tokenizer.decode(case["ids"]) == case["decoded"], repr(case["text"])


def test_the_first_generation_decodes(first_generation):
    """As its SentencePiece model does; transformers' layer above changes spaces beside special tokens."""
    tokenizer, goldens = first_generation
    for case in goldens["decode"]:
        assert tokenizer.decode(case["ids"]) == case.get("sp_decode", case["text"]), case["ids"]


def test_prompts_of_the_first_generation(first_generation):
    tokenizer, goldens = first_generation
    assert goldens["chat"]
    for case in goldens["chat"]:
        assert tokenizer.apply_chat_template(as_chat(case["messages"])) == case["ids"], case["messages"]
