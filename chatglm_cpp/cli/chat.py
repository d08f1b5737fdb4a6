"""`chatglm-cpp chat`: one reply, or a conversation."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from .._C import ChatMessage, ContextLengthError, InvalidArgument, ToolCallMessage
from ..messages import ToolCallDelta, check_text
from ..pipeline import Pipeline
from ..stream import Stream, Usage
from .options import add_model_options, load
from .terminal import (
    ReplyPrinter,
    format_count,
    is_terminal,
    line_reader,
    note_printer,
    printable,
    read_stdin,
    read_text,
)

EXIT_INTERRUPTED = 130
LEAVE = ("stop", "exit", "quit")


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "chat",
        help="chat with a model, or complete a text",
        description="Answers a prompt (-p, --pp or standard input) once; without one holds a conversation.",
    )
    add_model_options(parser)
    text = parser.add_argument_group("text")
    prompt = text.add_mutually_exclusive_group()
    prompt.add_argument("-p", "--prompt", metavar="TEXT", help="answer this and exit")
    prompt.add_argument(
        "--pp", "--prompt_path", "--prompt-path", type=Path, metavar="FILE", help="the same from a file"
    )
    system = text.add_mutually_exclusive_group()
    system.add_argument(
        "-s", "--system", metavar="TEXT", help="system message: how the assistant should behave"
    )
    system.add_argument(
        "--sp", "--system_path", "--system-path", type=Path, metavar="FILE", help="the same from a file"
    )
    text.add_argument(
        "--tools", type=Path, metavar="FILE",
        help="JSON list of tools that the model may call; calls are shown and never run",
    )  # fmt: skip
    text.add_argument(
        "-i", "--interactive", action="store_true", help="hold a conversation, after the prompt if any"
    )
    text.add_argument(
        "--mode",
        choices=("chat", "generate"),
        default="chat",
        help="chat in the model's format, or continue the plain prompt (default: %(default)s)",
    )
    text.add_argument("--sync", action="store_true", help="print a reply when it is complete")
    text.add_argument(
        "-v", "--verbose", action="store_true", help="say on stderr what is loaded and how fast it is"
    )

    lengths = parser.add_argument_group("lengths, in tokens")
    lengths.add_argument(
        "-l", "--max_length", "--max-length", type=int, default=2048, metavar="N",
        help="prompt and reply together (default: %(default)s)",
    )  # fmt: skip
    lengths.add_argument(
        "--max_new_tokens", "--max-new-tokens", type=int, default=-1, metavar="N",
        help="the reply (default: bounded by --max_length only)",
    )  # fmt: skip
    lengths.add_argument(
        "-c", "--max_context_length", "--max-context-length", type=int, default=-1, metavar="N",
        help="keep the last N of a longer prompt (default: a prompt that does not fit is an error)",
    )  # fmt: skip
    lengths.add_argument(
        "--when_full", "--when-full", choices=("error", "drop_oldest", "keep_head"), default="error",
        help="what gives way in a conversation that is too long: nothing, its oldest turns, or those after "
        "the first (default: %(default)s)",
    )  # fmt: skip

    sampling = parser.add_argument_group("sampling")
    sampling.add_argument("--greedy", action="store_true", help="take the likeliest token each time")
    sampling.add_argument(
        "--top_k", "--top-k", type=int, default=0, metavar="K",
        help="draw among the K likeliest tokens, 0 for all (default: %(default)s)",
    )  # fmt: skip
    sampling.add_argument(
        "--top_p", "--top-p", type=float, default=0.7, metavar="P",
        help="draw among the likeliest tokens that have the probability P together (default: %(default)s)",
    )  # fmt: skip
    sampling.add_argument(
        "--temp", "--temperature", type=float, default=0.95, metavar="T",
        help="0 is --greedy; above 1 flattens the probabilities (default: %(default)s)",
    )  # fmt: skip
    sampling.add_argument(
        "--repeat_penalty", "--repeat-penalty", type=float, default=1.0, metavar="R",
        help="above 1 makes tokens less likely that were there already (default: %(default)s)",
    )  # fmt: skip
    sampling.add_argument(
        "--min_p", "--min-p", type=float, default=0.0, metavar="P",
        help="draw among tokens of at least P times the likeliest one's probability (default: off)",
    )  # fmt: skip
    sampling.add_argument(
        "--typical", "--typical_p", "--typical-p", type=float, default=1.0, metavar="P",
        help="draw among the most typical tokens that have the probability P together (default: off)",
    )  # fmt: skip
    sampling.add_argument(
        "--presence_penalty", "--presence-penalty", type=float, default=0.0, metavar="X",
        help="taken from the logits of tokens that the reply has (default: %(default)s)",
    )  # fmt: skip
    sampling.add_argument(
        "--frequency_penalty", "--frequency-penalty", type=float, default=0.0, metavar="X",
        help="the same for each time that it has them (default: %(default)s)",
    )  # fmt: skip
    sampling.add_argument(
        "--repeat_last_n", "--repeat-last-n", type=int, default=-1, metavar="N",
        help="tokens that the penalties look back on (default: all)",
    )  # fmt: skip
    sampling.add_argument(
        "--logit_bias", "--logit-bias", action="append", default=[], metavar="ID:X",
        help="added to the logit of a token, for example 30910:-5; -inf rules it out; may be repeated",
    )  # fmt: skip
    sampling.add_argument(
        "--seed", type=int, default=-1, metavar="N", help="same seed, same reply (default: a new one)"
    )

    ends = parser.add_argument_group("ends and formats")
    ends.add_argument(
        "--stop", action="append", default=[], metavar="TEXT",
        help="end the answer before this text; may be repeated",
    )  # fmt: skip
    ends.add_argument(
        "--min_new_tokens", "--min-new-tokens", type=int, default=0, metavar="N",
        help="do not end a reply before N tokens (default: %(default)s)",
    )  # fmt: skip
    ends.add_argument(
        "--num_beams", "--num-beams", type=int, default=1, metavar="N",
        help="search for the likeliest reply with N beams, and draw nothing (default: off)",
    )  # fmt: skip
    ends.add_argument(
        "--ignore_eos", "--ignore-eos", action="store_true",
        help="never choose the token that ends a reply",
    )  # fmt: skip
    form = ends.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="answer with a JSON object")
    form.add_argument(
        "--json_schema", "--json-schema", type=Path, metavar="FILE",
        help="answer with JSON that follows the JSON Schema in a file",
    )  # fmt: skip
    form.add_argument("--regex", metavar="REGEX", help="answer with a full match of a regular expression")
    form.add_argument(
        "--grammar", type=Path, metavar="FILE",
        help="answer with a text of the grammar in a file: Lark's notation, or llama.cpp's GBNF",
    )  # fmt: skip
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    prompt = read_text(args.pp) if args.pp else args.prompt
    system = read_text(args.sp) if args.sp else args.system
    interactive = args.interactive or (prompt is None and is_terminal(sys.stdin))
    if interactive and args.mode == "generate":
        raise InvalidArgument("--mode generate continues one text: give it with -p, --pp or standard input.")
    if args.tools and args.mode == "generate":
        raise InvalidArgument("--mode generate continues a text: it knows no --tools.")
    if args.tools and (args.json or args.json_schema or args.regex is not None or args.grammar):
        raise InvalidArgument("A reply of a given format calls no tools: leave out --tools or the format.")
    if prompt is None and not interactive:
        prompt = read_stdin().rstrip("\r\n")
    if prompt is not None and not prompt:
        raise InvalidArgument("The prompt is empty.")
    for name, text in (("the prompt", prompt), ("the system message", system)):
        if text is not None:
            check_text(text, name)
    return Session(args, system, read_tools(args.tools)).run(prompt, interactive)


def read_tools(path: Path | None) -> list[Any]:
    if path is None:
        return []
    tools = _read_json(path)
    if not isinstance(tools, list):
        raise InvalidArgument(f"{path}: is no list of tools: it must begin with [.")
    return tools


def _read_json(path: Path) -> Any:
    text = read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"{path}: is no JSON: {error}.") from None


class Session:
    """A model, the conversation so far, and how replies are printed."""

    def __init__(self, args: argparse.Namespace, system: str | None, tools: list[Any]) -> None:
        self._verbose = args.verbose
        self._sync = args.sync
        self._generate = args.mode == "generate"
        self._options = {
            "max_length": args.max_length,
            "max_new_tokens": args.max_new_tokens,
            "max_context_length": args.max_context_length,
            "do_sample": not args.greedy,
            "top_k": args.top_k,
            "top_p": args.top_p,
            "temperature": args.temp,
            "repetition_penalty": args.repeat_penalty,
            "seed": args.seed,
            "min_p": args.min_p,
            "typical_p": args.typical,
            "presence_penalty": args.presence_penalty,
            "frequency_penalty": args.frequency_penalty,
            "penalty_last_n": args.repeat_last_n,
            "logit_bias": _biases(args.logit_bias),
            "stop": args.stop,
            "min_new_tokens": args.min_new_tokens,
            "num_beams": args.num_beams,
            "ignore_eos": args.ignore_eos,
            "response_format": _response_format(args),
            "regex": args.regex,
            "grammar": read_text(args.grammar) if args.grammar else None,
        }
        self._system = [ChatMessage(role=ChatMessage.ROLE_SYSTEM, content=system)] if system else []
        self._messages = list(self._system)
        self._chat_options = {"tools": tools, "when_full": args.when_full}
        self._dropped = 0
        self._pipeline, seconds = load(args)
        if tools:  # a wrong one is an error at once, not with every prompt
            self._pipeline.tokenizer.apply_chat_template(["?"], tools=tools)
        if self._verbose:
            _print_model(self._pipeline, seconds)

    def run(self, prompt: str | None, interactive: bool) -> int:
        if not interactive:
            assert prompt is not None
            return 0 if self._answer(prompt) else EXIT_INTERRUPTED
        self._converse(prompt)
        return 0

    def _converse(self, prompt: str | None) -> None:
        read, note = line_reader(), note_printer()
        if is_terminal(sys.stdin):
            note(
                f"{printable(self._pipeline.config.name)}. Ask whatever you want. clear forgets the "
                "conversation, exit or Ctrl-D leaves, Ctrl-C stops a reply."
            )
        while True:
            try:
                if prompt is None:
                    prompt = read(self._label()).strip()
                if prompt in LEAVE:
                    return
                if prompt == "clear":
                    self._messages = list(self._system)
                    self._dropped = 0
                elif prompt and len(self._open_calls()) > 1:
                    self._messages.append(_observation(prompt))
                elif prompt:
                    if is_terminal(sys.stdout):
                        print(f"{self._pipeline.config.model_type_name} > ", end="", flush=True)
                    self._answer(prompt)
            except EOFError:
                return
            except KeyboardInterrupt:
                if not is_terminal(sys.stdin):
                    raise
                note("Type exit, or press Ctrl-D, to leave.")
            except ContextLengthError as error:
                note(f"{error} Type clear to start again.")
            except InvalidArgument as error:
                note(str(error))
            prompt = None

    def _label(self) -> str:
        calls = self._open_calls()
        if not calls:
            return "You > "
        call = calls[0]
        if call.type == ToolCallMessage.TYPE_CODE:
            return "The model wants this code to be run. Its output > "
        return f"The model calls {format_call(call)}. Its result > "

    def _open_calls(self) -> list[ToolCallMessage]:
        """Calls of the last reply whose results are still to come."""
        for n_results, message in enumerate(reversed(self._messages)):
            if message.role != ChatMessage.ROLE_OBSERVATION:
                return message.tool_calls[n_results:]
        return []

    def _answer(self, prompt: str) -> bool:
        """Prints the reply and remembers it. False when Ctrl-C stopped it."""
        if self._generate:
            return self._print(self._pipeline.generate(prompt, stream=True, **self._options), [])
        check_text(prompt, "the prompt")
        question = ChatMessage(role=ChatMessage.ROLE_USER, content=prompt)
        asked = [*self._messages, _observation(prompt) if self._open_calls() else question]
        deltas: list[Any] = []
        stream = self._pipeline.chat(asked, stream=True, **self._chat_options, **self._options)
        self._note_dropped(stream.usage.dropped_messages)
        complete = self._print(stream, deltas)
        if complete or deltas:
            reply = self._pipeline.merge_streaming_messages(deltas)
            self._messages = [*asked, reply]
            if reply.tool_call_error:
                note_printer()(f"The model may have meant to call a tool. {printable(reply.tool_call_error)}")
            cut = stream.usage.finish_reason == "length" and not reply.content and not reply.tool_calls
            if cut and reply.reasoning_content:
                note_printer()(
                    "The reply ended in its thought: for an answer raise --max_length or --max_new_tokens."
                )
        return complete

    def _note_dropped(self, n: int) -> None:
        if n > self._dropped:
            what = "1 message is" if n == 1 else f"{n} messages are"
            note_printer()(f"The conversation is too long: {what} left out of what the model reads.")
        self._dropped = n

    def _print(self, stream: Stream[Any, Any], pieces: list[Any]) -> bool:
        complete = True
        printer = ReplyPrinter(self._sync)
        with stream:
            try:
                for piece in stream:
                    pieces.append(piece)
                    if isinstance(piece, str):
                        printer.put(piece)
                    else:
                        printer.put(piece.content, piece.reasoning_content)
                        for call in piece.tool_calls:
                            printer.put_line(format_call(call))
            except KeyboardInterrupt:
                complete = False
        printer.finish()
        if self._verbose:
            _print_usage(stream.usage)
        return complete


def _biases(values: list[str]) -> dict[int, float]:
    biases = {}
    for value in values:
        token, _, bias = value.partition(":")
        try:
            biases[int(token)] = float(bias)
        except ValueError:
            raise InvalidArgument(f"--logit_bias is {value!r}; it must be ID:X, such as 30910:-5.") from None
    return biases


def _response_format(args: argparse.Namespace) -> dict[str, Any] | None:
    if args.json:
        return {"type": "json_object"}
    if args.json_schema is None:
        return None
    return {"type": "json_schema", "json_schema": _read_json(args.json_schema)}


def _observation(content: str) -> ChatMessage:
    return ChatMessage(role=ChatMessage.ROLE_OBSERVATION, content=check_text(content, "the result"))


def format_call(call: ToolCallMessage | ToolCallDelta) -> str:
    if call.type == ToolCallMessage.TYPE_CODE:
        return f"```python\n{call.code.input}\n```"
    return printable(f"{call.function.name}({call.function.arguments})")


def _print_model(pipeline: Pipeline, seconds: float) -> None:
    config = pipeline.config
    print(
        f"{printable(pipeline.path)}: {printable(config.name)}, {config.dtype}, "
        f"{format_count(config.n_parameters)} parameters, "
        f"loaded in {seconds:.2f} s; {pipeline.isa}, {pipeline.n_threads} threads, {pipeline.kv_dtype} cache",
        file=sys.stderr,
    )


def _print_usage(usage: Usage) -> None:
    def rate(tokens: int, seconds: float) -> str:
        return f"{tokens / seconds:.1f} tokens/s" if tokens > 0 and seconds > 0 else "-"

    # The first token of the reply comes with the prompt's last chunk.
    computed = usage.prompt_tokens - usage.cached_tokens
    reply_seconds = usage.seconds - usage.prompt_seconds
    print(
        f"prompt: {usage.prompt_tokens} tokens, {usage.cached_tokens} of them cached, "
        f"{usage.prompt_seconds:.2f} s ({rate(computed, usage.prompt_seconds)}); "
        f"reply: {usage.new_tokens} tokens, {reply_seconds:.2f} s "
        f"({rate(usage.new_tokens - 1, reply_seconds)}); ended by {usage.finish_reason}",
        file=sys.stderr,
    )
