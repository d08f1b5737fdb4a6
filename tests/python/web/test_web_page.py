"""The web page in a real browser."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chatglm_cpp import Pipeline

pytest.importorskip("gradio", reason="the page needs gradio", exc_type=ImportError)
playwright_api = pytest.importorskip("playwright.sync_api", reason="the browser is driven by playwright")
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("there is no chromium", allow_module_level=True)

expect = playwright_api.expect
expect.set_options(timeout=30_000)

from page_server import GRADIO_WARNINGS, serving  # noqa: E402
from scripted_pipeline import Reply, ScriptedPipeline  # noqa: E402

pytestmark = GRADIO_WARNINGS

MARKDOWN = r"""## Roots

With $a \neq 0$ they are

\[ x_{1,2} = \frac{-b \pm \sqrt{b^2-4ac}}{2a}, \qquad A=\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}, \quad \alpha\beta\gamma\delta \]

vector<int> is text, <script>window.ran=1</script> and <img src=x onerror="window.ran=1"> too;
![picture](http://192.0.2.1/x.png) [link](javascript:window.ran=1) `<i>code</i>`

```python
print("one line that is much too long for the screen of a telephone, so that it has to be scrolled by itself")
```

| model | size | speed | one more column | another column |
|---|--:|--:|---|---|
| ChatGLM2-6B | 3.51 GB | 9.3 | text | text |
"""  # noqa: E501


def script() -> dict[str, Reply]:
    return {
        "endless": Reply("word", endless=True),
        "document": Reply("I have read it.", held=True),
        "formula": Reply(MARKDOWN),
        "riddle": Reply("The answer is a river.", thought="Something that runs and never walks."),
    }


@pytest.fixture(scope="module")
def address(scripted: ScriptedPipeline) -> Iterator[str]:
    with serving(scripted) as address:
        yield address.url


@pytest.fixture(scope="module")
def scripted(model_path: Path) -> Iterator[ScriptedPipeline]:
    with Pipeline(model_path) as pipeline:
        yield ScriptedPipeline(pipeline, script())


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def shared(browser: Any) -> Any:
    return browser.new_context(locale="en-US")


@pytest.fixture
def open_page(
    browser: Any, shared: Any, address: str, scripted: ScriptedPipeline
) -> Iterator[Callable[..., Any]]:
    """open_page(**context) is the page in a browser of its own. None may ask another server for anything,
    nor have an error."""
    scripted.script = script()
    contexts, outside, errors = [], [], []

    def note_request(request: Any) -> None:
        if not request.url.startswith((address, "data:", "blob:")):
            outside.append(request.url)

    def open_page(**options: Any) -> Any:
        # A browser that was here before has the page's scripts, which saves most of the time.
        context = browser.new_context(**{"locale": "en-US", **options}) if options else shared
        context.set_default_timeout(30_000)
        contexts.append(context)
        page = context.new_page()
        page.on("request", note_request)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(address)
        expect(page.locator("#box textarea")).to_be_enabled()
        return page

    yield open_page
    for context in contexts:
        if context is not shared:
            context.close()
    assert outside == [] and errors == []


@pytest.fixture
def page(open_page: Callable[..., Any]) -> Iterator[Any]:
    """The page in English on a large screen, for a user who has not been here before."""
    page = open_page()
    yield page
    page.evaluate("localStorage.clear()")
    page.close()


def ask(page: Any, question: str) -> None:
    page.locator("#box textarea").fill(question)
    page.locator("#box textarea").press("Enter")


def answers(page: Any) -> Any:
    return page.locator("#rows .bot .message-content")


def ended(page: Any) -> None:
    expect(page.locator("#speed")).to_be_visible()


def conversations(page: Any) -> Any:
    return page.locator("#conversations label")


def choose(page: Any, numbers: dict[str, int]) -> None:
    """Fills in settings until the browser keeps them: within some milliseconds of showing a control, Gradio
    gives it its first value once more. No user is so quick."""
    kept = "numbers => numbers.every(n => (localStorage.getItem('chatglm_cpp.settings') ?? '').includes(n))"
    for attempt in range(20):
        for label, number in numbers.items():
            page.get_by_label(re.compile(label)).first.fill(str(number))
        page.get_by_label(re.compile(label)).first.blur()
        try:
            page.wait_for_function(kept, arg=[f",{number}," for number in numbers.values()], timeout=1500)
            return
        except playwright_api.TimeoutError:
            assert attempt < 19


def test_a_reply_comes_word_by_word_and_stops(page: Any, scripted: ScriptedPipeline) -> None:
    ask(page, "an endless story")
    expect(page.locator("#box textarea")).to_have_value("")
    expect(answers(page)).to_contain_text("word word word")
    first = answers(page).inner_text()
    expect(answers(page)).not_to_have_text(first)
    page.locator("#box .stop-button").click()
    expect(page.locator("#status")).to_contain_text("Stopped.")
    expect(page.locator("#status")).to_contain_text("12.5 tokens/s")
    expect(page.locator("#box .submit-button")).to_be_visible()
    assert scripted.streams["endless"].cancelled
    expect(answers(page)).to_contain_text("word word word")


def test_conversations_outlive_a_reload(page: Any) -> None:
    ask(page, "Who are you?")
    ended(page)
    expect(answers(page)).to_contain_text("demonstration model")
    page.reload()
    expect(answers(page)).to_contain_text("demonstration model")
    page.locator("#new").click()
    expect(answers(page)).to_have_count(0)
    ask(page, "你好")
    ended(page)
    expect(conversations(page)).to_have_text(["你好", "Who are you?"])
    page.reload()
    expect(answers(page)).to_contain_text("你好")
    conversations(page).filter(has_text="Who").click()
    expect(answers(page)).to_contain_text("demonstration model")
    assert "你好" not in page.locator("#rows").inner_text()

    page.once("dialog", lambda dialog: dialog.accept("About itself"))
    page.locator("#rename").click()
    expect(conversations(page).filter(has_text="About itself")).to_be_visible()
    page.once("dialog", lambda dialog: dialog.dismiss())
    page.locator("#delete").click()
    page.once("dialog", lambda dialog: dialog.accept())
    page.locator("#delete").click()
    expect(conversations(page)).to_have_text(["你好"])
    expect(answers(page)).to_have_count(0)
    page.once("dialog", lambda dialog: dialog.accept())
    page.locator("#delete-all").click()
    expect(conversations(page)).to_have_count(0)
    page.reload()
    expect(page.locator("#box textarea")).to_be_enabled()
    expect(conversations(page)).to_have_count(0)


def test_leaving_a_conversation_keeps_what_was_written(page: Any, scripted: ScriptedPipeline) -> None:
    ask(page, "endless")
    expect(answers(page)).to_contain_text("word word")
    page.locator("#new").click()
    expect(answers(page)).to_have_count(0)
    assert scripted.streams["endless"].cancelled
    conversations(page).filter(has_text="endless").click()
    expect(answers(page)).to_contain_text("word word")


def test_the_bin_empties_the_conversation(page: Any) -> None:
    ask(page, "riddle")
    ended(page)
    page.locator("#rows button[aria-label='Clear']").click()
    expect(conversations(page)).to_have_count(0)
    expect(answers(page)).to_have_count(0)


def test_a_question_is_edited_and_asked_again(page: Any, scripted: ScriptedPipeline) -> None:
    ask(page, "a riddle with #include <vector>")
    ended(page)
    ask(page, "Who are you?")
    expect(answers(page).last).to_contain_text("demonstration")
    ended(page)
    scripted.script["riddle"] = Reply("It is a clock.")
    expect(page.locator("#rows .user").first).to_contain_text("<\u2060vector>")
    page.locator("#rows button[aria-label='Edit']").first.click()
    field = page.locator("#rows textarea").first
    field.fill(field.input_value() + "?")
    page.locator("#rows button[aria-label='Submit']").first.click()
    expect(answers(page)).to_have_text(["It is a clock."])
    ended(page)
    assert [m.content for m in scripted.asked[-1]] == ["a riddle with #include <vector>?"]
    scripted.script["riddle"] = Reply("It is a comb.")
    page.locator("#rows button[aria-label='Retry']").last.click()
    expect(answers(page)).to_have_text(["It is a comb."])
    ended(page)
    page.reload()
    expect(answers(page)).to_have_text(["It is a comb."])


def test_thoughts_are_folded(page: Any) -> None:
    ask(page, "a riddle")
    ended(page)
    expect(answers(page)).to_have_text(["The answer is a river."])
    expect(page.get_by_text("never walks")).to_have_count(0)
    page.get_by_text("Thought", exact=True).click()
    expect(page.get_by_text("never walks")).to_be_visible()


def drop(page: Any, name: str, data: bytes) -> None:
    file = {"name": name, "mimeType": "application/octet-stream", "buffer": data}
    page.locator("#box input[type=file]").set_input_files([file])
    expect(page.locator("#box .thumbnail-item")).to_be_visible()


def test_a_document_is_read_with_its_progress(page: Any, scripted: ScriptedPipeline) -> None:
    drop(page, "notes.md", "# 笔记\n\nThe river is long.".encode("gb18030"))
    ask(page, "Sum up the document")
    expect(page.locator("#status progress")).to_have_attribute("value", "1024")
    expect(page.locator("#status")).to_contain_text("1,024 of 2,048 tokens")
    scripted.script["document"].release()
    expect(answers(page)).to_have_text(["I have read it."])
    ended(page)
    expect(page.locator("#rows .user").first).to_contain_text("notes.md")
    (message,) = scripted.asked[-1]
    assert "笔记\n\nThe river is long." in message.content
    assert message.content.endswith("Sum up the document")


@pytest.mark.parametrize(
    ("name", "data", "sentence"),
    [
        ("photo.png", b"\x89PNG\r\n\x1a\n\0\0", "is no text"),
        ("long.txt", b"a long line of text\n" * 5000, "fit beside a reply"),
    ],
)
def test_a_file_that_is_not_read_says_why(page: Any, name: str, data: bytes, sentence: str) -> None:
    drop(page, name, data)
    ask(page, "What is it?")
    expect(page.locator("#status .error")).to_contain_text(sentence)
    expect(page.locator("#box textarea")).to_have_value("What is it?")


def test_a_full_context_is_told(page: Any) -> None:
    ask(page, "long " * 1800)
    expect(page.locator("#status .error")).to_contain_text("The context is full")
    ask(page, "Who are you?")
    expect(answers(page).last).to_contain_text("demonstration model")


def test_replies_are_shown_and_never_run(page: Any) -> None:
    ask(page, "formula")
    ended(page)
    reply = answers(page)
    expect(reply.locator(".katex-display .katex")).to_be_visible()
    expect(reply.locator("h2")).to_have_text("Roots")
    expect(reply.locator("pre")).to_contain_text("print")
    expect(reply).to_contain_text("vector<int> is text, <script>window.ran=1</script>")
    expect(reply.locator("img, script")).to_have_count(0)
    page.get_by_text("link", exact=True).click()
    assert page.evaluate("window.ran") is None


def test_nothing_sticks_out_of_a_narrow_screen(open_page: Any) -> None:
    width = 360
    page = open_page(locale="zh-CN", viewport={"width": width, "height": 700}, is_mobile=True, has_touch=True)
    ask(page, "formula")
    ended(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    boxes = [page.locator(selector).bounding_box() for selector in ("#rows", "#box", "#status")]
    assert all(box["x"] >= 0 and box["x"] + box["width"] <= width for box in boxes)
    page.get_by_label("Toggle Sidebar").click()
    expect(page.locator("#new")).to_be_in_viewport(ratio=1)
    page.locator("#new").click()
    expect(page.locator("#new")).not_to_be_in_viewport()
    expect(page.locator("#box textarea")).to_be_in_viewport()


def test_the_page_speaks_the_language_of_the_browser(open_page: Any) -> None:
    page = open_page(locale="zh-CN")
    expect(page.locator("#new")).to_have_text("新对话")
    expect(page.locator("#rows")).to_contain_text("有什么可以帮你？")
    ask(page, "你好")
    expect(page.locator("#speed")).to_contain_text("词元/秒")
    expect(open_page(locale="de-DE").locator("#new")).to_have_text("New conversation")


def test_settings_reach_the_model_and_are_kept(page: Any, scripted: ScriptedPipeline) -> None:
    page.locator("#settings button").first.click()
    choose(page, {"Top k": 7, "Longest reply": 20, "Seed": 5})
    page.locator("#system textarea").fill("Be brief.")
    ask(page, "riddle")
    ended(page)
    options = scripted.options[-1]
    assert (options["top_k"], options["max_new_tokens"], options["seed"]) == (7, 20, 5)
    assert options["when_full"] == "drop_oldest" and options["max_length"] == 2048
    assert [m.role for m in scripted.asked[-1]] == ["system", "user"]
    page.locator("#theme").click()
    expect(page.locator("body")).to_have_class(re.compile("dark"))
    page.reload()
    expect(page.locator("#box textarea")).to_be_enabled()
    expect(page.locator("body")).to_have_class(re.compile("dark"))
    page.locator("#settings button").first.click()
    expect(page.get_by_label(re.compile("Top k")).first).to_have_value("7")
    expect(page.locator("#system textarea")).to_have_value("Be brief.")


def test_users_are_answered_together_and_a_page_that_goes_takes_its_reply_along(
    open_page: Any, scripted: ScriptedPipeline
) -> None:
    scripted.script = {"first": Reply("one", endless=True), "second": Reply("two", endless=True)}
    first, second = open_page(color_scheme="dark"), open_page()
    ask(first, "first")
    expect(answers(first)).to_contain_text("one one")
    ask(second, "second")
    expect(answers(second)).to_contain_text("two two")
    before = answers(first).inner_text()
    expect(answers(first)).not_to_have_text(before)
    assert not scripted.streams["first"].cancelled
    first.context.close()
    before = answers(second).inner_text()
    expect(answers(second)).not_to_have_text(before)
    assert scripted.streams["first"].closed.wait(60)
    assert not scripted.streams["second"].cancelled
    second.locator("#box .stop-button").click()
    expect(second.locator("#status")).to_contain_text("Stopped.")
