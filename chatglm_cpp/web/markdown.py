"""Replies and questions as the page shows them.

The page renders Markdown and formulas, and removes from HTML what could run. Before that, everything that
looks like HTML becomes text here, for a reply that speaks of `vector<int>` means no tag; and pictures become
links, for a picture from elsewhere would tell its server that the reply was read.
"""

from __future__ import annotations

import re

# Delimiters of formulas, in the notation of Gradio's Chatbot.
LATEX_DELIMITERS: list[dict[str, str | bool]] = [
    {"left": "$$", "right": "$$", "display": True},
    {"left": "\\[", "right": "\\]", "display": True},
    {"left": "\\(", "right": "\\)", "display": False},
]

# Between the < and the name of a tag it makes both ordinary text; nobody sees it.
_WORD_JOINER = "\u2060"

# Code first: in it, nothing else is looked for. A block that is still open goes on to the end. Formulas
# between single dollars are those of pandoc's rule, so that "$5 and $6" are none. Their length is bounded, so
# that the time is too: a reply may repeat the beginning of a formula a thousand times.
_PARTS = re.compile(
    r"""
    (?P<code>
        ^[ \t]*(?P<fence>`{3,}|~{3,})[^\n]*(?:\n.*?)?(?:^[ \t]*(?P=fence)[`~]*[ \t]*$|\Z)
      | (?<!`)(?P<ticks>`+)(?!`)[^\n]*?(?<!`)(?P=ticks)(?!`)
    )
  | (?P<formula> \$\$.{1,1500}?\$\$ | \\\[.{1,1500}?\\\] | \\\(.{1,1500}?\\\) )
  | (?<![\\$\w])\$(?P<inline>(?=[^\s$])[^$\n]*?[^\s\\$])\$(?![\d$])
  | (?P<tag> <(?=[A-Za-z/!?])(?!br[ ]?/?>) )
  | (?P<image> !(?=\[) )
    """,
    re.VERBOSE | re.DOTALL | re.MULTILINE,
)


def show_reply(text: str) -> str:
    """Markdown that shows a reply."""
    return _PARTS.sub(_show_part, text)


def _show_part(found: re.Match[str]) -> str:
    if found["code"]:
        return found["code"]
    if found["formula"]:
        return _show_formula(found["formula"])
    if found["inline"]:
        return f"\\({_show_formula(found['inline'])}\\)"
    return "\\" + found[0]


def _show_formula(formula: str) -> str:
    # A < could begin a tag for the Markdown parser, which sees the formula first.
    return formula.replace("<", "\\lt ")


def show_question(text: str) -> str:
    """Markdown that shows what a user wrote, of which `read_question` is the inverse."""
    return re.sub(r"<(?=[A-Za-z/!?])|!(?=\[)", lambda found: found[0] + _WORD_JOINER, text)


def read_question(shown: str) -> str:
    """What a user wrote, from the text of `show_question` that was edited perhaps."""
    return re.sub(rf"([<!]){_WORD_JOINER}", r"\1", shown)
