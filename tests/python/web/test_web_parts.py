"""What the web page is made of, without a browser."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from chatglm_cpp import InvalidArgument, Pipeline
from chatglm_cpp.cli import main

pytest.importorskip("gradio", reason="the page needs gradio", exc_type=ImportError)

from page_server import GRADIO_WARNINGS, serving

from chatglm_cpp.web.conversation import Conversation, Document, Turn
from chatglm_cpp.web.documents import MAX_BYTES, DocumentError, read_document, take_file
from chatglm_cpp.web.markdown import read_question, show_question, show_reply
from chatglm_cpp.web.page import page_head
from chatglm_cpp.web.replies import Replies, write_reply
from chatglm_cpp.web.rows import make_rows, question_of_row
from chatglm_cpp.web.settings import accept_all, settings_of, to_options
from chatglm_cpp.web.strings import CHINESE, ENGLISH, strings_for

pytestmark = GRADIO_WARNINGS


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("vector<int> and `a<b>`", "vector\\<int> and `a<b>`"),
        ("a < b, <br> stays", "a < b, <br> stays"),
        ("```cpp\n#include <x>\n```\n<b>", "```cpp\n#include <x>\n```\n\\<b>"),
        ("```\nopen <x>", "```\nopen <x>"),
        ("1. a\n   ~~~\n   <x>\n   ~~~\n   <y>", "1. a\n   ~~~\n   <x>\n   ~~~\n   \\<y>"),
        ("$x<y$ costs $5 and $6", "\\(x\\lt y\\) costs $5 and $6"),
        ("\\[a<b\\] ![x](y)", "\\[a\\lt b\\] \\![x](y)"),
    ],
)
def test_html_in_replies_becomes_text_and_code_stays(text: str, shown: str) -> None:
    assert show_reply(text) == shown


@pytest.mark.parametrize("text", ["\\[a", "$a", "$$a", "`` ` ", "```\n", "<a ![", "\\("])
def test_showing_a_reply_that_repeats_itself_takes_no_long_time(text: str) -> None:
    done = threading.Event()

    def show() -> None:
        show_reply(text * 5000)
        done.set()

    threading.Thread(target=show, daemon=True).start()
    assert done.wait(20)


@pytest.mark.parametrize("text", ["<b>x</b> ![p](u)", "a < b", "#include <iostream>", "<!-- c -->"])
def test_an_edited_question_is_what_was_written(text: str) -> None:
    assert "<b" not in show_question(text) and "![" not in show_question(text)
    assert read_question(show_question(text)) == text


def test_a_conversation_comes_back_from_the_browser() -> None:
    conversation = Conversation(system="s", turns=[Turn("q", [Document("n", "t", 1)], "thought", "a")])
    conversation.ask("next  question\n" * 9, [])
    assert Conversation.load(conversation.dump()) == conversation
    assert conversation.title.startswith("next question next") and len(conversation.title) <= 40
    assert Conversation.load("").turns == []


@pytest.mark.parametrize(
    "text",
    [
        "{", "[]", "null", "3", '{"id": 1}', "[" * 100_000,
        '{"id":"a","title":"t","updated":1e999,"system":"","turns":[{}]}',
        '{"id":"a","title":"t","updated":0,"system":"","turns":{}}',
        '{"id":"a","title":"\\ud800","updated":0,"system":"","turns":[]}',
        '{"id":"a","title":"t","updated":0,"system":"","turns":["x"]}',
    ],
)  # fmt: skip
def test_a_damaged_conversation_is_an_error(text: str) -> None:
    with pytest.raises(InvalidArgument):
        Conversation.load(text)


def test_the_model_reads_documents_before_the_question_and_no_turn_without_answer() -> None:
    turns = [Turn("one", answer="1"), Turn("stopped"), Turn("two", [Document("a.txt", "text", 1)])]
    messages = Conversation(system="be", turns=turns).messages()
    assert [m.role for m in messages] == ["system", "user", "assistant", "user"]
    assert messages[-1].content == "a.txt:\n\ntext\n\ntwo"


def test_rows_tell_which_question_they_show() -> None:
    turns = [Turn("one", [Document("d", "text ``` more", 3)], "thought", "1"), Turn("two")]
    conversation = Conversation(turns=turns)
    rows = make_rows(conversation, ENGLISH)
    assert [row["role"] for row in rows] == ["user", "user", "assistant", "assistant", "user", "assistant"]
    assert rows[0]["content"].startswith("````text\n")
    assert [question_of_row(conversation, i) for i in range(7)] == [None, 0, None, None, 1, None, None]
    assert len(make_rows(conversation, ENGLISH, running=True)) == 5


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("你好\r\nb".encode(), "你好\nb"),
        ("\ufeff你好".encode(), "你好"),
        ("你好，世界".encode("gb18030"), "你好，世界"),
        ("你好".encode("utf-16"), "你好"),
    ],
)
def test_text_in_usual_encodings_is_read(data: bytes, text: str) -> None:
    assert read_document("a.txt", data, ENGLISH) == text


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"\0\1", "no text"),
        (b"\xff\xfe\x00", "no text"),
        (b" \n", "no text in it"),
        (b"%PDF-1.7\n???", "PDF"),
    ],
)
def test_what_is_no_text_is_refused(data: bytes, word: str) -> None:
    with pytest.raises(DocumentError, match=word):
        read_document("a.bin", data, ENGLISH)


def test_a_pdf_is_read() -> None:
    pytest.importorskip("pypdf", reason="PDF needs pypdf")
    content = b"BT /F1 12 Tf 20 100 Td (The river is long.) Tj ET"
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 200 200]/Contents 4 0 R/Resources<</Font<</F1 5 0 R>>>>>>",
        b"<</Length %d>>stream\n%s\nendstream" % (len(content), content),
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
    ]
    data, offsets = b"%PDF-1.4\n", []
    for i, body in enumerate(objects, 1):
        offsets.append(len(data))
        data += b"%d 0 obj\n%s\nendobj\n" % (i, body)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    data += b"xref\n0 6\n0000000000 65535 f \n%strailer<</Size 6/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF" % (
        table,
        len(data),
    )
    assert read_document("a.pdf", data, ENGLISH) == "The river is long."


def test_an_uploaded_file_is_deleted_whether_it_is_read_or_not(tmp_path: Path) -> None:
    small, large = tmp_path / "small.txt", tmp_path / "large.txt"
    small.write_text("text")
    large.write_bytes(b"x" * (MAX_BYTES + 1))
    assert take_file(str(small), ENGLISH) == ("small.txt", "text")
    with pytest.raises(DocumentError, match="at most 4 MB"):
        take_file(str(large), ENGLISH)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DocumentError, match="did not arrive"):
        take_file(str(small), ENGLISH)


def test_settings_of_a_browser_are_brought_into_their_ranges() -> None:
    settings = settings_of(2048, 8192)
    defaults = accept_all(settings, None)
    assert defaults == [0.95, 0.7, 0, 1.0, 0, 2048, -1, "drop_oldest"]
    for wrong in ("x", [1], {}, [float("nan")] * 8, [None] * 8, [True] * 8):
        assert accept_all(settings, wrong) == defaults
    options = to_options(settings, [9, -1, 5.0, 1.1, 0, 1e9, float("inf"), "error"])
    assert options["temperature"] == 2.0 and options["top_p"] == 0.05 and options["top_k"] == 5
    assert options["max_new_tokens"] == -1 and options["max_length"] == 2048 and options["seed"] == 2**31 - 1
    assert options["when_full"] == "error"


def test_both_languages_have_the_same_places_to_fill() -> None:
    def places(text: str) -> set[str]:
        return {part.split("}")[0] for part in text.split("{")[1:]}

    assert all(places(ENGLISH[key]) == places(CHINESE[key]) for key in ENGLISH)
    assert strings_for("zh-TW,en;q=0.8") is CHINESE and strings_for("fr,zh") is ENGLISH


def wait_until_idle(pipeline: Pipeline) -> None:
    deadline = time.monotonic() + 30
    while pipeline.stats.running or pipeline.stats.waiting:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_a_stopped_reply_gives_its_place_back(pipeline: Pipeline) -> None:
    async def stop_after_the_first_words() -> list[Any]:
        replies = Replies()
        seen = []
        with replies.begin("page") as running:
            async for progress in write_reply(pipeline, ["Hi"], running, ignore_eos=True):
                seen.append(progress)
                replies.stop("page")
        return seen

    seen = asyncio.run(stop_after_the_first_words())
    assert seen[-1].ended and seen[-1].usage.finish_reason in ("cancelled", "length")
    wait_until_idle(pipeline)


def test_a_dropped_reply_gives_its_place_back(pipeline: Pipeline) -> None:
    async def drop() -> None:
        with Replies().begin("page") as running:
            writing = write_reply(pipeline, ["Hi"], running, ignore_eos=True)
            await anext(writing)
            await writing.aclose()

    asyncio.run(drop())
    wait_until_idle(pipeline)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--share"], "give --auth"),
        (["--auth", "nobody"], "USER:PASSWORD"),
        (["--port", "70000"], "between 1 and 65535"),
        (["--max_length", "3"], "at least 64"),
    ],
)
def test_wrong_options_are_told(
    capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    assert main(["web", *arguments]) == 2
    assert sentence in capsys.readouterr().err


def test_the_page_is_safe_by_itself_and_asks_for_the_password(pipeline: Pipeline) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with serving(pipeline, auth=[("me", "secret")]) as address:
        assert address.url.startswith("http://127.0.0.1:") and address.share_url is None
        with opener.open(address.url) as answer:
            page = answer.read().decode()
            assert "default-src 'self'" in answer.headers["content-security-policy"]
        assert "auth_required" in page and pipeline.config.name not in page
        with pytest.raises(urllib.error.HTTPError) as refused:
            opener.open(f"{address.url}config")
        assert refused.value.code == 401
        refused.value.close()
        port = int(address.url.rstrip("/").rpartition(":")[2])
        with pytest.raises(OSError, match="is taken"), serving(pipeline, port=port):
            pass
    with socket.socket() as probe:
        probe.settimeout(5)
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_a_page_that_takes_the_name_of_this_machine_may_not_ask(pipeline: Pipeline) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with serving(pipeline) as address:
        for name in ("localhost", "[::1]:7860"):
            with opener.open(urllib.request.Request(address.url, headers={"Host": name})) as answer:
                assert answer.status == 200
        with pytest.raises(urllib.error.HTTPError, match="421") as refused:
            opener.open(urllib.request.Request(f"{address.url}config", headers={"Host": "evil.example:7860"}))
        refused.value.close()


def test_what_the_browser_is_told_is_json() -> None:
    head = page_head()
    assert "__CHINESE__" not in head and json.dumps(CHINESE["ask_delete"], ensure_ascii=False) in head
