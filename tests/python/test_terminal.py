"""A conversation on a terminal: its commands, its files, how it reads and how replies look."""

from __future__ import annotations

import json
import os
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest
from scripted import scripted

from chatglm_cpp import Pipeline, read_session
from chatglm_cpp.cli import main
from chatglm_cpp.cli.conversation import Conversation
from chatglm_cpp.cli.render import Blocks, harmless

GREEDY = ["--greedy", "--max_new_tokens", "16"]


@pytest.fixture
def talk(pipeline: Pipeline, monkeypatch, capsys):
    """talk(lines, *replies) types the lines and gives what was printed: replies, notes, and the prompts."""

    def hold(lines: list[str], *replies: str, options: tuple[str, ...] = ()) -> tuple[str, str, list[str]]:
        typed = iter([*lines, "/exit"])
        monkeypatch.setattr("chatglm_cpp.cli.options.Pipeline", lambda *args, **options: pipeline)
        monkeypatch.setattr(
            "chatglm_cpp.cli.chat.question_reader", lambda remember: lambda label: next(typed)
        )
        with scripted(pipeline, *replies) as prompts:
            assert main(["chat", "-i", *options]) == 0
        out, err = capsys.readouterr()
        return out, err, prompts

    return hold


def test_commands_are_listed(talk):
    _, notes, _ = talk(["/help"])
    for command in ("/help", "/save", "/load", "/system", "/regenerate", "/tokens", "/clear", "/exit"):
        assert command in notes


def test_a_saved_conversation_goes_on(talk, tmp_path: Path):
    file = tmp_path / "我的 talk.json"
    out, notes, _ = talk(["/system 请简短。", "你好", f"/save {file}", "clear", "在吗"], "你好！", "在。")
    assert out == "你好！\n在。\n" and "3 messages" in notes
    saved = json.loads(file.read_text(encoding="utf-8"))["messages"]
    assert [m["role"] for m in saved] == ["system", "user", "assistant"]
    assert [p.name for p in tmp_path.iterdir()] == [file.name]  # nothing half written beside it

    _, _, resumed = talk([f"/load {file}", "再见"], "再见！")
    _, _, directly = talk(["再见"], "再见！", options=("--load", str(file)))
    assert resumed == directly and "你好！" in resumed[0] and "请简短。" in resumed[0]


def test_saving_replaces_conversations_and_nothing_else(talk, tmp_path: Path):
    (tmp_path / "report.txt").write_text("My report.")
    _, notes, _ = talk(["你好", f"/save {tmp_path}/report.txt"], "你好！")
    assert "report.txt: is no saved conversation" in notes
    assert (tmp_path / "report.txt").read_text() == "My report."

    (tmp_path / "talk.json").touch()
    for n_turns in (1, 2):
        talk([*["你好"] * n_turns, f"/save {tmp_path}/talk.json"], *["你好！"] * n_turns)
        saved = json.loads((tmp_path / "talk.json").read_text(encoding="utf-8"))["messages"]
        assert len(saved) == 2 * n_turns


def test_a_session_keeps_what_was_computed(talk, pipeline: Pipeline, tmp_path: Path):
    file = tmp_path / "talk.session"
    question = "今天天气怎么样？" * 20
    first = Conversation(pipeline, "请简短。", {}, {"max_new_tokens": 1})
    with first.ask(question) as reply:
        first.accept(list(reply))
    n_tokens = first.save(file)
    assert n_tokens >= 64
    with Pipeline(pipeline.path, n_threads=1) as another:
        session = Conversation(another, None, {}, {"max_new_tokens": 1})
        assert session.load(file) == n_tokens and session.messages == first.messages
        with session.ask("再见") as reply:
            assert list(reply) and reply.usage.cached_tokens >= n_tokens
    notes, prompts = talk([f"/load {file}", "再见"], "再见！")[1:]
    assert "Loaded 3 messages" in notes and f"computed for {n_tokens} tokens" in " ".join(notes.split())
    assert question in prompts[0]
    file.write_bytes(file.read_bytes()[:-1])
    out, notes, _ = talk([f"/load {file}", "你好"], "你好！")
    assert out == "你好！\n" and "talk.session" in notes and "Loaded" not in notes


@pytest.mark.parametrize("name", ["talk.session", "talk.json"])
def test_a_conversation_is_kept_in_a_file(talk, tmp_path: Path, name: str):
    options = ("--session", str(tmp_path / name))
    talk(["你好"], "你好！", options=options)
    _, _, prompts = talk(["再见"], "再见！", options=options)
    assert "你好！" in prompts[0]
    assert main(["chat", *options, "-s", "请简短。", "-p", "在吗"]) == 2
    _, _, prompts = talk(["在吗"], "在。", options=options)
    assert "再见！" in prompts[0]


def test_a_session_brings_its_tools(converted, tmp_path: Path):
    tools = [{"type": "function", "function": {"name": "f", "description": "g", "parameters": {}}}]
    with Pipeline(converted("chatglm3-6b"), n_threads=1) as pipeline:
        with_tools = Conversation(pipeline, "请简短。", {"tools": tools}, {})
        with_tools.save(tmp_path / "a.session")
        talk = Conversation(pipeline, None, {}, {})
        talk.load(tmp_path / "a.session")
        talk.save(tmp_path / "b.session")
    assert read_session(tmp_path / "b.session").tools == read_session(tmp_path / "a.session").tools != []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ('"x"', "messages"),
        ('{"messages": [{"role": 1, "content": ""}]}', "role"),
    ],
)
def test_a_file_that_is_no_conversation_changes_nothing(talk, tmp_path: Path, content: str, words: str):
    (tmp_path / "bad.json").write_text(content)
    out, notes, prompts = talk(["你好", f"/load {tmp_path}/bad.json", "再见"], "你好！", "再见！")
    assert out == "你好！\n再见！\n" and words in notes and "bad.json" in notes
    assert "你好！" in prompts[1]


def test_a_question_is_answered_again(talk):
    out, notes, prompts = talk(["/regenerate", "你好", "/regenerate", "再见"], "一", "二", "三")
    assert out == "一\n二\n三\n"
    assert "no question" in notes
    assert prompts[0] == prompts[1]
    assert "二" in prompts[2] and "一" not in prompts[2]


def test_another_answer_with_a_fixed_seed_is_another_one(pipeline: Pipeline):
    options = {"seed": 5, "temperature": 5.0, "top_p": 1.0, "max_new_tokens": 8}
    talk = Conversation(pipeline, None, {}, options)
    first = talk.ask("你好").result()
    talk.accept([])
    again = talk.regenerate().result()
    assert again.content != first.content
    assert again.content == pipeline.chat(["你好"], **{**options, "seed": 6}).content


def test_the_system_message_stays_when_the_rest_is_forgotten(talk):
    _, notes, prompts = talk(["你好", "/clear", "/system", "你好"], "一", "二", options=("-s", "请简短。"))
    assert prompts[0] == prompts[1]
    assert "请简短。" in notes


def test_tokens_are_counted(talk, pipeline: Pipeline):
    _, notes, _ = talk(["/tokens", "你好", "/tokens"], "你好！")
    tokenizer = pipeline.tokenizer
    n = len(tokenizer.apply_chat_template(["你好"])) + len(tokenizer.encode_plain("你好！"))
    assert "has 0 tokens" in notes and f"has {n} tokens" in notes


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("/sing", "no command /sing"),
        ("/save", "needs a FILE"),
        ("/clear all", "stands alone"),
        ("/save /no/such/folder/x.json", "/no/such/folder/x.json: cannot be written: No such file"),
        ("/load /no/such/file.json", "/no/such/file.json"),
    ],
)
def test_a_wrong_command_is_one_sentence(talk, line: str, words: str):
    out, notes, _ = talk([line])
    assert out == "" and words in notes and len(notes.splitlines()) == 1


def test_a_session_that_cannot_be_written_is_one_sentence(talk):
    _, notes, _ = talk(["你好", "/save /no/such/folder/x.session"], "你好！")
    assert "no such folder" in notes and notes.count("cannot be written") == 1


def test_a_question_may_begin_with_a_slash(talk):
    out, _, prompts = talk([" /etc/passwd 是什么？"], "文件。")
    assert out == "文件。\n" and "/etc/passwd 是什么？" in prompts[0]


def test_questions_of_several_lines(pipeline: Pipeline, monkeypatch, capsys):
    import io

    monkeypatch.setattr("chatglm_cpp.cli.options.Pipeline", lambda *args, **options: pipeline)
    text = 'one\\\ntwo\n"""\nthree\n\nfour\n"""\n'
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    with scripted(pipeline, "1", "2") as prompts:
        assert main(["chat", "-i"]) == 0
    assert "one\ntwo" in prompts[0] and "three\n\nfour" in prompts[1]


def test_a_reply_that_is_cut_is_announced(model_path: Path, capsys):
    assert main(["chat", "-m", str(model_path), "-p", "你好", "--greedy", "--ignore_eos", "-l", "40"]) == 0
    assert "--max_length" in capsys.readouterr().err


def test_blocks_end_where_markdown_cannot_go_on():
    text = (
        "# Title\n\nA paragraph\nof two lines.\n\n1. one\n\n   ```python\n   x = 1\n\n   y = 2\n   ```\n\n"
        "2. two\n\nCode:\n```c\nint a;\n\n// ```` not the end\nint b;\n```\nThe end"
    )
    for step in (1, 3, len(text)):
        blocks = Blocks()
        found = [b for i in range(0, len(text), step) for b in blocks.put(text[i : i + step])]
        assert [*found, blocks.take()] == [
            "# Title",
            "A paragraph\nof two lines.",
            "1. one\n\n   ```python\n   x = 1\n\n   y = 2\n   ```",
            "2. two",
            "Code:",
            "```c\nint a;\n\n// ```` not the end\nint b;\n```",
            "The end",
        ]


def test_a_reply_cannot_command_the_terminal():
    assert harmless("a\x1b[2Jb\x07\r\n\tc\x9b1m") == "a[2Jb\n\tc1m"


class Terminal:
    """A program on a pseudo-terminal."""

    def __init__(self, arguments: list[str], cache: Path) -> None:
        import fcntl
        import pty
        import struct
        import termios

        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "chatglm_cpp", *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            cwd=Path(__file__).parent,
            env={
                **os.environ,
                "TERM": "xterm-256color",
                "CHATGLM_CPP_CACHE": str(cache),
            },
        )
        os.close(theirs)
        self._shown = ""
        self._seen = 0

    def expect(self, pattern: str, seconds: float = 30) -> str:
        """Waits until what was shown since the last call has the pattern, and gives all of that."""
        deadline = time.monotonic() + seconds
        while not (found := re.search(pattern, self._shown[self._seen :])):
            left = deadline - time.monotonic()
            assert left > 0, f"{pattern!r} did not come: {self._shown[self._seen :]!r}"
            if select.select([self._ours], [], [], left)[0]:
                data = os.read(self._ours, 4096).decode(errors="replace")
                if "\x1b[6n" in data:  # prompt_toolkit asks where the cursor is
                    os.write(self._ours, b"\x1b[1;1R")
                self._shown += re.sub("\x1b\\[[0-9;?]*[a-zA-Z]", "", data)
        part = self._shown[self._seen : self._seen + found.end()]
        self._seen += found.end()
        return part

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def wait(self) -> int:
        try:
            while os.read(self._ours, 4096):
                pass
        except OSError:  # EIO: the program has gone
            pass
        return self._process.wait(timeout=60)

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        os.close(self._ours)


@pytest.fixture
def terminal(model_path: Path, tmp_path: Path):
    opened = []

    def start(*arguments: str) -> Terminal:
        opened.append(Terminal(["chat", "-m", str(model_path), *arguments], tmp_path))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_conversation_on_a_terminal(terminal, tmp_path: Path, shared_pipeline: Pipeline):
    pytest.importorskip("prompt_toolkit")
    reply = shared_pipeline.chat(["你好"], do_sample=False, max_new_tokens=16).content
    chat = terminal(*GREEDY)
    chat.expect("You >")
    chat.type("你好\r")
    assert reply[:8] in chat.expect(r"tokens/s")
    chat.expect("You >")
    chat.type("/tokens\r")
    chat.expect("The conversation has [0-9]+ tokens")
    chat.expect("You >")
    chat.type("\x1b\r")  # Alt+Enter: another line, no question yet
    chat.type("\x03")  # Ctrl-C leaves the line, not the program
    chat.expect("Ctrl-D, to leave")
    chat.expect("You >")
    chat.type("\x04")
    assert chat.wait() == 0
    questions = tmp_path / "questions"
    assert "你好" in questions.read_text(encoding="utf-8")
    assert questions.stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_markdown_is_drawn_on_a_terminal(pipeline: Pipeline, monkeypatch):
    console = pytest.importorskip("rich.console")
    import io

    from chatglm_cpp.cli.render import MarkdownPrinter

    file = io.StringIO()
    printer = MarkdownPrinter(console.Console(file=file, width=60, height=20, force_terminal=True))
    text = "# 标题\n\n**粗体** and `code`\n\n- 一\n- 二\n\n```python\nprint(1)\n```\n"
    for character in text:
        printer.put(character)
    printer.put_line("get_weather({})")
    printer.finish()
    shown = re.sub("\x1b\\[[0-9;?]*[a-zA-Z]", "", file.getvalue())
    lines = [line.strip() for line in shown.replace("\r", "\n").splitlines()]
    assert "**" not in lines[-1] and "```" not in "".join(lines[-6:])
    for line in ("标题", "粗体 and code", "• 一", "• 二", "print(1)", "get_weather({})"):
        assert line in lines, lines
    assert lines.count("粗体 and code") >= 1
