"""Text to token ids and back."""

from __future__ import annotations

from collections.abc import Iterable

from . import _C
from ._C import ChatMessage, InvalidArgument
from .messages import Conversation, check_text, to_messages, to_token_ids
from .model_file import engine_path
from .tools import ToolLike, to_tools


class Tokenizer:
    """The tokenizer of a model file; `pipeline.tokenizer`, or Tokenizer("model.gguf") without the weights.

    Raises:
        FileNotFoundError: there is no such file.
        FormatError: it is no GGUF file, or has no tokenizer that is known.
    """

    def __init__(self, source: _C.Tokenizer | str) -> None:
        self._engine = source if isinstance(source, _C.Tokenizer) else _C.load_tokenizer(engine_path(source))

    def encode(self, text: str, max_length: int | None = None) -> list[int]:
        """Ids of `text` after the tokens that every prompt of the model starts with ([gMASK] sop);
        ChatGLM-6B's come at the end.

        The spelling of a special token inside `text` is ordinary text. With `max_length`, a longer result
        keeps the first tokens of the prompt and then its last ones.

            pipeline.tokenizer.encode("你好")
        """
        return self._cut(self._engine.encode(check_text(text, "text")), max_length)

    def encode_plain(self, text: str) -> list[int]:
        """Ids of `text` alone, without the first tokens of a prompt."""
        return self._engine.encode_plain(check_text(text, "text"))

    def encode_special(self, text: str) -> list[int]:
        """Ids of `text` in which every spelling of a special token ("<|user|>") becomes that token.

        Never give it text of a stranger: it could end its own turn and speak for others.
        """
        return self._engine.encode_special(check_text(text, "text"))

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """Text of `ids`. Bytes that form no character become U+FFFD.

        Raises:
            InvalidArgument: an id is outside the vocabulary.
        """
        return self._engine.decode(to_token_ids(ids, self.vocab_size), skip_special_tokens)

    def apply_chat_template(
        self,
        messages: Conversation,
        max_length: int | None = None,
        *,
        tools: Iterable[ToolLike] | None = None,
    ) -> list[int]:
        """Ids of the whole prompt for a conversation; `messages`, `tools` and errors as in Pipeline.chat."""
        ids = self._engine.apply_chat_template(to_messages(messages), to_tools(tools))
        return self._cut(ids, max_length)

    def decode_message(self, ids: Iterable[int], *, tools: Iterable[ToolLike] | None = None) -> ChatMessage:
        """The assistant's message in the ids of a reply: the thought of a reasoning model apart from its
        answer, tool calls parsed. `tools` are those that the prompt told of."""
        return self._engine.decode_message(to_token_ids(ids, self.vocab_size), to_tools(tools))

    def token_bytes(self, token_id: int, skip_special_tokens: bool = True) -> bytes:
        """The bytes that one token stands for inside a text."""
        (token_id,) = to_token_ids([token_id], self.vocab_size, "token_id")
        return self._engine.token_bytes(token_id, skip_special_tokens)

    def token_id(self, spelling: str) -> int | None:
        """The id of a token by its exact spelling, special tokens included, or None."""
        return self._engine.token_id(check_text(spelling, "spelling"))

    def is_special(self, token_id: int) -> bool:
        """Whether a token is a mark of the format and no text."""
        (token_id,) = to_token_ids([token_id], self.vocab_size, "token_id")
        return self._engine.is_special(token_id)

    @property
    def vocab_size(self) -> int:
        return self._engine.vocab_size

    @property
    def prefix_ids(self) -> list[int]:
        """The tokens that every prompt starts with."""
        return self._engine.prefix_ids

    @property
    def suffix_ids(self) -> list[int]:
        """The tokens that every prompt of ChatGLM-6B ends with; empty for all others."""
        return self._engine.suffix_ids

    @property
    def eos_ids(self) -> list[int]:
        """The tokens that end a reply."""
        return self._engine.eos_ids

    @property
    def chat_format(self) -> str:
        """How conversations become prompts: "chatglm", "chatglm2", "chatglm3", "glm4" or "template"."""
        return self._engine.chat_format

    @property
    def knows_tools(self) -> bool:
        """Whether prompts of this model have a place for tools."""
        return self._engine.knows_tools

    def _cut(self, ids: list[int], max_length: int | None) -> list[int]:
        if max_length is None:
            return ids
        if max_length < 1:
            raise InvalidArgument(f"max_length is {max_length}; it must be at least 1.")
        if len(ids) <= max_length:
            return ids
        prefix = self.prefix_ids
        keep = len(prefix) if len(prefix) < max_length and ids[: len(prefix)] == prefix else 0
        return ids[:keep] + ids[len(ids) - (max_length - keep) :]

    def __repr__(self) -> str:
        return f"Tokenizer(vocab_size={self.vocab_size}, chat_format={self.chat_format!r})"
