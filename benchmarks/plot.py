"""Draws what compare.py --json has written: tokens a second by the length of the prompt, by the depth of the
cache and by the number of replies together.

    python benchmarks/plot.py out.json out.png

Needs matplotlib.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

PANELS = (
    ("Prompt", "tokens of the prompt", "tokens", lambda r: r["kind"] == "prompt"),
    ("Reply", "tokens in the cache", "depth", lambda r: r["kind"] == "reply" and r["batch"] == 1),
    ("Replies together", "replies", "batch", lambda r: r["kind"] == "reply" and r["depth"] == 0),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", help="JSON of compare.py")
    parser.add_argument("picture", help="PNG file to write")
    args = parser.parse_args()
    try:
        with open(args.results, encoding="utf-8") as file:
            report = json.load(file)
        results, about = report["results"], report["programs"]["chatglm_cpp"]
        title = f"{about['model']}, {about['dtype']}, {about['threads']} threads, {report['machine']}"
    except (OSError, ValueError, KeyError, TypeError) as error:
        sys.exit(f"error: {args.results}: is no JSON of compare.py ({error})")
    if not results:
        sys.exit(f"error: {args.results}: holds no measurements")
    try:
        draw(results, title, args.picture)
    except (KeyError, TypeError) as error:
        sys.exit(f"error: {args.results}: is no JSON of compare.py ({error!r})")
    except ValueError as error:
        sys.exit(f"error: {args.picture}: cannot be drawn ({error})")
    except ImportError:
        sys.exit("error: drawing needs matplotlib; run: pip install matplotlib")
    except OSError as error:
        sys.exit(f"error: {args.picture}: cannot be written ({error.strerror})")


def draw(results: list[dict[str, Any]], title: str, picture: str) -> None:
    import matplotlib

    matplotlib.use("Agg")  # no window
    from matplotlib import pyplot

    panels = [(head, label, key, [r for r in results if has(r)]) for head, label, key, has in PANELS]
    # One size alone makes no line; of a single one the first panel that has it is enough.
    shown = [panel for panel in panels if len(panel[3]) > 1] or [panel for panel in panels if panel[3]][:1]
    figure, axes = pyplot.subplots(1, len(shown), figsize=(5 * len(shown), 4), squeeze=False)
    for axis, (head, label, key, rows) in zip(axes[0], shown, strict=True):
        rows = sorted(rows, key=lambda row: row[key])
        for name in dict.fromkeys(name for row in rows for name in row["programs"]):
            points = [(row[key], row["programs"][name]) for row in rows if name in row["programs"]]
            middle = [rate["median"] for _, rate in points]
            below = [rate["median"] - rate["min"] for _, rate in points]
            above = [rate["max"] - rate["median"] for _, rate in points]
            axis.errorbar(
                [x for x, _ in points], middle, yerr=[below, above], marker="o", capsize=3, label=name
            )
        axis.set_title(head)
        axis.set_xlabel(label)
        axis.set_ylabel("tokens / s")
        axis.set_xticks([row[key] for row in rows])
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
        axis.legend()
    figure.suptitle(title)
    figure.tight_layout()
    figure.savefig(picture, dpi=120)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
