"""The line between conversation and question: what is going on, or how the last reply went. HTML."""

from __future__ import annotations

from html import escape

from ..stream import Usage
from .strings import Strings


def show_error(sentence: str) -> str:
    return f'<span role="alert" class="error">{escape(sentence)}</span>'


def show_waiting(strings: Strings) -> str:
    return escape(strings["waiting"])


def show_progress(usage: Usage, strings: Strings) -> str:
    """How far a reply is: in the queue, in its prompt, or in its own tokens."""
    if usage.new_tokens:
        return escape(strings["writing"].format(n=usage.new_tokens))
    if not usage.computed_tokens:
        return show_waiting(strings)
    done, total = usage.computed_tokens, usage.prompt_tokens
    text = strings["reading"].format(done=f"{done:,}", total=f"{total:,}")
    return f'<progress value="{done}" max="{total}"></progress> {escape(text)}'


def show_end(usage: Usage, strings: Strings) -> str:
    """Tokens and speed of a reply that has ended, and why it ended if it was not of itself."""
    sentences = []
    if usage.new_tokens:
        speed = strings["reply_speed"].format(n=usage.new_tokens, rate=f"{usage.tokens_per_second:.1f}")
        prompt = strings["prompt_speed"].format(
            n=f"{usage.prompt_tokens:,}",
            cached=f"{usage.cached_tokens:,}",
            seconds=f"{usage.prompt_seconds:.1f}",
        )
        sentences.append(f'<span id="speed">{escape(speed)} · {escape(prompt)}</span>')
    if usage.finish_reason == "cancelled":
        sentences.append(escape(strings["stopped"]))
    if usage.finish_reason == "length":
        cut = strings["out_of_tokens"].format(
            max_new_tokens=strings["max_new_tokens"], max_length=strings["max_length"]
        )
        sentences.append(f'<span class="notice">{escape(cut)}</span>')
    if usage.dropped_messages:
        dropped = strings["dropped"].format(n=usage.dropped_messages)
        sentences.append(f'<span class="notice">{escape(dropped)}</span>')
    return "<br>".join(sentences)
