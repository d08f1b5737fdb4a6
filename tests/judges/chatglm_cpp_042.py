"""Writes model files with chatglm-cpp 0.4.2's own converter and answers with its own engine.

Run by a Python that has that package (and torch, safetensors, tqdm), which is named like ours and so needs a
process of its own. Its threads spin while they wait for each other: on a busy machine it takes minutes.

    PYTHON chatglm_cpp_042.py < JOBS.json > ANSWERS.json

JOBS is a list of {"checkpoint": folder, "prefix": folder or null, "dtype", "output": file to write,
"prompts": [[id, ...], ...], "messages": [[...], ...], "max_new_tokens"}. ANSWERS gives for each job the
greedy ids after each prompt ("ids"), the ids of each conversation ("chats"), and the ids that end a reply
("eos").
"""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

# What its converter imports for loading checkpoints, which is done here instead.
for name, attributes in {
    "transformers": ("AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoTokenizer"),
    "tabulate": ("tabulate",),
}.items():
    module = types.ModuleType(name)
    for attribute in attributes:
        setattr(module, attribute, lambda *_, **__: "")
    sys.modules[name] = module

import chatglm_cpp  # noqa: E402
from chatglm_cpp import convert as converter  # noqa: E402

CONTEXT = 2048


def state_dict(folder: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        state |= load_file(path)
    for path in sorted(folder.glob("pytorch_model*.bin")):
        state |= torch.load(path, map_location="cpu", weights_only=True)
    return {name: tensor.float() for name, tensor in state.items()}


def serialized(path: Path) -> Any:
    return types.SimpleNamespace(serialized_model_proto=path.read_bytes)


def write(folder: Path, prefix: Path | None, dtype: str, output: Path) -> None:
    values = json.loads((folder / "config.json").read_text())
    absent = dict.fromkeys(("pre_seq_len", "quantization_bit", "eos_token_id", "pad_token_id"))
    config = types.SimpleNamespace(**{**absent, **values})
    state = state_dict(folder)
    model = types.SimpleNamespace(config=config, state_dict=lambda: state)
    if prefix is not None:
        config.pre_seq_len = json.loads((prefix / "config.json").read_text())["pre_seq_len"]
        (embedding,) = state_dict(prefix).values()
        model.transformer = types.SimpleNamespace(prefix_encoder=lambda ids: embedding[ids])
    tokenizer = types.SimpleNamespace()
    source = folder / "tokenizer.model"
    if (folder / "ice_text.model").is_file():
        kind = converter.ChatGLMConverter
        state.setdefault("lm_head.weight", state["transformer.word_embeddings.weight"])
        text_tokenizer = types.SimpleNamespace(sp=serialized(folder / "ice_text.model"))
        tokenizer.sp_tokenizer = types.SimpleNamespace(text_tokenizer=text_tokenizer)
    elif isinstance(config.eos_token_id, list):
        kind = converter.ChatGLM4Converter
        config.eos_token_id = config.eos_token_id[0]  # <|endoftext|>, as the tokenizer has it
        tokenizer.vocab_file = source
    else:
        kind = converter.ChatGLM3Converter if "chatglm3" in folder.name else converter.ChatGLM2Converter
        tokenizer.tokenizer = types.SimpleNamespace(sp_model=serialized(source))
    with open(output, "wb") as file:
        kind.convert(file, model, tokenizer, converter.GGMLType[dtype.upper()])


def answer(job: dict[str, Any]) -> dict[str, Any]:
    output = Path(job["output"])
    prefix = Path(job["prefix"]) if job["prefix"] else None
    write(Path(job["checkpoint"]), prefix, job["dtype"], output)
    pipeline = chatglm_cpp.Pipeline(str(output), max_length=CONTEXT)
    options = chatglm_cpp._C.GenerationConfig(
        max_length=CONTEXT, max_new_tokens=job["max_new_tokens"], do_sample=False
    )
    messages = [[chatglm_cpp.ChatMessage(**m) for m in chat] for chat in job["messages"]]
    config = pipeline.model.config
    return {
        "ids": [list(pipeline._stream_generate_ids(ids, None, options)) for ids in job["prompts"]],
        "chats": [pipeline.tokenizer.apply_chat_template(chat, CONTEXT) for chat in messages],
        "eos": [config.eos_token_id, *config.extra_eos_token_ids],
    }


if __name__ == "__main__":
    answers_go_here, sys.stdout = sys.stdout, sys.stderr  # the converter prints
    json.dump([answer(job) for job in json.load(sys.stdin)], answers_go_here)
