"""What the user sees: a progress bar while converting, a table at the end."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any

from .driver import Summary


class ProgressBar:
    """A bar with the tensor's name, size, speed and remaining time; silent when stderr is no terminal."""

    def __init__(self, quiet: bool) -> None:
        self._bar: Any = None
        self._quiet = quiet or not sys.stderr.isatty()

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, tensor: str, done: int, total: int) -> None:
        if self._quiet:
            return
        if self._bar is None:
            from tqdm import tqdm

            self._bar = tqdm(
                desc=tensor, total=total, unit="B", unit_scale=True, dynamic_ncols=True, leave=False
            )
        self._bar.set_description_str(tensor, refresh=False)
        self._bar.update(done - self._bar.n)


def format_bytes(n: float) -> str:
    for unit in ("B", "KB", "MB"):
        if n < 1000:
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1000
    return f"{n:.2f} GB"


def _chat(summary: Summary) -> str:
    return "" if summary.is_adapter else f", chat format {summary.chat_format or 'none'}"


def format_summary(summary: Summary) -> str:
    """The table that ends a conversion."""
    lines = [f"{'type':<8}{'tensors':>8}{'size':>12}"]
    for name, (count, n_bytes) in summary.types.items():
        lines.append(f"{name:<8}{count:>8}{format_bytes(n_bytes):>12}")
    count = sum(n for n, _ in summary.types.values())
    lines.append(f"{'total':<8}{count:>8}{format_bytes(summary.file_bytes):>12}")
    lines.append(
        f"{summary.name} ({summary.architecture}{_chat(summary)}): "
        f"{format_bytes(summary.source_bytes)} -> {format_bytes(summary.file_bytes)}, {summary.seconds:.1f} s"
    )
    if summary.skipped:
        shown = ", ".join(summary.skipped[:8]) + (", ..." if len(summary.skipped) > 8 else "")
        lines.append(f"note: {len(summary.skipped)} tensors of the checkpoint are not used: {shown}")
    lines += [f"note: {note}" for note in summary.notes[:20]]
    if len(summary.notes) > 20:
        lines.append(f"note: {len(summary.notes) - 20} more of these")
    lines.append(f"wrote {summary.path}")
    return "\n".join(lines)
