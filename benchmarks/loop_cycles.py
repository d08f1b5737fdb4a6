"""Predicts the cycles of the innermost loops of 64-bit ARM functions, which a compiler wrote as assembly.

    aarch64-linux-gnu-g++ -std=c++20 -O3 -ffp-contract=off -fno-trapping-math -march=armv8.2-a+dotprod \\
        -Icsrc -Icsrc/include -S csrc/backend/cpu/kernels/dotprod.cpp -o dotprod.s
    python benchmarks/loop_cycles.py dotprod.s 'tile<.*Q4_0, 2, 4>' --cpu apple-m1

Needs llvm-mca, llvm-mc beside it, and c++filt. A prediction takes every load to hit the first-level cache; it
is no measurement.
"""

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

LABEL = re.compile(r"^(\.?[\w$.]+):")
BRANCH = re.compile(r"^\s+(?:b\.?\w\w|cbn?z|tbn?z)\s+(?:.*,\s*)?(\.L\w+|\d+)b?\s*(?://.*)?$")
ITERATIONS = 200


def functions(text: str) -> Iterator[tuple[str, list[str]]]:
    """Names, demangled, and lines of the functions of a file."""
    names, bodies = [], []
    # Assembly inside of C++ has numbers for labels, "1:", and stands where it likes.
    text = re.sub(r"^\s*(\d+):[ \t]*", r"\1:\n\t", text, flags=re.MULTILINE)
    text = re.sub(r"^(\.?[a-z][\w.]*[ \t])", r"\t\1", text, flags=re.MULTILINE)
    for line in text.splitlines():
        label = LABEL.match(line)
        if label and not label[1].startswith(".L") and not label[1].isdigit():
            names.append(label[1])
            bodies.append([])
        elif bodies:
            bodies[-1].append(line)
    demangled = subprocess.run(
        ["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True
    )
    plain = demangled.stdout.replace("chatglm::cpu::", "").replace("(anonymous namespace)::", "")
    yield from zip(plain.splitlines(), bodies, strict=True)


def innermost_loops(lines: list[str]) -> Iterator[list[str]]:
    """Instructions from a label to the branch back to it, with no other jump's target and no loop between."""
    start, label = 0, ""
    for i, line in enumerate(lines):
        if found := LABEL.match(line):
            start, label = i + 1, found[1]
        elif (branch := BRANCH.match(line)) and branch[1] == label:
            loop = [code for code in lines[start:i] if re.match(r"\s+(\.inst\b|[a-z])", code)]
            yield [*loop, re.sub(r"\b\d+b\b", ".Lloop", line)]  # llvm-mca follows no label


def decoded(loop: list[str], mca: str) -> list[str]:
    """With instructions that are given as numbers (.inst), which llvm-mca passes over, by their names."""
    words = [re.fullmatch(r"\s*\.inst\s+0x(\w+).*", line) for line in loop]
    numbers = [int(word[1], 16).to_bytes(4, "little") for word in words if word]
    if not numbers:
        return loop
    text = "\n".join(" ".join(f"{byte:#x}" for byte in number) for number in numbers)
    command = [mca.removesuffix("-mca") + "-mc", "-triple=aarch64", "-mattr=+all", "-disassemble"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
    names = iter([line for line in done.stdout.splitlines() if re.match(r"\s+[a-z]", line)])
    return [next(names) if word else line for line, word in zip(loop, words, strict=True)]


def cycles(loop: list[str], cpu: str, mca: str) -> float:
    """Of one turn."""
    # An older model may lack what the table needs, and still tell of what is around it.
    command = [mca, "-mtriple=aarch64", f"-mcpu={cpu}", "-mattr=+dotprod,+i8mm", f"-iterations={ITERATIONS}"]
    done = subprocess.run(
        command, input="\n".join(decoded(loop, mca)), capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        sys.exit(f"error: {mca}: {done.stderr.strip()}")
    total = re.search(r"Total Cycles:\s+(\d+)", done.stdout)
    assert total
    return int(total[1]) / ITERATIONS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, help="assembly, as gcc -S writes it")
    parser.add_argument("function", help="regular expression that finds the demangled names")
    parser.add_argument("--cpu", nargs="+", default=["apple-m1"], help="models of llvm-mca (apple-m1)")
    parser.add_argument("--all", action="store_true", help="each loop, not just the longest of a function")
    parser.add_argument("--mca", default="llvm-mca", help="the program (llvm-mca)")
    args = parser.parse_args()
    print("instructions", *(f"{cpu:>12}" for cpu in args.cpu), "function")
    for name, lines in functions(args.file.read_text("utf-8")):
        if not re.search(args.function, name):
            continue
        # The loop that multiplies is mostly the longest one; others set up and clean up.
        loops = sorted(innermost_loops(lines), key=len, reverse=True)
        for loop in loops if args.all else loops[:1]:
            predicted = (f"{cycles(loop, cpu, args.mca):12.1f}" for cpu in args.cpu)
            print(f"{len(loop):12}", *predicted, name.partition("(")[0])


if __name__ == "__main__":
    main()
