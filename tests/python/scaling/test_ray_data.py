"""A file of requests, answered by the engines of a local Ray cluster."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chatglm_cpp import Error, InvalidArgument
from chatglm_cpp.batch import Outcome
from chatglm_cpp.cli import main

for needed in ("ray", "pyarrow", "fastapi"):
    pytest.importorskip(needed)

with warnings.catch_warnings():  # Ray has many of its own
    warnings.simplefilter("ignore")
    import ray

    from chatglm_cpp.batch.ray_data import LINES_PER_BLOCK, run_batch_on_ray

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    yield
    ray.shutdown()


def write(path: Path, n: int, **body: Any) -> Path:
    lines = [
        {
            "custom_id": f"q{i}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"messages": [{"role": "user", "content": f"{i} 加 {i} 等于多少？"}], **body},
        }
        for i in range(n)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def read(path: Path) -> dict[str, Any]:
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    found = {record["custom_id"]: record for record in records}
    assert len(found) == len(records)
    return found


def test_records_are_those_of_one_engine(
    model_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, ours, theirs = (
        write(tmp_path / "in.jsonl", 40, temperature=0, max_tokens=8),
        *(tmp_path / name for name in ("ours.jsonl", "theirs.jsonl")),
    )
    with open(source, "a") as file:
        file.write("no request\n")
    command = ["batch", "-m", str(model_path), "-i", str(source), "-t", "1", "-o"]
    assert main([*command, str(ours), "--ray", "--replicas", "2"]) == 1
    assert "41 of 41 requests are answered, 1 with errors" in capsys.readouterr().err
    assert main([*command, str(theirs)]) == 1

    def without_times(path: Path) -> dict[str, Any]:
        records = read(path)
        return {
            name: (
                record["id"],
                record["error"],
                record["response"] and record["response"]["body"]["choices"],
            )
            for name, record in records.items()
        }

    assert without_times(ours) == without_times(theirs)


def echoing(threads: int = 1, once: str | None = None) -> Any:
    """What opens engines that answer with the question. The first one that meets the question "20 ..." while
    there is a file `once` takes it away and dies."""

    @contextlib.contextmanager
    def load(n_threads: int) -> Iterator[Any]:
        async def echo(url: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
            await asyncio.sleep(0)
            if body["messages"][0]["content"].startswith("20 ") and once and os.path.exists(once):
                os.unlink(once)
                os.kill(os.getpid(), signal.SIGKILL)
            return 200, {"body": body, "threads": n_threads}

        assert n_threads == threads
        yield echo

    return load


def test_an_engine_that_dies_loses_and_doubles_nothing(tmp_path: Path) -> None:
    source, target, once = write(tmp_path / "in.jsonl", 100), tmp_path / "out.jsonl", tmp_path / "once"
    once.touch()
    outcome = run_batch_on_ray(source, target, echoing(once=str(once)), replicas=2)
    assert not once.exists()
    assert (outcome.answered, outcome.failed, len(read(target))) == (100, 0, 100)


def test_the_next_run_goes_on(tmp_path: Path) -> None:
    source, target = write(tmp_path / "in.jsonl", 10 * LINES_PER_BLOCK), tmp_path / "out.jsonl"

    def stop(outcome: Outcome) -> None:
        if outcome.answered == 5:
            raise KeyboardInterrupt

    assert run_batch_on_ray(source, target, echoing(), threads=1, on_progress=stop).interrupted
    assert len(read(target)) == 5
    outcome = run_batch_on_ray(source, target, echoing(), threads=1)
    assert (outcome.before, outcome.answered) == (5, 160)
    assert len(read(target)) == 160


def test_engines_share_the_threads_of_a_machine(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", 1)
    assert run_batch_on_ray(source, tmp_path / "1.jsonl", echoing(threads=2)).failed == 0
    assert run_batch_on_ray(source, tmp_path / "2.jsonl", echoing(threads=1), replicas=2).failed == 0


def test_what_cannot_be_done_is_a_sentence(tmp_path: Path) -> None:
    def fail(threads: int) -> Any:
        raise InvalidArgument("model.gguf: is no model.")

    source, target = write(tmp_path / "in.jsonl", 1), tmp_path / "out.jsonl"
    with pytest.raises(InvalidArgument, match="64 threads finds no place"):
        run_batch_on_ray(source, target, echoing(threads=64), threads=64)
    with pytest.raises(Error, match=r"model\.gguf: is no model"):
        run_batch_on_ray(source, target, fail)
    assert target.read_bytes() == b""
