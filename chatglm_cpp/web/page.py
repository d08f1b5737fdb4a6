"""The page: its components, and which event calls what."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from .._C import InvalidArgument
from ..pipeline import Pipeline
from .chat import Chat
from .markdown import LATEX_DELIMITERS
from .settings import WHEN_FULL, Setting, settings_of
from .strings import CHINESE, ENGLISH

_FOLDER = Path(__file__).parent
_BROWSER_STRINGS = ("ask_title", "ask_delete", "ask_delete_all", "storage_full", "empty_title")

# Gradio chooses among these by the browser's language.
TRANSLATIONS = gr.I18n(
    **{"en": dict(ENGLISH), **{code: dict(CHINESE) for code in ("zh", "zh-CN", "zh-TW", "zh-HK", "zh-SG")}}
)
_t = TRANSLATIONS

THEME = gr.themes.Base(
    primary_hue="blue",
    neutral_hue="slate",
    radius_size="lg",
    # Fonts of the system: none is fetched, and each has its own for Chinese.
    font=["system-ui", "-apple-system", "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", "sans-serif"],
    font_mono=["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"],
)


def page_head() -> str:
    """Style and script of the page, for its head: Gradio changes the selectors of a style it is given."""
    script = (_FOLDER / "page.js").read_text("utf-8")
    for mark, strings in (("__CHINESE__", CHINESE), ("__ENGLISH__", ENGLISH)):
        texts = {key: strings[key] for key in _BROWSER_STRINGS}
        script = script.replace(mark, json.dumps(texts, ensure_ascii=False))
    style = (_FOLDER / "page.css").read_text("utf-8")
    return f"<style>{style}</style><script>{script}</script>"


def build_page(pipeline: Pipeline, *, max_length: int = 8192, system: str = "") -> gr.Blocks:
    """The page for a pipeline. `max_length` is what the setting of the context begins with, in tokens;
    `system` the system prompt of new conversations."""
    config = pipeline.config
    settings = settings_of(config.max_length, max_length)
    chat = Chat(pipeline, settings, system)
    with gr.Blocks(title=config.name or "chatglm_cpp", fill_height=True, analytics_enabled=False) as page:
        stored = gr.Textbox(visible=False)  # the conversation, as JSON
        sent = gr.Textbox(visible=False)  # what page.js sends
        doomed = gr.Textbox("", visible=False)  # changes when something is to be deleted
        with gr.Sidebar(open=False, elem_id="sidebar") as sidebar:
            new = gr.Button(_t("new"), variant="primary", elem_id="new")
            choices = gr.Radio([], label=_t("conversations"), elem_id="conversations", container=False)
            with gr.Row(elem_id="list-buttons"):
                rename = gr.Button(_t("rename"), size="sm", min_width=60, elem_id="rename")
                delete = gr.Button(_t("delete"), size="sm", min_width=60, elem_id="delete")
                delete_all = gr.Button(_t("delete_all"), size="sm", min_width=60, elem_id="delete-all")
            with gr.Accordion(_t("settings"), open=False, elem_id="settings"):
                system_box = gr.Textbox(
                    label=_t("system"),
                    placeholder=_t("system_hint"),
                    lines=3,
                    max_lines=12,
                    visible=_knows_system(pipeline),
                    elem_id="system",
                )
                values = [*map(_setting, settings), _when_full()]
            theme = gr.Button(_t("theme"), size="sm", elem_id="theme")
            gr.Markdown(_t("privacy"), elem_id="privacy")
        gr.HTML(f"<b>{escape(config.name)}</b> · {escape(config.dtype)}", elem_id="model")
        rows = gr.Chatbot(
            show_label=False,
            container=False,
            scale=1,
            height=200,
            editable="user",
            buttons=["copy"],
            layout="bubble",
            latex_delimiters=LATEX_DELIMITERS,
            group_consecutive_messages=False,
            allow_tags=False,
            placeholder=_t("greeting"),
            elem_id="rows",
        )
        status = gr.HTML(elem_id="status", container=False)
        box = gr.MultimodalTextbox(
            show_label=False,
            container=False,
            placeholder=_t("placeholder"),
            file_count="multiple",
            lines=1,
            max_lines=12,
            max_plain_text_length=10_000,
            autofocus=True,
            interactive=False,
            elem_id="box",
        )

        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        free: dict[str, Any] = {**quiet, "concurrency_limit": None}
        reply = [rows, stored, status, box]
        shown = [rows, stored, system_box, status]

        page.load(chat.start, [sent], [*shown, sidebar, box, *values], js="() => [chatglm.start()]", **free)
        page.unload(chat.leave)
        box.submit(chat.ask, [stored, box, system_box, *values], reply, **free)
        rows.retry(chat.retry, [stored, system_box, *values], reply, **free)
        rows.edit(chat.edit, [stored, system_box, *values], reply, **free)
        box.stop(chat.stop, None, box, **free)

        # What changes the conversation on the page waits until the running reply has been stopped and stored.
        rows.clear(chat.stop, None, box, **free).then(chat.clear, [stored], [rows, stored, status], **free)
        choices.input(chat.stop, None, box, **free).then(
            chat.open, [choices, sent], [*shown, sidebar], js="(id) => [null, chatglm.open(id)]", **free
        )
        new.click(chat.stop, None, box, **free).then(
            chat.new, [system_box, sent], [*shown, sidebar], js="(system) => [system, chatglm.size()]", **free
        )
        doomed.change(chat.stop, None, box, **free).then(
            chat.new,
            [system_box, sent],
            [*shown, sidebar],
            js="(system) => [system, chatglm.remove()]",
            **free,
        )

        # The browser's part.
        stored.change(None, [stored], [choices], js="chatglm.save", **quiet)
        rename.click(None, [choices], [choices], js="chatglm.rename", **quiet)
        delete.click(None, [choices, doomed], [doomed], js="chatglm.askDelete", **quiet)
        delete_all.click(None, [doomed], [doomed], js="chatglm.askDeleteAll", **quiet)
        theme.click(None, None, None, js="chatglm.switchTheme", **quiet)
        gr.on([value.change for value in values], None, values, None, js="chatglm.keepSettings", **quiet)
    return page


def _setting(setting: Setting) -> gr.Slider | gr.Number:
    label, info = _t(setting.name), _t(f"{setting.name}_hint")
    if setting.high > 1000:
        return gr.Number(setting.default, label=label, info=info, precision=0, step=setting.step)
    return gr.Slider(
        setting.low, setting.high, setting.default, step=setting.step, label=label, info=info, buttons=[]
    )


def _when_full() -> gr.Dropdown:
    choices = [(_t(f"when_full_{choice}"), choice) for choice in WHEN_FULL]
    return gr.Dropdown(choices, value=WHEN_FULL[0], label=_t("when_full"), filterable=False)


def _knows_system(pipeline: Pipeline) -> bool:
    """Whether the model's format has a place for a system prompt."""
    try:
        pipeline.tokenizer.apply_chat_template(
            [{"role": "system", "content": "?"}, {"role": "user", "content": "?"}]
        )
    except InvalidArgument:
        return False
    return True
