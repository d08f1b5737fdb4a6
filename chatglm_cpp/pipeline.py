"""A model file, ready to answer."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterable
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
import numpy.typing as npt

from . import _C
from ._C import ChatMessage, ContextLengthError, FormatError, InvalidArgument
from .alternatives import Alternatives
from .chat_prompt import WhenFull
from .embeddings import PoolingName, Text, to_texts_of_ids
from .lora import LoraLike, to_loras
from .messages import Conversation, DeltaMessage, check_text, merge_deltas, to_messages, to_token_ids
from .model_config import Model, ModelConfig, make_config
from .model_file import engine_path, find_model, remove_damaged
from .options import GenerationOptions, as_bool, as_float, as_int, make_generation_config
from .replies import begin_chat, begin_text
from .sessions import Session, make_session, session_path
from .stream import Completion, Stream
from .structured import Constraint, Formats
from .tokenizer import Tokenizer
from .tools import ToolLike, to_tools

if TYPE_CHECKING:
    from typing_extensions import Unpack


class Pipeline:
    """A model, its tokenizer and the memory of earlier conversations.

        pipeline = chatglm_cpp.Pipeline("model.gguf")

    One pipeline may be used from any number of threads and coroutines: replies that are wanted at the same
    time are computed together. A prompt that begins like an earlier one, as the next turn of a conversation
    does, starts where the two part. A result never depends on that, on who else asks, on the number of
    threads or on how a prompt is cut.

    Args:
        path: a GGUF file; or the folder of a Hugging Face checkpoint, or its name on the Hugging Face Hub,
            such as "THUDM/chatglm3-6b", which is downloaded; or a model file of chatglm.cpp up to 0.4: all
            these are converted once into a cache folder ($CHATGLM_CPP_CACHE, by default the platform's place
            for caches); or None for the small model that comes with the package.
        dtype: type of the matrices when something is converted: f32, f16, bf16, q8_0, q5_1, q5_0, q4_1, q4_0.
            By default q4_0 for a checkpoint, and the types that an older file has.
        kv_dtype: type of the cache of keys and values: "f16"; "q8_0" for half the memory and faster long
            contexts, a little less exact; or "f32".
        n_threads: threads to compute with, 0 for one per fast physical core. `num_threads` is the same.
        lora: a LoRA adapter (GGUF) to use, several of them, or {path: scale}; see set_lora.
        prefill_chunk: most tokens of prompts computed at once; less means less memory.
        max_pause: seconds by which new prompts may hold up each token of the replies that are being written.
        max_sequences: replies computed at the same time; more of them wait for their turn.
        max_queue: requests that may wait; one more is refused with Busy.
        cache_memory: bytes for keys and values, those of running replies and, for as long as there is room,
            of earlier ones. 0 for 1 GiB or 8192 tokens, whichever is more; then a reply that runs alone may
            use what it needs, else one that could outgrow the memory is refused.
        expected_length: tokens of prompt and reply together that `notes` considers the memory for.
        prompt_lookup: guess the next tokens of a reply from what followed the last ones earlier in its prompt
            and text, and check several at once: None when that is faster, True always, False never.
        draft: a smaller model with the same vocabulary, given as `path` is, that guesses where the text has
            nothing alike; its keys and values take up to a quarter of cache_memory more.
        draft_tokens: tokens that it guesses each time, at most 16; 0 for as many as make replies faster.
        verbose: show downloads and conversions on stderr; by default when stderr is a terminal.

    Raises:
        FileNotFoundError: there is nothing at `path`, or it cannot be had from the hub.
        FormatError: the file is damaged, or no model that is known.
        ValueError: an argument is out of its range, or the checkpoint cannot be converted.
        MemoryError: the memory for the model cannot be had.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        dtype: str | None = None,
        kv_dtype: str = "f16",
        n_threads: int = 0,
        lora: LoraLike = None,
        prefill_chunk: int = 512,
        max_pause: float = 0.25,
        max_sequences: int = 16,
        max_queue: int = 256,
        cache_memory: int = 0,
        expected_length: int = 2048,
        prompt_lookup: bool | None = None,
        draft: str | os.PathLike[str] | None = None,
        draft_tokens: int = 0,
        num_threads: int | None = None,
        verbose: bool | None = None,
    ) -> None:
        if num_threads is not None:
            n_threads = num_threads
        n_threads = as_int("n_threads", n_threads)
        kv_dtype = check_text(kv_dtype, "kv_dtype")
        prefill_chunk = as_int("prefill_chunk", prefill_chunk)
        max_pause = as_float("max_pause", max_pause)
        max_sequences = as_int("max_sequences", max_sequences)
        max_queue = as_int("max_queue", max_queue)
        cache_memory = as_int("cache_memory", cache_memory, 2**62)
        expected_length = as_int("expected_length", expected_length)
        draft_tokens = as_int("draft_tokens", draft_tokens)
        if prompt_lookup is not None and not isinstance(prompt_lookup, bool):  # a text would be true
            raise TypeError(f"prompt_lookup is {prompt_lookup!r}; give True, False or None.")
        loras = to_loras(lora)
        draft_path = "" if draft is None else engine_path(find_model(draft, dtype, verbose))

        def load(file: str) -> _C.Pipeline:
            return _C.Pipeline(
                file,
                n_threads=n_threads,
                kv_dtype=kv_dtype,
                prefill_chunk=prefill_chunk,
                max_pause=max_pause,
                max_sequences=max_sequences,
                max_queue=max_queue,
                cache_memory=cache_memory,
                expected_length=expected_length,
                loras=loras,
                prompt_lookup=prompt_lookup,
                draft=draft_path,
                draft_tokens=draft_tokens,
            )

        found = find_model(path, dtype, verbose)
        self._path = engine_path(found)
        try:
            self._engine = load(self._path)
        except FormatError:
            if not remove_damaged(path, found):
                raise
            self._path = engine_path(find_model(path, dtype, verbose))
            self._engine = load(self._path)
        self.tokenizer = Tokenizer(self._engine.tokenizer)
        self._lora_lock = threading.Lock()

    @property
    def path(self) -> str:
        """The GGUF file in use."""
        return self._path

    @cached_property
    def config(self) -> ModelConfig:
        """Sizes and choices of the model."""
        return make_config(self._engine, self._path)

    @property
    def model(self) -> Model:
        """For programs written for earlier versions, which say `pipeline.model.config`."""
        return Model(self.config)

    @property
    def n_threads(self) -> int:
        return self._engine.n_threads

    @property
    def kv_dtype(self) -> str:
        return self._engine.kv_dtype

    @property
    def isa(self) -> str:
        """Name of the kernels in use, for example "avx2"."""
        return self._engine.isa

    @property
    def notes(self) -> list[str]:
        """Sentences about how the file was loaded: for example that its matrices were repacked because the
        engine does not compute with their type, or that less memory was free than the model and
        `expected_length` tokens need. Usually empty."""
        return self._engine.notes

    def set_lora(self, lora: LoraLike) -> None:
        """Chooses the LoRA adapters that replies use from now on, in place of those before.

            pipeline.set_lora("poet.gguf")                          # as strong as it was trained
            pipeline.set_lora({"poet.gguf": 0.5, "sql.gguf": 1.0})  # weaker; two at once
            pipeline.set_lora(None)                                 # the model alone

        Adapters are GGUF files in llama.cpp's conventions; `python -m chatglm_cpp.convert -i PEFT_FOLDER
        --base MODEL_FOLDER -o adapter.gguf` makes one. Replies that are being generated keep what they began
        with.

        Raises:
            FileNotFoundError: there is no such file.
            FormatError: it is no adapter, or one of another model.
            InvalidArgument: a scale is not a finite number, or a folder is given.
        """
        with self._lora_lock:
            self._engine.set_loras(to_loras(lora))

    def attach_lora(self, path: str | os.PathLike[str], scale: float = 1.0) -> None:
        """Adds an adapter to those in use, or gives one of them another scale. Errors as of set_lora.

        pipeline.attach_lora("poet.gguf", scale=0.5)
        pipeline.detach_lora("poet.gguf")
        """
        with self._lora_lock:
            self._engine.set_loras(list({**self.lora, **dict(to_loras({path: scale}))}.items()))

    def detach_lora(self, path: str | os.PathLike[str]) -> None:
        """Takes an adapter out of use.

        Raises:
            InvalidArgument: it is not in use.
        """
        ((name, _),) = to_loras(path)
        with self._lora_lock:
            others = self.lora
            if name not in others:
                in_use = ", ".join(map(repr, others)) or "none"
                raise InvalidArgument(f"The adapter {name!r} is not in use; in use: {in_use}.")
            del others[name]
            self._engine.set_loras(list(others.items()))

    @property
    def lora(self) -> dict[str, float]:
        """The adapters in use and their scales."""
        return dict(self._engine.loras)

    @overload
    def chat(
        self,
        messages: Conversation,
        *,
        stream: Literal[False] = False,
        tools: Iterable[ToolLike] | None = None,
        when_full: WhenFull = "error",
        **options: Unpack[GenerationOptions],
    ) -> ChatMessage: ...
    @overload
    def chat(
        self,
        messages: Conversation,
        *,
        stream: Literal[True],
        tools: Iterable[ToolLike] | None = None,
        when_full: WhenFull = "error",
        **options: Unpack[GenerationOptions],
    ) -> Stream[DeltaMessage, ChatMessage]: ...
    def chat(
        self,
        messages: Conversation,
        *,
        stream: bool = False,
        tools: Iterable[ToolLike] | None = None,
        when_full: WhenFull = "error",
        **options: Any,
    ) -> ChatMessage | Stream[DeltaMessage, ChatMessage]:
        """The assistant's reply to a conversation.

            reply = pipeline.chat([{"role": "user", "content": "你好"}])
            for delta in pipeline.chat([{"role": "user", "content": "你好"}], stream=True):
                print(delta.content, end="", flush=True)

        Options have their default in brackets.

        Args:
            messages: ChatMessage objects or dicts with "role", "content" and perhaps "tool_calls" and
                "reasoning_content"; or plain texts of user and assistant in turn.
            max_length (2048): most tokens of prompt and reply together; the model's own context bounds it
                too.
            max_new_tokens (-1): most tokens of the reply, -1 for no limit of its own.
            max_context_length (-1): keep only so many tokens of a longer prompt, its last ones; -1 makes
                a prompt that is too long an error.
            do_sample (True): draw tokens at random; False takes the likeliest one each time.
            top_k (0): draw among the k likeliest tokens, 0 for all.
            top_p (0.7): draw among the likeliest tokens that have this probability together, 1 for all.
            temperature (0.95): above 1 flattens the probabilities, below 1 sharpens them, 0 is
                do_sample=False.
            repetition_penalty (1): above 1 makes tokens that were there already less likely.
            stream: give an iterator of DeltaMessage instead of the whole reply.
            seed (-1): same seed, same reply, whatever else runs; -1 takes a new one each time.
                Alternative i of several replies is the one with seed + i.
            max_time (-1): seconds after which the reply ends as it is, waiting included; -1 for no limit.
            tools: what the model may ask to be called, as dicts like {"type": "function", "function":
                {"name": "get_weather", "description": "...", "parameters": {JSON schema}}} or just the
                inner one; as typed Python functions, see chatglm_cpp.tool; or {"type": "python"} for the
                code interpreter of ChatGLM3 and GLM-4. Nothing is ever called here: run what the reply
                asks for in `tool_calls`, and give each result back as a message of the role "observation"
                or "tool".
            when_full: what gives way when the conversation leaves too little room for a reply: nothing
                ("error"), its oldest turns ("drop_oldest"), or those after the first ("keep_head"). A
                turn, a question with all that follows it, goes whole; messages of the system and the last
                turn stay. Room is max_new_tokens, or a quarter of max_length. What went is counted in the
                reply's `dropped_messages`, and in the `usage` of a stream.
            num_threads: accepted for programs of earlier versions; threads are set when the pipeline is
                made.
            min_p (0): draw among tokens that have at least this share of the likeliest one's probability.
            typical_p (1): draw among the most typical tokens that have this probability together, 1 for
                all.
            xtc_probability (0): how often, of each token, those with a probability of at least xtc_threshold
                (0.1) are left out but for the least likely of them, so that replies are less like others.
            presence_penalty (0): taken from the logits of tokens that the reply has already.
            frequency_penalty (0): the same for each time that the reply has them.
            penalty_last_n (-1): the three penalties look at so many last tokens, -1 for all.
            logit_bias: {token id: number to add to its logit}; -inf rules a token out.
            stop: a text or several; the answer ends before the first one that comes.
            stop_token_ids: tokens that end the reply, beside those of the model.
            ignore_eos (False): never choose a token that ends the reply.
            min_new_tokens (0): choose none before the reply has so many tokens.
            logprobs (False): note the log-probability of each token; a number asks for as many likeliest
                tokens.
            num_beams (1): above 1 searches for the likeliest reply with so many beams, as transformers
                does, and ignores do_sample and the settings of draws. The reply comes all at once at its
                end. At most the pipeline's max_sequences; without logprobs and formats of the reply.
            length_penalty (1): beams are compared by their log-probability divided by
                length^length_penalty.
            early_stopping (False): whether a search ends as soon as there are num_beams complete replies:
                True; False goes on while the best beam has the better score, "never" while one could come
                to have it.
            response_format: {"type": "json_object"}, or {"type": "json_schema", "json_schema": SCHEMA}:
                the answer is JSON, and follows the schema. Needs `pip install "chatglm-cpp[structured]"`,
                as the next two do; see docs/structured.md.
            regex: the answer is a full match of this regular expression.
            grammar: the answer is a text of this grammar, in Lark's notation or in llama.cpp's GBNF.

        Returns:
            The reply, with the calls of tools that it asks for in `tool_calls`, and what a reasoning model
            thought before its answer in `reasoning_content`. A call that cannot be read stays in the text,
            and `tool_call_error` says why. Its `finish_reason` is "stop", "length" when the tokens ran out
            or "deadline" when the time did, and `logprobs` has a TokenLogprob for each of its tokens. Or,
            with stream=True, an iterator of its pieces: its `usage` counts tokens and says the reason, and
            closing or dropping it stops the work.

        Raises:
            Busy: too many requests wait already.
            ContextLengthError: the prompt leaves no room for a reply.
            InvalidArgument: an option is out of its range, the model's format has no place for a message or
                for tools, or there are tools and a format for the reply.
            TypeError: something is of the wrong type.
        """
        streams = as_bool("stream", stream)
        config, constraints = self._read_options(options)
        (pieces,) = begin_chat(self._engine, messages, config, tools, when_full, constraints)
        return pieces if streams else pieces.result()

    @overload
    def generate(
        self,
        prompt: str | Iterable[int],
        *,
        stream: Literal[False] = False,
        **options: Unpack[GenerationOptions],
    ) -> Completion: ...
    @overload
    def generate(
        self, prompt: str | Iterable[int], *, stream: Literal[True], **options: Unpack[GenerationOptions]
    ) -> Stream[str, Completion]: ...
    def generate(
        self, prompt: str | Iterable[int], *, stream: bool = False, **options: Any
    ) -> Completion | Stream[str, Completion]:
        """A continuation of `prompt`, for base and code models.

            pipeline.generate("def quicksort(", do_sample=False, max_new_tokens=64)

        `prompt` is a text, or ids that are taken as they are. Options, errors and streaming as in `chat`, but
        with pieces of text. The whole text is a str with `finish_reason` and `logprobs` beside it; a stream
        has them in its `usage` and `logprobs`.
        """
        streams = as_bool("stream", stream)
        config, constraints = self._read_options(options)
        (pieces,) = begin_text(self._engine, prompt, config, constraints)
        return pieces if streams else pieces.result()

    @overload
    def submit(
        self,
        messages: Conversation,
        *,
        tools: Iterable[ToolLike] | None = None,
        when_full: WhenFull = "error",
        **options: Unpack[GenerationOptions],
    ) -> Stream[DeltaMessage, ChatMessage]: ...
    @overload
    def submit(
        self, *, prompt: str | Iterable[int], **options: Unpack[GenerationOptions]
    ) -> Stream[str, Completion]: ...
    def submit(
        self,
        messages: Conversation | None = None,
        *,
        prompt: str | Iterable[int] | None = None,
        **options: Any,
    ) -> Stream[DeltaMessage, ChatMessage] | Stream[str, Completion]:
        """Begins a reply and returns at once with a handle of it.

            replies = [pipeline.submit(conversation) for conversation in conversations]  # computed together
            for reply in replies:
                print(reply.result().content, reply.usage.tokens_per_second)

        With `messages` it is a reply as of `chat`, with `prompt` a continuation as of `generate`; options and
        errors are theirs. The handle is the iterator that they give with stream=True.
        """
        if (messages is None) == (prompt is None):
            raise TypeError("Give submit either messages or prompt.")
        if messages is not None:
            return self.chat(messages, stream=True, **options)
        assert prompt is not None
        return self.generate(prompt, stream=True, **options)

    @overload
    def submit_alternatives(
        self,
        messages: Conversation,
        *,
        n: int,
        tools: Iterable[ToolLike] | None = None,
        when_full: WhenFull = "error",
        **options: Unpack[GenerationOptions],
    ) -> Alternatives[DeltaMessage, ChatMessage]: ...
    @overload
    def submit_alternatives(
        self, *, n: int, prompt: str | Iterable[int], **options: Unpack[GenerationOptions]
    ) -> Alternatives[str, Completion]: ...
    def submit_alternatives(
        self,
        messages: Conversation | None = None,
        *,
        n: int,
        prompt: str | Iterable[int] | None = None,
        tools: Iterable[ToolLike] | None = None,
        when_full: WhenFull = "error",
        **options: Any,
    ) -> Alternatives[DeltaMessage, ChatMessage] | Alternatives[str, Completion]:
        """Begins `n` replies to one prompt, which is computed once, and returns at once with their streams.

            for reply in pipeline.submit_alternatives(messages, n=3, seed=1).result():
                print(reply.content)

        Reply i is the one that `submit` gives with seed + i; with num_beams the i-th best. Everything else is
        as in `submit`. All of them begin, or none.

        Raises:
            Busy: fewer than `n` requests may wait beside those that wait already.
            InvalidArgument: `n` is not between 1 and the pipeline's max_sequences, or above num_beams.
        """
        if (messages is None) == (prompt is None):
            raise TypeError("Give submit_alternatives either messages or prompt.")
        n = as_int("n", n)
        config, constraints = self._read_options(options, n)
        if messages is not None:
            return Alternatives(begin_chat(self._engine, messages, config, tools, when_full, constraints, n))
        assert prompt is not None
        return Alternatives(begin_text(self._engine, prompt, config, constraints, n))

    def achat(
        self,
        messages: Conversation,
        *,
        tools: Iterable[ToolLike] | None = None,
        when_full: WhenFull = "error",
        **options: Unpack[GenerationOptions],
    ) -> Stream[DeltaMessage, ChatMessage]:
        """`chat` for coroutines; options and errors are the same. Cancelling the task stops the reply.

        reply = await pipeline.achat(messages)
        async for delta in pipeline.achat(messages):
            print(delta.content, end="", flush=True)
        """
        return self.submit(messages, tools=tools, when_full=when_full, **options)

    def agenerate(
        self, prompt: str | Iterable[int], **options: Unpack[GenerationOptions]
    ) -> Stream[str, Completion]:
        """`generate` for coroutines, as `achat` is `chat`."""
        return self.submit(prompt=prompt, **options)

    @property
    def stats(self) -> _C.PipelineStats:
        """How many replies run and wait, and the memory of keys and values."""
        return self._engine.stats

    def clear_cache(self) -> None:
        """Forgets what earlier replies left for later ones that begin alike."""
        self._engine.clear_cache()

    def close(self) -> None:
        """Cancels all replies and ends the thread that computes them. Nothing can be computed afterwards."""
        self._engine.close()

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def logits(self, input_ids: Iterable[int]) -> npt.NDArray[np.float32]:
        """What the model expects after each of `input_ids`: float32 (len(input_ids), vocab_size).

            pipeline.logits(pipeline.tokenizer.encode("你好"))[-1].argmax()

        Raises:
            ContextLengthError: there are more ids than the model's context has positions.
            InvalidArgument: there are none, or one is outside the vocabulary.
        """
        ids = to_token_ids(input_ids, self._engine.config.vocab_size, "input_ids")
        if not ids:
            raise InvalidArgument("input_ids is empty: give at least one token.")
        # Before the result, whose size grows with the ids, is allocated.
        if len(ids) > (limit := self._engine.config.max_length):
            raise ContextLengthError(f"input_ids has {len(ids)} tokens, and the model's context has {limit}.")
        return self._engine.logits(ids)

    def embed(
        self,
        texts: str | Iterable[Text],
        *,
        pooling: PoolingName = "mean",
        normalize: bool = True,
    ) -> npt.NDArray[np.float32]:
        """A vector for each text, for search and comparison: float32 (len(texts), hidden_size), and for a
        single str (hidden_size,).

            vectors = pipeline.embed(["你好", "今天天气很好", "hello"])
            print(vectors @ vectors[0])  # how much each is like the first, at most 1

        Args:
            texts: a text or several. One of several may be a list of token ids, which are taken as they are;
                of a str they are `tokenizer.encode(text)`, with the special tokens that the model puts around
                a prompt, so that even an empty text has a vector.
            pooling: "mean" of the states of all tokens after the last layer and its norm, or that of the
                "last" token.
            normalize: to length 1.

        Texts are computed several at a time, beside replies and with the LoRA adapters in use. A vector does
        not depend on the other texts.

        Raises:
            ContextLengthError: a text is longer than the model's context.
            InvalidArgument: a text has no tokens, an id is outside the vocabulary, or `pooling` is unknown.
            TypeError: something else is given.
        """
        single = isinstance(texts, str)
        config = self._engine.config
        ids = to_texts_of_ids(texts, self.tokenizer, config.vocab_size, config.max_length)
        vectors = self._engine.embed(ids, check_text(pooling, "pooling"), as_bool("normalize", normalize))
        return vectors[0] if single else vectors

    def save_session(
        self,
        path: str | os.PathLike[str],
        messages: Conversation,
        *,
        tools: Iterable[ToolLike] | None = None,
    ) -> int:
        """Puts a conversation aside in a file, with what was computed for it; see load_session.

            messages.append(pipeline.chat(messages))
            pipeline.save_session("talk.session", messages)

        `tools` are those of the conversation, if any. Of the keys and values what the cache still has goes
        along, in whole pages of 64 tokens; returns how many tokens these are, 0 with ChatGLM-6B. A file that
        was there is replaced at once, or stays as it is. Replies that are being written go on meanwhile.

        Raises:
            OSError: the file cannot be written.
            InvalidArgument: the model's chat format does not know such a conversation.
            TypeError: something is of the wrong type.
        """
        return self._engine.save_session(session_path(path), to_messages(messages), to_tools(tools))

    def load_session(self, path: str | os.PathLike[str]) -> Session:
        """The conversation in a file of save_session; its next turn is computed from where it was.

            session = pipeline.load_session("talk.session")
            messages = [*session.messages, {"role": "user", "content": "And then?"}]
            reply = pipeline.chat(messages, tools=session.tools)

        Raises:
            FileNotFoundError: there is no such file.
            FormatError: it is damaged, or is no session.
            InvalidArgument: the model file, kv_dtype or the LoRA adapters are others than when it was saved;
                chatglm_cpp.read_session gives the text of any session.
            MemoryError: the memory for the keys and values cannot be had.
        """
        return make_session(self._engine.load_session(session_path(path)))

    def merge_streaming_messages(self, chunks: Iterable[DeltaMessage]) -> ChatMessage:
        """The whole message of a streamed reply, its thought and tool calls apart, from all of its pieces."""
        return merge_deltas(chunks)

    @cached_property
    def _formats(self) -> Formats:
        return Formats(self._engine.tokenizer)

    def _read_options(
        self, options: dict[str, Any], n: int = 1
    ) -> tuple[_C.GenerationConfig, list[Constraint]]:
        """The settings of a reply, and a constraint for each of `n` replies, for each has a state of its own;
        none at all for free texts."""
        unknown = [name for name in options if name not in GenerationOptions.__annotations__]
        if unknown:
            names = ", ".join(sorted(GenerationOptions.__annotations__))
            raise TypeError(f"There is no option {unknown[0]!r}; the options of a reply are {names}.")
        num_threads = options.pop("num_threads", 0)
        if num_threads not in (0, self.n_threads):
            warnings.warn(
                f"num_threads={num_threads} has no effect here: this pipeline computes with {self.n_threads} "
                "threads. Give n_threads to Pipeline() instead.",
                stacklevel=3,
            )
        form = [options.pop(name, None) for name in ("response_format", "regex", "grammar")]
        config = make_generation_config(**options)
        if form == [None, None, None]:
            return config, []
        n = max(1, min(n, self._engine.max_sequences))  # others are refused
        made = [self._formats.constraint(*form) for _ in range(n)]
        return config, [constraint for constraint in made if constraint is not None]

    def __repr__(self) -> str:
        return f"Pipeline({self._path!r}, kv_dtype={self.kv_dtype!r}, n_threads={self.n_threads})"
