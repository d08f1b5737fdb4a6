"""GGUF files as llama.cpp's own converter writes them from a checkpoint: its keys, names and token arrays,
and nothing that only our engine knows. Independent of our converter."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy as np
from golden import load_json

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

SPECIALS = ("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop")
ROLES = ("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")

REMOTE_NAMES = {
    "embedding.word_embeddings": "token_embd",
    "encoder.final_layernorm": "output_norm",
    "output_layer": "output",
    "input_layernorm": "attn_norm",
    "self_attention.query_key_value": "attn_qkv",
    "self_attention.dense": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.dense_h_to_4h": "ffn_up",
    "mlp.dense_4h_to_h": "ffn_down",
}
GLM_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "post_self_attn_layernorm": "post_attention_norm",
    "post_mlp_layernorm": "post_ffw_norm",
}


class Tokens(NamedTuple):
    model: str
    pre: str
    texts: list[str]
    types: list[int]
    scores: list[float] | None
    merges: list[str] | None
    ids: dict[str, int]


def write_file(
    folder: Path, target: Path, *, template: bool = True, skip: tuple[str, ...] = (), **changes: Any
) -> Path:
    """`folder` as an f32 file. `template`: with the chat template of tokenizer_config.json, if it has one.

    `skip` names keys to leave out; `changes` are handed to `add_hparams`.
    """
    config = load_json(folder / "config.json")
    arch = "glm4" if config["model_type"] == "glm4" else "chatglm"
    writer = Writer(target, arch, skip)
    writer.add_type("model")
    writer.add_name(folder.name)
    add_hparams(writer, config, **changes)
    settings = load_json(folder / "tokenizer_config.json")
    add_tokens(writer, read_tokens(folder, config), settings.get("chat_template") if template else None)
    for name, values in read_weights(folder).items():
        writer.add_tensor(name, values)
    return writer.finish()


def write_vocabulary(folder: Path, target: Path, size: int, roles: bool = True) -> Path:
    """The tokenizer in `folder` alone, for an embedding of `size` rows."""
    writer = Writer(target, "chatglm")
    add_tokens(writer, read_tokens(folder, {"padded_vocab_size": size, "eos_token_id": 2}, roles), None)
    return writer.finish()


class Writer(gguf.GGUFWriter):
    """The library's writer, which can leave keys out."""

    def __init__(self, path: Path, arch: str, skip: tuple[str, ...] = (), **options: Any) -> None:
        self._skip = skip
        super().__init__(path, arch, **options)

    def add_key_value(self, key: str, *rest: Any, **more: Any) -> None:
        if key not in self._skip:
            super().add_key_value(key, *rest, **more)

    def finish(self) -> Path:
        self.write_header_to_file()
        self.write_kv_data_to_file()
        self.write_tensors_to_file()
        self.close()
        assert isinstance(self.path, Path)
        return self.path


def add_hparams(writer: gguf.GGUFWriter, config: dict[str, Any], *, faithful: bool = True) -> None:
    """The sizes. `faithful`: what the checkpoint says, also where llama.cpp's converter forgets to look.

    It reads the keys of the original configuration only, so that files of the `glm` layout in
    transformers get the hidden size as context length, an epsilon of 1e-5 and a base of 10000.
    """
    hidden = config["hidden_size"]
    n_heads = config["num_attention_heads"]
    head_dim = config.get("head_dim", hidden // n_heads)
    writer.add_embedding_length(hidden)
    writer.add_block_count(config.get("num_layers", config.get("num_hidden_layers")))
    writer.add_head_count(n_heads)
    writer.add_head_count_kv(config.get("multi_query_group_num", config.get("num_key_value_heads")))
    writer.add_feed_forward_length(config.get("ffn_hidden_size", config.get("intermediate_size")))
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    if config["model_type"] == "glm4":
        writer.add_context_length(config["max_position_embeddings"])
        writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
        writer.add_rope_freq_base(config["rope_theta"])
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
        writer.add_rope_dimension_count(int(head_dim * config["partial_rotary_factor"]))
        return
    context = config.get("seq_length", hidden)
    rope_base = 10000 * config.get("rope_ratio", 1)
    epsilon = config.get("layernorm_epsilon", 1e-5)
    if faithful:
        context = config.get("max_position_embeddings", context)
        rope_base, epsilon = config.get("rope_theta", rope_base), config.get("rms_norm_eps", epsilon)
    writer.add_context_length(context)
    writer.add_layer_norm_rms_eps(epsilon)
    writer.add_rope_dimension_count(int(hidden // n_heads * config.get("partial_rotary_factor", 0.5)))
    writer.add_add_bos_token(False)
    writer.add_rope_freq_base(rope_base)


def add_tokens(writer: gguf.GGUFWriter, tokens: Tokens, template: str | None) -> None:
    writer.add_tokenizer_model(tokens.model)
    writer.add_tokenizer_pre(tokens.pre)
    writer.add_token_list(tokens.texts)
    if tokens.scores is not None:
        writer.add_token_scores(tokens.scores)
    writer.add_token_types(tokens.types)
    if tokens.merges is not None:
        writer.add_token_merges(tokens.merges)
    for name, i in tokens.ids.items():
        writer.add_uint32(f"tokenizer.ggml.{name}_token_id", i)
    if template is not None:
        writer.add_chat_template(template)


def read_tokens(folder: Path, config: dict[str, Any], roles: bool = True) -> Tokens:
    size = config.get("padded_vocab_size", config.get("vocab_size"))
    if (folder / "tokenizer.json").is_file():
        return _tokens_of_json(load_json(folder / "tokenizer.json"), size)
    data = (folder / "tokenizer.model").read_bytes()
    if data[:1] == b"\n":  # the first field of a protocol buffer; the other kind is lines of base 64
        return _tokens_of_sentencepiece(
            data, size, roles and "chatglm3" in config.get("_name_or_path", "chatglm3")
        )
    return _tokens_of_tiktoken(data, load_json(folder / "tokenizer_config.json"), size)


def _tokens_of_sentencepiece(data: bytes, size: int, roles: bool) -> Tokens:
    from sentencepiece import SentencePieceProcessor

    model = SentencePieceProcessor(model_proto=data)
    n = model.vocab_size()
    texts, types, scores = [], [], []
    for i in range(n):
        texts.append({0: "<unk>", 1: "<bos>", 2: "<eos>"}.get(i) or model.id_to_piece(i))
        scores.append(model.get_score(i))
        types.append(
            UNKNOWN
            if model.is_unknown(i)
            else CONTROL
            if model.is_control(i)
            else UNUSED
            if model.is_unused(i)
            else BYTE
            if model.is_byte(i)
            else NORMAL
        )
    for text in SPECIALS + (ROLES if roles else ()):
        texts.append(text)
        types.append(CONTROL)
    while len(texts) < size:
        texts.append(f"[PAD{len(texts)}]")
        types.append(UNUSED)
    scores += [0.0] * (size - n)
    return Tokens("llama", "chatglm-spm", texts, types, scores, None, {"eos": 2, "padding": 0})


def _tokens_of_tiktoken(data: bytes, settings: dict[str, Any], size: int) -> Tokens:
    ranks = {base64.b64decode(t): int(i) for t, i in (line.split() for line in data.splitlines() if line)}
    texts = [alphabet(token) for token in ranks]
    merges = []
    for token, rank in ranks.items():
        if len(token) > 1:
            merges.append(" ".join(map(alphabet, _parts(ranks, token, rank))))
    specials = settings["additional_special_tokens"]
    return _byte_level(texts, {text: len(texts) + i for i, text in enumerate(specials)}, merges, size)


def _tokens_of_json(spec: dict[str, Any], size: int) -> Tokens:
    texts = sorted(spec["model"]["vocab"], key=spec["model"]["vocab"].__getitem__)
    merges = [" ".join(pair) for pair in spec["model"]["merges"]]
    return _byte_level(texts, {t["content"]: t["id"] for t in spec["added_tokens"]}, merges, size)


def _byte_level(texts: list[str], specials: dict[str, int], merges: list[str], size: int) -> Tokens:
    types = [NORMAL] * len(texts)
    for text, i in specials.items():
        assert i == len(texts)
        texts.append(text)
        types.append(CONTROL)
    while len(texts) < size:
        texts.append(f"[PAD{len(texts)}]")
        types.append(UNUSED)
    end, user = specials["<|endoftext|>"], specials["<|user|>"]
    ids = {"eos": end, "eot": user, "unknown": end}
    return Tokens("gpt2", "chatglm-bpe", texts, types, None, merges, ids)


def _parts(ranks: dict[bytes, int], token: bytes, limit: int) -> list[bytes]:
    """What `token` is made of when only tokens of ranks below `limit` are known."""
    parts = [bytes([b]) for b in token]
    while True:
        pairs = [(ranks.get(parts[i] + parts[i + 1], limit), i) for i in range(len(parts) - 1)]
        rank, i = min(pairs, default=(limit, 0))
        if rank >= limit:
            return parts
        parts[i : i + 2] = [parts[i] + parts[i + 1]]


def _make_alphabet() -> list[str]:
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    return [chr(b if b in printable else next(others)) for b in range(256)]


_ALPHABET = _make_alphabet()


def alphabet(token: bytes) -> str:
    """`token` in GPT-2's printable alphabet of bytes."""
    return "".join(_ALPHABET[b] for b in token)


def read_weights(folder: Path) -> dict[str, np.ndarray]:
    """The tensors under llama.cpp's names, f32."""
    import torch
    from safetensors.torch import load_file

    tensors: dict[str, Any] = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(path)
    for path in sorted(folder.glob("pytorch_model*.bin")):
        tensors |= torch.load(path, weights_only=True)
    names = GLM_NAMES if any(name.startswith("model.") for name in tensors) else REMOTE_NAMES
    weights = {}
    for name, tensor in tensors.items():
        if not name.endswith("inv_freq"):
            weights[_rename(name, names)] = tensor.float().contiguous().numpy()
    return weights


def _rename(name: str, names: dict[str, str]) -> str:
    stem, _, kind = name.removeprefix("transformer.").rpartition(".")
    block = ""
    for prefix in ("encoder.layers.", "model.layers."):
        if stem.startswith(prefix):
            number, _, stem = stem.removeprefix(prefix).partition(".")
            block = f"blk.{number}."
    return f"{block}{names[stem]}.{kind}"


def tie_embeddings(source: Path, target: Path) -> Path:
    """A copy of the checkpoint `source` whose output matrix is the embedding."""
    from safetensors.torch import load_file, save_file

    target.mkdir()
    for path in source.iterdir():
        if path.suffix == ".json" and not path.name.endswith("index.json"):
            (target / path.name).write_bytes(path.read_bytes())
    tensors: dict[str, Any] = {}
    for path in sorted(source.glob("*.safetensors")):
        tensors |= load_file(path)
    tensors.pop("lm_head.weight")
    save_file(tensors, target / "model.safetensors")
    config = load_json(target / "config.json") | {"tie_word_embeddings": True}
    (target / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return target
