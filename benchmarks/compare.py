"""Speed of one GGUF file here, in turns with llama.cpp and, on request, with the earlier chatglm-cpp.

    python benchmarks/compare.py model.gguf --threads 2 --prompts 128,512 --depths 0,1024 --batches 1,2,4
    python benchmarks/compare.py model.gguf --old-python OLD/bin/python --old-model model.bin --json out.json

Every program runs in a process of its own; in each round all of them measure the same sizes one after
another, so that what else the machine does meets all alike. Printed are medians in tokens a second and their
spread, and the median and spread of the rounds' ratios. llama.cpp is measured with flash attention and
without, with --kv-dtype q8_0 also with such a cache, and the fastest of these counts. Prompts and replies
have fixed ids, without sampling.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from peer import Peer, PeerError

OURS = "chatglm_cpp"
LLAMA_CPP = "llama.cpp"
OLD = "chatglm-cpp 0.4"
SETTINGS = {  # of llama.cpp
    "plain": "without flash attention",
    "flash": "with flash attention",
    "q8_0": "with flash attention and a q8_0 cache",
}


@dataclass(frozen=True)
class Size:
    kind: str  # "prompt" or "reply"
    tokens: int  # of the prompt, or of each reply
    depth: int = 0
    batch: int = 1

    def __str__(self) -> str:
        if self.kind == "prompt":
            return f"prompt {self.tokens}"
        return f"reply {self.tokens} behind {self.depth}" + (f" x {self.batch}" if self.batch > 1 else "")


@dataclass
class Program:
    name: str
    peer: Peer
    arguments: tuple[dict[str, Any], ...] = ({},)  # settings of which the faster counts

    def measure(self, size: Size) -> list[float]:
        """Seconds with each of the settings."""
        sizes = {"tokens": size.tokens}
        if size.kind == "reply":
            sizes |= {"depth": size.depth, "batch": size.batch}
        do = "prompt" if size.kind == "prompt" else "decode"
        return [self.peer.do(do, **sizes, **more) for more in self.arguments]


def numbers(least: int) -> Callable[[str], list[int]]:
    def parse(text: str) -> list[int]:
        try:
            values = [int(item) for item in text.split(",")]
        except ValueError:
            values = []
        if not values or min(values) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers of at least {least}")
        return values

    return parse


def positive(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of at least 1")
    return value


def main() -> None:
    args = parse_arguments()
    sizes = [Size("prompt", n) for n in args.prompts]
    sizes += [Size("reply", args.tokens, depth) for depth in sorted(args.depths)]
    sizes += [Size("reply", args.tokens, 0, batch) for batch in args.batches if batch > 1]
    try:
        with contextlib.ExitStack() as stack:
            # Opened first: minutes of measuring shall not be lost to a wrong path, nor to a later error.
            file = stack.enter_context(open(args.json, "a", encoding="utf-8")) if args.json else None
            programs, described = start_programs(args, stack)
            report = {"model": args.model, "machine": machine(), "programs": described, "results": []}
            for size in sizes:
                report["results"].append(compare(programs, size, args.rounds))
                if file:
                    file.truncate(0)
                    json.dump(report, file, indent=2)
                    file.write("\n")
                    file.flush()
    except (PeerError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="GGUF file")
    parser.add_argument("--threads", type=positive, help="default: one per physical core")
    parser.add_argument("--prompts", type=numbers(1), default=[128, 512], help="default: 128,512")
    parser.add_argument("--tokens", type=positive, default=24, help="of a reply (default: 24)")
    parser.add_argument("--depths", type=numbers(0), default=[0], help="tokens in the cache (default: 0)")
    parser.add_argument("--batches", type=numbers(1), default=[1], help="replies together (default: 1)")
    parser.add_argument(
        "--kv-dtype", choices=("f16", "q8_0"), default="f16", help="type of our cache (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=positive, default=5, help="default: 5")
    parser.add_argument("--llama-python", help="Python that has llama-cpp-python (default: this one)")
    parser.add_argument("--old-python", help="Python that has the earlier chatglm-cpp")
    parser.add_argument("--old-model", help="its model file of the same weights and type")
    parser.add_argument("--json", metavar="FILE", help="write the results there too, for plot.py")
    args = parser.parse_args()
    if bool(args.old_python) != bool(args.old_model):
        parser.error("--old-python and --old-model go together")
    return args


def start_programs(
    args: argparse.Namespace, stack: contextlib.ExitStack
) -> tuple[list[Program], dict[str, Any]]:
    """The programs that are there, and what each says of itself. Ours comes first."""
    described: dict[str, Any] = {}

    def start(name: str, python: str, script: str, *arguments: str) -> Peer:
        peer = stack.enter_context(Peer(name, python, script, *arguments))
        described[name] = peer.do("describe")
        system = f" ({described[name]['system']})" if "system" in described[name] else ""
        print(f"{name}: loaded in {described[name]['load_seconds']:.2f} s{system}")
        return peer

    if hasattr(os, "getloadavg") and os.getloadavg()[0] > (os.cpu_count() or 1) / 2:
        print(
            f"Other programs are busy (load {os.getloadavg()[0]:.1f}); close them, or the ratios mislead: "
            "threads of llama.cpp spin while they wait, and lose more than ours."
        )
    programs = [
        Program(
            OURS,
            start(
                OURS, sys.executable, "peer_chatglm_cpp.py", args.model, str(args.threads or 0), args.kv_dtype
            ),
        )
    ]
    about = described[OURS]
    print(f"{about['model']}, {about['dtype']}, {about['threads']} threads, {about['isa']}; {machine()}")
    threads = str(about["threads"])
    context = max([*args.prompts, max(args.depths) + args.tokens, max(args.batches) * args.tokens]) + 8
    others: list[tuple[str, str, tuple[str, ...], tuple[dict[str, Any], ...]]] = []
    if args.llama_python or importlib.util.find_spec("llama_cpp"):
        command = (
            "peer_llama_cpp.py",
            args.model,
            threads,
            str(context),
            str(max(args.batches)),
            args.kv_dtype,
        )
        names = ["plain", "flash"] + (["q8_0"] if args.kv_dtype == "q8_0" else [])
        settings = tuple({"setting": name} for name in names)
        others.append((LLAMA_CPP, args.llama_python or sys.executable, command, settings))
    else:
        print("llama-cpp-python is not installed: no comparison with llama.cpp")
    if args.old_python:
        command = ("peer_old_chatglm_cpp.py", args.old_model, threads)
        others.append((OLD, args.old_python, command, ({},)))
    for name, python, command, arguments in others:
        try:
            programs.append(Program(name, start(name, python, *command), arguments))
        except PeerError as error:  # a model that it cannot load, for example
            print(f"no comparison: {error}")
    return programs, described


def compare(programs: list[Program], size: Size, rounds: int) -> dict[str, Any]:
    """Measures one size in turns and prints it."""
    seconds: dict[str, list[list[float]]] = {}
    notes: dict[str, str] = {}
    for program in programs:
        try:  # brings pages of the file into memory, and what the cache shall hold before
            program.measure(Size(size.kind, min(size.tokens, 2), size.depth, size.batch))
            seconds[program.name] = []
        except PeerError as error:
            if program.name == OURS:
                raise
            notes[program.name] = str(error)
    for _ in range(rounds):
        for program in programs:
            if program.name in seconds:
                seconds[program.name].append(program.measure(size))
    n_tokens = size.tokens * size.batch
    found: dict[str, Any] = {
        "kind": size.kind,
        "tokens": size.tokens,
        "depth": size.depth,
        "batch": size.batch,
    }
    found |= {"programs": {}, "ratios": {}, "notes": notes}
    best: dict[str, list[float]] = {}  # tokens a second in every round, with the faster setting
    for program in programs:
        if program.name not in seconds:
            continue
        columns = list(zip(*seconds[program.name], strict=True))
        fastest = min(range(len(columns)), key=lambda i: statistics.median(columns[i]))
        best[program.name] = [n_tokens / s for s in columns[fastest]]
        found["programs"][program.name] = {
            **spread(best[program.name]),
            **program.arguments[fastest],
        }
    for name, rates in best.items():
        if name != OURS:
            pairs = zip(best[OURS], rates, strict=True)
            found["ratios"][name] = spread([ours / theirs for ours, theirs in pairs])
    print_result(size, found)
    return found


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def print_result(size: Size, found: dict[str, Any]) -> None:
    print(f"\n{size}")
    for name, rate in found["programs"].items():
        line = f"  {name:16} {rate['median']:9.2f} tokens/s  ({rate['min']:.2f} to {rate['max']:.2f})"
        if "setting" in rate:
            line += f"  {SETTINGS[rate['setting']]}"
        print(line)
    for name, ratio in found["ratios"].items():
        text = f"{ratio['median']:9.2f} times {name}  ({ratio['min']:.2f} to {ratio['max']:.2f})"
        print(f"  {'ratio':16} {text}")
    for note in found["notes"].values():
        print(f"  not measured: {note}")
    sys.stdout.flush()


def machine() -> str:
    """The processor, as the system names it."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    if sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
