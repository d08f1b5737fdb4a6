"""Replies of a given format: JSON, a JSON Schema, a regular expression or a grammar.

llguidance (MIT licence, no dependencies) says which tokens may come next, and the engine draws among them. It
was chosen over xgrammar because it refuses schemas that it cannot hold to, and because it works on the bytes
of tokens, which is exact for every vocabulary; docs/structured.md has the comparison.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from . import _C
from ._C import Error, InvalidArgument
from .json_schema import check_schema
from .messages import check_text

# Between the parts of JSON: nothing, a space, or a line break and the indentation behind it. Without a bound
# a reply may go on with spaces for ever.
WHITESPACE = r"\x20|\n[\x20\x09]{0,64}"


class Constraint(Protocol):
    """What the engine asks for while it generates one reply."""

    def fill_mask(self, mask: memoryview) -> None:
        """Sets the bit of every token that may come next in 32-bit words that are 0."""

    def accept(self, token: int) -> bool:
        """Takes the next token; True when the text is complete and nothing can follow."""


class Formats:
    """The formats for replies of one tokenizer.

    Raises:
        Error: llguidance is not installed.
    """

    def __init__(self, tokenizer: _C.Tokenizer) -> None:
        try:
            import llguidance
        except ImportError as error:
            raise Error(
                "A reply of a given format needs llguidance; install it with: "
                'pip install "chatglm-cpp[structured]"'
            ) from error
        self._llguidance = llguidance
        wrapper = llguidance.TokenizerWrapper(_Vocabulary(tokenizer))
        self._tokenizer = llguidance.LLTokenizer(wrapper, eos_token=tokenizer.eos_ids)

    def constraint(
        self, response_format: Mapping[str, Any] | None, regex: str | None, grammar: str | None
    ) -> Constraint | None:
        """A constraint for one reply, or None for a free text.

        Raises:
            InvalidArgument: the format is not valid, cannot be held to, or there are several.
            TypeError: something is of the wrong type.
        """
        given = {"response_format": response_format, "regex": regex, "grammar": grammar}
        names = [name for name, value in given.items() if value is not None]
        if len(names) > 1:
            raise InvalidArgument(f"{' and '.join(names)} are given; a reply can have one format.")
        if response_format is not None:
            schema = _schema_of(response_format)
            return None if schema is None else self._compile("response_format", self._json, schema)
        if regex is not None:
            return self._compile("regex", self._regex, _check_regex(check_text(regex, "regex")))
        if grammar is not None:
            return self._compile("grammar", self._grammar, check_text(grammar, "grammar"))
        return None

    def _json(self, schema: Any) -> str:
        options = {"whitespace_pattern": WHITESPACE}
        return self._llguidance.LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=options)

    def _regex(self, regex: str) -> str:
        # Classes are ASCII, as with re.ASCII: what \w is beyond that differs between Python and the library.
        pattern = self._llguidance.regex_to_lark(regex, use_ascii="dws")
        return self._llguidance.LLMatcher.grammar_from_lark(f"start: /{pattern}/")

    def _grammar(self, grammar: str) -> str:
        return self._llguidance.grammar_from("grammar", grammar)

    def _compile(self, name: str, make: Callable[[Any], str], source: Any) -> Constraint:
        try:
            grammar = make(source)
            failed, sentences = self._llguidance.LLMatcher.validate_grammar_with_warnings(
                grammar, self._tokenizer
            )
            # A warning says that something is left out.
            if failed or sentences:
                raise ValueError("; ".join(sentences))
            matcher = self._llguidance.LLMatcher(self._tokenizer, grammar, log_level=0)
            _check(matcher)
            match = _Match(matcher, self._tokenizer.vocab_size)
            match.compute()  # fails where no text at all follows the format
        except (ValueError, Error) as error:
            raise InvalidArgument(f"{name} cannot be used: {_one_line(str(error))}") from None
        except BaseException as error:
            # What the library did not foresee comes as a class of its own, which is no Exception.
            if type(error).__name__ != "PanicException":
                raise
            raise InvalidArgument(f"{name} cannot be used: {_one_line(str(error))}") from None
        return match


class _Match:
    """Implements Constraint."""

    def __init__(self, matcher: Any, vocab_size: int) -> None:
        self._matcher = matcher
        self._words = np.zeros((vocab_size + 31) // 32, dtype=np.uint32)

    def compute(self) -> None:
        """Finds the tokens that may come next."""
        self._matcher.unsafe_compute_mask_ptr(self._words.ctypes.data, self._words.nbytes)
        _check(self._matcher)

    def fill_mask(self, mask: memoryview) -> None:
        self.compute()
        words = np.frombuffer(mask, dtype=np.uint32)  # of the tokens that the model has logits for
        n = min(len(words), len(self._words))
        words[:n] = self._words[:n]

    def accept(self, token: int) -> bool:
        self._matcher.consume_token(token)
        _check(self._matcher)
        stopped: bool = self._matcher.is_stopped()
        return stopped


class _Vocabulary:
    """What llguidance asks of a tokenizer: the bytes of every token and the tokens of a text."""

    def __init__(self, tokenizer: _C.Tokenizer) -> None:
        self._tokenizer = tokenizer
        texts = [tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)]
        # A token without text is no part of any; the byte FF, which is in no UTF-8, marks it.
        self.tokens = [text or b"\xff<%d>" % i for i, text in enumerate(texts)]
        self.special_token_ids = [i for i, text in enumerate(texts) if not text]
        self.eos_token_id = tokenizer.eos_ids[0]
        self.bos_token_id = None
        self._ids = {text: i for i, text in reversed(list(enumerate(texts))) if text}
        self._longest = max(map(len, self._ids))

    def __call__(self, text: bytes | str) -> list[int]:
        """Ids whose bytes are exactly `text`. Where only one text can follow, the library asks for them."""
        data = text.encode() if isinstance(text, str) else bytes(text)
        if not data:
            return []
        # The model's own way of writing it, without the space that SentencePiece puts in front.
        for before in (b"", b"\n"):
            ids = self._tokenizer.encode_plain((before + data).decode("utf-8", "ignore"))
            texts = [self._tokenizer.token_bytes(i) for i in ids]
            for n in range(min(3, len(ids))):
                if b"".join(texts[n:]) == data and b"".join(texts[:n]).lstrip(b" ") == before:
                    return ids[n:]
        return self._longest_first(data)

    def _longest_first(self, data: bytes) -> list[int]:
        ids = []
        while data:
            n = min(self._longest, len(data))
            while data[:n] not in self._ids:
                n -= 1
                if n == 0:
                    raise Error(f"The vocabulary has no token for the byte {data[0]:#04x}.")
            ids.append(self._ids[data[:n]])
            data = data[n:]
        return ids


def _schema_of(response_format: Mapping[str, Any]) -> Any:
    """The JSON Schema that a response format asks for; None for a free text."""
    if not isinstance(response_format, Mapping):
        raise TypeError(f"response_format is a {type(response_format).__name__}; give a dict.")
    kind = response_format.get("type")
    known = {"text": {"type"}, "json_object": {"type"}, "json_schema": {"type", "json_schema"}}
    if kind not in known:
        raise InvalidArgument(
            f"response_format has the type {kind!r}; it can be 'json_object', 'json_schema' or 'text'."
        )
    if unknown := [key for key in response_format if key not in known[kind]]:
        raise InvalidArgument(f"response_format has the key {unknown[0]!r}, which {kind!r} does not know.")
    if kind == "text":
        return None
    if kind == "json_object":
        return {"type": "object"}
    if "json_schema" not in response_format:
        raise InvalidArgument('response_format has no "json_schema".')
    schema = response_format["json_schema"]
    # OpenAI's form has a name and the schema inside.
    if (
        isinstance(schema, Mapping)
        and "schema" in schema
        and set(schema) <= {"name", "description", "strict", "schema"}
    ):
        schema = schema["schema"]
    check_schema(schema)
    if schema is False:
        raise InvalidArgument("response_format cannot be used: nothing satisfies the schema False.")
    return {} if schema is True else schema


# Python and the library read these in different ways: a possessive quantifier is two quantifiers to one of
# them, and Python itself warns of the sets that it may once read differently.
_VERBOSE = re.compile(r"\(\?[a-zA-Z]*x")
_LINE_BREAK = re.compile(r"(\\[^\n])|\\?\n")
_POSSESSIVE = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|([*+?}]\+)", re.DOTALL)


def _check_regex(regex: str) -> str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            re.compile(regex, re.ASCII)
    except (re.error, OverflowError, RecursionError, Warning) as error:
        raise InvalidArgument(f"regex cannot be used: {error}.") from None
    if any(match.group(1) for match in _POSSESSIVE.finditer(regex)):
        raise InvalidArgument("regex cannot be used: it has a possessive quantifier, such as '*+'.")
    if _VERBOSE.search(regex):
        raise InvalidArgument("regex cannot be used: it has the flag x, for white space that does not count.")
    # A grammar has no line breaks within an expression.
    return _LINE_BREAK.sub(lambda match: match.group() if match.group(1) else r"\n", regex)


def _check(matcher: Any) -> None:
    if matcher.is_error():
        raise Error(f"The format of the reply cannot be followed: {_one_line(matcher.get_error())}")


def _one_line(text: str) -> str:
    """The sentence of a message, without the state of the library that may follow it."""
    text = text.split("\n<state>")[0].split("\n<backtrace>")[0]
    return " ".join(text.split())[:500]
