"""Files of requests: what is written, and that nothing is lost or doubled when a run is killed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chatglm_cpp import InvalidArgument
from chatglm_cpp.batch import Line, Outcome, answer_lines, run_batch

CHAT = "/v1/chat/completions"


async def echo(url: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Endpoints that answer with the question, those with the smaller "wait" first."""
    for _ in range(body.get("wait", 0)):
        await asyncio.sleep(0)
    if "fail" in body:
        raise RuntimeError(body["fail"])
    if "status" in body:
        return body["status"], {"error": {"message": "no"}}
    return 200, {"url": url, "body": body, "usage": {"completion_tokens": 2}}


@contextlib.contextmanager
def echoing() -> Iterator[Any]:
    yield echo


def request(custom_id: object, url: str = CHAT, **body: Any) -> dict[str, Any]:
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body}


def write(path: Path, *lines: object) -> Path:
    texts = [line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in lines]
    path.write_text("".join(text + "\n" for text in texts), encoding="utf-8")
    return path


def read(path: Path) -> list[dict[str, Any]]:
    text = path.read_bytes().decode()
    assert not text or text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def ids(path: Path) -> list[str]:
    return sorted(record["custom_id"] for record in read(path))


def test_a_record_has_openais_form(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", request("一", model="m", messages=[]))
    outcome = run_batch(source, tmp_path / "out.jsonl", echoing)
    (record,) = read(tmp_path / "out.jsonl")
    assert list(record) == ["id", "custom_id", "response", "error"]
    assert record["id"].startswith("batch_req_")
    assert record["custom_id"] == "一"
    assert record["error"] is None
    assert record["response"]["status_code"] == 200
    assert record["response"]["request_id"].startswith("req_")
    assert record["response"]["body"]["body"] == {"model": "m", "messages": []}
    assert (outcome.total, outcome.before, outcome.answered, outcome.failed) == (1, 0, 1, 0)
    assert outcome.tokens == 2 and not outcome.interrupted


BAD = [
    ("{", "Line 1: is no JSON"),
    ("[" * 100_000, "Line 1: is no JSON"),
    ("[]", "Line 1: is no JSON object"),
    ({}, 'Line 1: needs a "custom_id"'),
    ({"custom_id": 5}, 'Line 1: needs a "custom_id"'),
    ('{"custom_id": "\\ud800"}', 'Line 1: needs a "custom_id"'),
    ({**request("a"), "method": "GET"}, 'Line 1: needs "method": "POST"'),
    (request("a", url="/v1/files"), 'Line 1: needs a "url"'),
    ({**request("a"), "url": ["/v1/files"]}, 'Line 1: needs a "url"'),
    ({**request("a"), "body": []}, 'Line 1: needs a "body"'),
    ({**request("a"), "priority": 1}, "Line 1: has the unknown field 'priority'"),
    (request("a", stream=True), "Line 1: has a stream"),
    (request("a", fail="大\ud800"), "Line 1: the request failed: RuntimeError"),
]


@pytest.mark.parametrize(("line", "sentence"), BAD, ids=range(len(BAD)))
def test_a_line_that_fails_gets_its_record_and_the_others_go_on(
    tmp_path: Path, line: object, sentence: str
) -> None:
    text = line if isinstance(line, str) else json.dumps(line)
    source = write(tmp_path / "in.jsonl", text, "", request("good"))
    target = tmp_path / "out.jsonl"
    outcome = run_batch(source, target, echoing)
    assert (outcome.total, outcome.answered, outcome.failed) == (2, 2, 1)
    bad, good = sorted(read(target), key=lambda record: record["custom_id"] == "good")
    assert bad["response"] is None and bad["error"]["message"].startswith(sentence)
    assert good["response"]["status_code"] == 200
    before = target.read_bytes()
    assert run_batch(source, target, echoing).failed == 1
    assert target.read_bytes() == before


def test_a_line_of_any_length_is_an_error_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("records", "files"):
        monkeypatch.setattr(f"chatglm_cpp.batch.{module}.MAX_LINE_BYTES", 1000)
    for size in (998, 999, 1000, 1001, 1002, 1003, 3000):
        source = write(tmp_path / "in.jsonl", "x" * size, request("good"))
        target = tmp_path / f"{size}.jsonl"
        assert run_batch(source, target, echoing).total == 2
        bad, good = sorted(read(target), key=lambda record: record["custom_id"] == "good")
        assert ("more than 1000 bytes" in bad["error"]["message"]) == (size > 1000)
        assert good["response"]


def test_statuses_of_the_endpoints_are_kept(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", request("a", status=400), request("b"))
    assert run_batch(source, tmp_path / "out.jsonl", echoing).failed == 1
    statuses = {r["custom_id"]: r["response"]["status_code"] for r in read(tmp_path / "out.jsonl")}
    assert statuses == {"a": 400, "b": 200}
    assert run_batch(source, tmp_path / "out.jsonl", echoing).failed == 1  # from the file


def test_two_lines_of_one_name_are_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", request("a"), request("b"), request("a", n=1))
    with pytest.raises(InvalidArgument, match="lines 1 and 3 have the same custom_id 'a'"):
        run_batch(source, tmp_path / "out.jsonl", echoing)
    assert not (tmp_path / "out.jsonl").exists()


def test_files_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    target = tmp_path / "out.jsonl"
    with pytest.raises(FileNotFoundError, match="no such file"):
        run_batch(tmp_path / "in.jsonl", target, echoing)
    source = write(tmp_path / "in.jsonl", " ", "")
    with pytest.raises(InvalidArgument, match="has no requests"):
        run_batch(source, target, echoing)
    write(source, request("a"))
    with pytest.raises(InvalidArgument, match="both input and output"):
        run_batch(source, source, echoing)
    for other in (b"GGUF\0\1", b"hello", b"{}\n", b'{"id": "batch_req_1"}\n'):
        target.write_bytes(other)
        with pytest.raises(InvalidArgument, match="Give another output"):
            run_batch(source, target, echoing)
        assert target.read_bytes() == other


def test_the_next_run_computes_only_what_is_missing(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", request("a"), request("b"))
    target = tmp_path / "out.jsonl"
    run_batch(source, target, echoing)
    first = target.read_bytes()

    @contextlib.contextmanager
    def refusing() -> Iterator[Any]:
        raise AssertionError("the model is loaded for nothing")
        yield

    assert run_batch(source, target, refusing).before == 2
    with open(source, "a") as file:
        file.write(json.dumps(request("c")))  # without a line break, as editors leave it
    outcome = run_batch(source, target, echoing)
    assert (outcome.before, outcome.answered) == (2, 3)
    assert target.read_bytes().startswith(first)
    assert ids(target) == ["a", "b", "c"]


def test_an_input_that_was_changed_is_told(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", request("a"), request("b"))
    target = tmp_path / "out.jsonl"
    run_batch(source, target, echoing)
    before = target.read_bytes()
    for lines in ([request("a", n=2), request("b")], [request("b"), request("a")], [request("a")]):
        write(source, *lines)
        with pytest.raises(InvalidArgument, match="the input was changed"):
            run_batch(source, target, echoing)
        assert target.read_bytes() == before


def test_an_input_that_changes_during_a_run_ends_it(tmp_path: Path) -> None:
    long = "x" * 100_000  # so that a line is not read before its time
    source = write(tmp_path / "in.jsonl", *(request(f"{i}", x=long) for i in range(9)))

    def change(outcome: Outcome) -> None:
        if outcome.answered == 1:
            write(source, *(request(f"{i + 1}", x=long) for i in range(9)))

    with pytest.raises(InvalidArgument, match="was changed during the run"):
        run_batch(source, tmp_path / "out.jsonl", echoing, parallel=2, on_progress=change)
    assert 1 <= len(read(tmp_path / "out.jsonl")) < 9


def test_a_record_cut_anywhere_is_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda file: None)  # it takes time, and these cuts are not the disk's
    source = write(tmp_path / "in.jsonl", request("a", x='"} \\'), request("二"))
    target = tmp_path / "out.jsonl"
    run_batch(source, target, echoing)
    whole = target.read_bytes()
    for n in range(len(whole)):
        for rest in (b"", b"\0" * 7):  # a machine that failed leaves zeros
            target.write_bytes(whole[:n] + rest)
            run_batch(source, target, echoing)
            assert ids(target) == ["a", "二"], n


def test_too_many_at_once_are_asked_again(tmp_path: Path) -> None:
    running, most = 0, 0

    async def few(url: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        nonlocal running, most
        if running == 3:
            return 503, {}
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return 200, {}

    lines = [Line(i, json.dumps(request(f"{i}")).encode()) for i in range(1, 51)]
    records = answer_lines(few, lines, parallel=20)
    assert [record.custom_id for record in records] == [f"{i}" for i in range(1, 51)]
    assert all(record.succeeded for record in records)
    assert most == 3


def test_one_that_is_refused_alone_gets_its_record() -> None:
    async def full(url: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        return 503, {}

    (record,) = answer_lines(full, [Line(1, json.dumps(request("a")).encode())])
    assert record.status == 503


def test_no_more_than_asked_for_run_at_a_time() -> None:
    running, most, drawn = 0, 0, 0

    async def count(url: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        nonlocal running, most
        running += 1
        most = max(most, running)
        assert drawn <= answered + 4 + 4  # a line is read when there is a place for it
        await asyncio.sleep(0)
        running -= 1
        return 200, {}

    def lines() -> Iterator[Line]:
        nonlocal drawn
        for i in range(1, 30):
            drawn += 1
            yield Line(i, json.dumps(request(f"{i}")).encode())

    answered = 29
    assert len(answer_lines(count, lines(), parallel=4)) == 29
    assert most == 4


# A run in a process of its own. It says how many records it has written after each, and takes a moment for
# each request, so that a kill finds some of them running.
CHILD = """
import asyncio, contextlib, random, resource, sys
from pathlib import Path
from chatglm_cpp.batch import run_batch

async def answer(url, body):
    await asyncio.sleep(random.random() / 500)
    return 200, {"text": "字" * random.randrange(3000), "asked": body}

@contextlib.contextmanager
def load():
    yield answer

source, target, limit = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
outcome = run_batch(source, target, load, parallel=8,
                    on_progress=lambda o: print(o.answered, flush=True))
print("interrupted" if outcome.interrupted else "complete", flush=True)
"""


def child(source: Path, target: Path, limit: int = 0) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CHILD, str(source), str(target), str(limit)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def many(tmp_path: Path) -> tuple[Path, Path, list[str]]:
    names = [f"r{i:03}" for i in range(200)]
    return write(tmp_path / "in.jsonl", *map(request, names)), tmp_path / "out.jsonl", names


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
def test_kills_lose_and_double_nothing(tmp_path: Path) -> None:
    source, target, names = many(tmp_path)
    chance = random.Random(7)
    kills = 0
    for _ in range(8):
        run = child(source, target)
        assert run.stdout
        for _ in range(chance.randrange(1, 40)):
            line = run.stdout.readline().strip()
        run.kill()
        run.communicate()
        kills += line != "complete"
        written = [json.loads(text)["custom_id"] for text in target.read_bytes().split(b"\n")[:-1]]
        assert len(set(written)) == len(written) >= int(line)
    assert kills >= 4
    output, errors = child(source, target).communicate()
    assert output.endswith("complete\n"), errors
    assert ids(target) == names
    assert all(record["response"]["body"]["asked"] == {} for record in read(target))


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_stops_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    source, target, names = many(tmp_path)
    run = child(source, target)
    assert run.stdout
    for _ in range(5):
        run.stdout.readline()
    run.send_signal(number)
    output, errors = run.communicate()
    assert (run.returncode, errors) == (0, "")
    assert output.endswith("interrupted\n")
    assert 4 <= len(read(target)) < 200
    output, errors = child(source, target).communicate()
    assert output.endswith("complete\n"), errors
    assert ids(target) == names


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on file sizes")
def test_a_full_disk_leaves_whole_lines(tmp_path: Path) -> None:
    source, target, names = many(tmp_path)
    _, errors = child(source, target, limit=50_000).communicate()
    assert "cannot be written: File too large." in errors
    assert 0 < len(read(target)) < 200
    child(source, target).communicate()
    assert ids(target) == names


@pytest.mark.skipif(sys.platform == "win32", reason="needs locks")
def test_two_runs_do_not_share_an_output(tmp_path: Path) -> None:
    source, target, _ = many(tmp_path)
    asked = []

    def intrude(outcome: Outcome) -> None:
        if outcome.answered == 5:
            asked.append(outcome)
            with pytest.raises(InvalidArgument, match="another run is writing"):
                run_batch(source, target, echoing)

    run_batch(source, target, echoing, on_progress=intrude)
    assert asked and len(read(target)) == 200
