"""What the page says, in each language."""

from __future__ import annotations

from collections.abc import Mapping

Strings = Mapping[str, str]

# key: (English, Chinese)
_TABLE: dict[str, tuple[str, str]] = {
    # The page
    "new": ("New conversation", "新对话"),
    "conversations": ("Conversations", "对话"),
    "rename": ("Rename", "重命名"),
    "delete": ("Delete", "删除"),
    "delete_all": ("Delete all", "全部删除"),
    "theme": ("Light / dark", "浅色 / 深色"),
    "greeting": ("## What would you like to know?", "## 有什么可以帮你？"),
    "privacy": (
        "Conversations are kept in this browser, not on the server.",
        "对话只保存在这个浏览器里，不保存在服务器上。",
    ),
    "placeholder": (
        "Ask a question, or drop a text, Markdown or PDF file",
        "输入问题，或拖入文本、Markdown、PDF 文件",
    ),
    "empty_title": ("Empty conversation", "空对话"),
    # Settings
    "settings": ("Settings", "设置"),
    "system": ("System prompt", "系统提示词"),
    "system_hint": ("How the assistant should behave", "希望助手怎样回答"),
    "temperature": ("Temperature", "温度"),
    "temperature_hint": (
        "Low: steady. High: surprising. 0: always the likeliest word.",
        "越低越稳定，越高越随机；0 表示总取最可能的词。",
    ),
    "top_p": ("Top p", "Top p"),
    "top_p_hint": (
        "Draw among the likeliest words that have this probability together.",
        "在累计概率达到此值的候选词中抽取。",
    ),
    "top_k": ("Top k", "Top k"),
    "top_k_hint": (
        "Draw among so many likeliest words; 0: all.",
        "只在最可能的若干个词中抽取；0 表示不限。",
    ),
    "repetition_penalty": ("Repetition penalty", "重复惩罚"),
    "repetition_penalty_hint": (
        "Above 1: words that were there are less likely.",
        "大于 1 时，出现过的词更难再出现。",
    ),
    "max_new_tokens": ("Longest reply, tokens", "回答最长词元数"),
    "max_new_tokens_hint": ("0: as long as the context allows.", "0 表示只受上下文长度限制。"),
    "max_length": ("Context, tokens", "上下文长度（词元）"),
    "max_length_hint": ("Conversation and reply together.", "对话与回答合计。"),
    "seed": ("Seed", "随机种子"),
    "seed_hint": (
        "Same seed, same reply; -1: a new one each time.",
        "种子相同，回答相同；-1 表示每次都不同。",
    ),
    "when_full": ("When the context is full", "上下文满时"),
    "when_full_drop_oldest": ("Leave out the oldest turns", "省略最早的几轮"),
    "when_full_keep_head": ("Keep the first turn, leave out the next ones", "保留第一轮，省略其后的几轮"),
    "when_full_error": ("Stop and say so", "停下并提示"),
    # Questions of the browser
    "ask_title": ("Title of the conversation:", "对话标题："),
    "ask_delete": ("Delete this conversation?", "删除这个对话？"),
    "ask_delete_all": (
        "Delete all conversations that this browser keeps?",
        "删除这个浏览器保存的所有对话？",
    ),
    "storage_full": (
        "The browser's storage is full: this conversation is not saved. Delete some others.",
        "浏览器的存储空间已满，这个对话没有保存。请删除一些旧对话。",
    ),
    # While a reply is written
    "waiting": ("Waiting for its turn …", "排队中……"),
    "reading": ("Reading: {done} of {total} tokens", "正在阅读：{done} / {total} 个词元"),
    "writing": ("{n} tokens", "{n} 个词元"),
    "thinking": ("Thinking …", "思考中……"),
    "thought": ("Thought", "思考过程"),
    "reply_speed": ("{n} tokens, {rate} tokens/s", "{n} 个词元，{rate} 词元/秒"),
    "prompt_speed": (
        "prompt {n} tokens ({cached} from the cache), first word after {seconds} s",
        "提示 {n} 个词元（已缓存 {cached}），{seconds} 秒后开始回答",
    ),
    "document_title": ("{name} · {n} tokens", "{name} · {n} 个词元"),
    "document_more": ("…", "……"),
    # How replies end
    "stopped": ("Stopped.", "已停止。"),
    "no_reply": ("*No reply. ↻ asks again.*", "*没有回答。点击 ↻ 重试。*"),
    "out_of_tokens": (
        "The reply was cut: its tokens ran out. Raise “{max_new_tokens}” or “{max_length}” in the settings.",
        "回答被截断：词元用完了。请在设置中调大“{max_new_tokens}”或“{max_length}”。",
    ),
    "dropped": (
        "The conversation is too long: {n} of its messages are left out of what the model reads.",
        "对话太长：模型没有读到其中的 {n} 条消息。",
    ),
    # Errors
    "empty_question": ("Write a question first.", "请先输入问题。"),
    "busy": (
        "Too many people are asking at the moment. Try again soon.",
        "当前提问的人太多，请稍后再试。",
    ),
    "context_full": (
        "The context is full. Shorten the question, begin a new conversation, choose another answer to "
        "“{when_full}”, or raise “{max_length}” in the settings. ({error})",
        "上下文已满。请缩短问题、新建对话，或在设置中更改“{when_full}”或调大“{max_length}”。（{error}）",
    ),
    "failed": ("No reply: {error}", "没有回答：{error}"),
    "damaged": (
        "The page sent a conversation that cannot be read. Reload the page or begin a new conversation.",
        "页面发来的对话无法读取。请刷新页面或新建对话。",
    ),
    "file_too_large": (
        "{name} has {size} MB; at most {limit} MB are read. Drop a part of it.",
        "{name} 有 {size} MB，最多读取 {limit} MB。请只拖入其中一部分。",
    ),
    "file_too_long": (
        "{name} has {n} tokens, and {limit} fit beside a reply in the context of {max_length} tokens. "
        "Drop a part of it, or raise “{label}” in the settings as far as the model goes ({model}).",
        "{name} 有 {n} 个词元，而在 {max_length} 个词元的上下文中只放得下 {limit} 个。"
        "请只拖入其中一部分，或在设置中调大“{label}”（模型上限 {model}）。",
    ),
    "file_no_text": (
        "{name} is no text: drop text, Markdown, source code or PDF.",
        "{name} 不是文本。请拖入文本、Markdown、源代码或 PDF 文件。",
    ),
    "file_empty": ("{name} has no text in it.", "{name} 里没有文字。"),
    "file_no_pdf": (
        "{name} is a PDF, which needs the package pypdf: pip install pypdf.",
        "{name} 是 PDF 文件，需要安装 pypdf：pip install pypdf。",
    ),
    "file_bad_pdf": ("{name} is a PDF that cannot be read: {error}", "{name} 是无法读取的 PDF：{error}"),
    "file_gone": ("{name} did not arrive. Drop it again.", "{name} 没有上传成功，请重新拖入。"),
}

ENGLISH: Strings = {key: english for key, (english, _) in _TABLE.items()}
CHINESE: Strings = {key: chinese for key, (_, chinese) in _TABLE.items()}


def strings_for(accept_language: str) -> Strings:
    """The strings for a browser that sends this Accept-Language header: Chinese if its first choice is."""
    return CHINESE if accept_language.strip().lower().startswith("zh") else ENGLISH
