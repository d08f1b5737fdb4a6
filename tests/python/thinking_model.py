"""A tiny model that thinks, made of a golden checkpoint."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

# In the manner of GLM-Z1-0414: the prompt begins the thought, and thoughts of earlier turns are dropped.
TEMPLATE = """[gMASK]<sop>
{%- for message in messages %}
    {%- set role = message['role'] %}
    {%- set visible = message['content'].split('</think>')[-1].strip() %}
    {%- set meta = message.get("metadata", "") %}

    {%- if role == 'assistant' and meta %}
<|assistant|>{{ meta }}
{{ visible }}
    {%- else %}
<|{{ role }}|>
{{ visible }}
    {%- endif %}
{%- endfor %}
{% if add_generation_prompt %}<|assistant|>
<think>{% endif %}"""


def make_checkpoint(source: Path, target: Path, template: str = TEMPLATE, mark: str | None = None) -> None:
    """Copies a checkpoint with another chat template; `mark` takes the place of its last added token."""
    target.mkdir()
    for file in source.iterdir():
        shutil.copyfile(file, target / file.name)
    config = json.loads((target / "tokenizer_config.json").read_text(encoding="utf-8"))
    config["chat_template"] = template
    (target / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    if mark is not None:
        tokenizer = json.loads((target / "tokenizer.json").read_text(encoding="utf-8"))
        tokenizer["added_tokens"][-1]["content"] = mark
        (target / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")


def say_instead(model: Path, said: int, instead: int) -> None:
    """Changes an f32 model: decoded greedily, it says `instead` where it said `said`, and then goes on as
    before."""
    from gguf import GGUFReader

    reader = GGUFReader(model, "r+")
    for tensor in reader.tensors:
        if tensor.name == "token_embd.weight":
            tensor.data[instead] = tensor.data[said]
        elif tensor.name == "output.weight":
            tensor.data[instead] = tensor.data[said] * 1.01  # its logit is positive
    reader.data.flush()
