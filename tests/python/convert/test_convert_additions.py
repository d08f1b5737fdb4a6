"""What is converted together with a model: P-Tuning prefixes, LoRA adapters; and integers for weights.

The goldens of the original code are in test_goldens; here are the forms that they do not cover.
"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest
from chatglm_cpp.convert import ConvertError, convert
from convert_helpers import (
    GLM_CONFIG,
    REMOTE_CONFIG,
    Gguf,
    glm_weights,
    make_glm,
    make_remote,
    remote_weights,
)
from first_generation import first_generation_logits
from golden import load_arrays, load_json, relative_error
from safetensors.numpy import load_file, save_file

from chatglm_cpp import FormatError, InvalidArgument, Pipeline

torch = pytest.importorskip("torch", reason="PyTorch, which .bin checkpoints need, is not installed")

EXACT = 1e-4  # f32 throughout: only the order of sums differs
IDS = [1, 5, 9, 3, 7, 20, 11, 30, 2, 17]


def logits(path: Path, ids: list[int] = IDS, **options) -> np.ndarray:
    return Pipeline(path, kv_dtype="f32", **options).logits(ids)


def converted(tmp_path: Path, folder: Path, **options) -> Path:
    target = tmp_path / f"{len(list(tmp_path.glob('*.gguf')))}.gguf"
    convert(folder, target, "f32", **options)
    return target


# --- the first generation ---


@pytest.fixture
def first_generation(checkpoints, tmp_path):
    """A copy of the golden ChatGLM-6B with few layers, its config, and its state dict as f32."""
    source = checkpoints / "chatglm-6b"
    config = load_json(source / "config.json") | {"num_layers": 3}
    state = {}
    for shard in source.glob("*.bin"):
        state |= torch.load(shard, weights_only=True)
    state = {
        name: value
        for name, value in state.items()
        if ".layers." not in name or int(name.split(".")[2]) < config["num_layers"]
    }
    folder = tmp_path / "first"
    folder.mkdir()
    for name in ("ice_text.model", "tokenizer_config.json"):
        shutil.copy(source / name, folder)
    (folder / "config.json").write_text(json.dumps(config))
    torch.save(state, folder / "pytorch_model.bin")
    return folder, config, {name: value.float().numpy() for name, value in state.items()}


def question(config) -> list[int]:
    return [9, 44, 180, 7, 300, config["gmask_token_id"], config["bos_token_id"], 21, 654, 5]


def test_the_first_generation_is_as_described(first_generation, tmp_path):
    folder, config, weights = first_generation
    ids = question(config)
    expected = first_generation_logits(weights, config, ids)
    assert relative_error(logits(converted(tmp_path, folder), ids), expected) < EXACT


def quantized(weight: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Integers and scales as the published checkpoints hold them."""
    largest = 2 ** (bits - 1) - 1
    scale = (np.abs(weight).max(axis=1) / largest).astype(np.float16)
    integers = np.clip(np.round(weight / scale.astype(np.float32)[:, None]), -largest - 1, largest).astype(
        np.int8
    )
    if bits == 8:
        return integers, scale
    return (integers[:, 0::2] << 4) | (integers[:, 1::2] & 15), scale


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("embeddings", [False, True])
def test_integers_of_the_first_generation(first_generation, tmp_path, bits, embeddings):
    """chatglm-6b-int4, -int8 and -int4-qe, which has integers for the embedding too."""
    folder, config, weights = first_generation
    state, floats = {}, dict(weights)
    for name, weight in weights.items():
        if weight.ndim == 2 and ("layers" in name or embeddings):
            integers, scale = quantized(weight, bits)
            state[name] = torch.from_numpy(integers)
            state[f"{name}_scale"] = torch.from_numpy(scale)
            low = (integers << 4) >> 4
            whole = integers if bits == 8 else np.stack([integers >> 4, low], -1).reshape(len(low), -1)
            floats[name] = whole * scale.astype(np.float32)[:, None]
        else:
            state[name] = torch.from_numpy(weight).half()
    (folder / "config.json").write_text(json.dumps(config | {"quantization_bit": bits}))
    torch.save(state, folder / "pytorch_model.bin")
    ids = question(config)
    actual = logits(converted(tmp_path, folder), ids)
    assert relative_error(actual, first_generation_logits(floats, config, ids)) < EXACT


@pytest.mark.parametrize("projection", [False, True])
def test_a_prefix_of_the_first_generation(first_generation, tmp_path, projection):
    folder, config, weights = first_generation
    rng = np.random.default_rng(4)
    length, width = 5, 2 * config["num_layers"] * config["hidden_size"]
    prefix, values = prefix_encoder(rng, length, width, config["hidden_size"] if projection else None)
    tuned = tmp_path / "tuned"
    tuned.mkdir()
    torch.save(prefix, tuned / "pytorch_model.bin")
    heads = config["num_attention_heads"]
    shaped = values.reshape(length, 2 * config["num_layers"], heads, config["hidden_size"] // heads)
    ids = question(config)
    expected = first_generation_logits(weights, config, ids, shaped)
    path = converted(tmp_path, folder, ptuning=tuned)
    assert relative_error(logits(path, ids), expected) < EXACT
    assert relative_error(logits(path, ids, prefill_chunk=1), expected) < EXACT


# --- prefixes ---


def prefix_encoder(rng, length: int, width: int, hidden: int | None = None):
    """A prefix encoder's state dict, and the keys and values (length, width) that it computes."""
    name = "transformer.prefix_encoder."
    if hidden is None:
        table = rng.standard_normal((length, width), dtype=np.float32)
        return {name + "embedding.weight": torch.from_numpy(table)}, table
    # ChatGLM2's network is as wide as its result, ChatGLM-6B's as the model; the shapes tell.
    table = rng.standard_normal((length, hidden), dtype=np.float32)
    w0 = rng.standard_normal((hidden, hidden), dtype=np.float32) / math.sqrt(hidden)
    w2 = rng.standard_normal((width, hidden), dtype=np.float32) / math.sqrt(hidden)
    b0, b2 = rng.standard_normal(hidden, dtype=np.float32), rng.standard_normal(width, dtype=np.float32)
    arrays = {
        "embedding.weight": table,
        "trans.0.weight": w0,
        "trans.0.bias": b0,
        "trans.2.weight": w2,
        "trans.2.bias": b2,
    }
    state = {name + key: torch.from_numpy(value) for key, value in arrays.items()}
    return state, np.tanh(table @ w0.T + b0) @ w2.T + b2


def test_a_projected_prefix_is_the_one_that_it_computes(tmp_path):
    base = make_remote(tmp_path / "base")
    width = 2 * REMOTE_CONFIG["num_layers"] * REMOTE_CONFIG["kv_channels"]
    state, values = prefix_encoder(np.random.default_rng(5), 6, width, 48)
    for name, content in (
        ("network", state),
        ("table", {"transformer.prefix_encoder.embedding.weight": torch.from_numpy(values)}),
    ):
        (tmp_path / name).mkdir()
        torch.save(content, tmp_path / name / "pytorch_model.bin")
    through_network = logits(converted(tmp_path, base, ptuning=tmp_path / "network"))
    assert (
        relative_error(through_network, logits(converted(tmp_path, base, ptuning=tmp_path / "table"))) < EXACT
    )
    assert relative_error(through_network, logits(converted(tmp_path, base))) > 0.1


def test_a_prefix_inside_the_checkpoint_is_found(checkpoints, tmp_path):
    """As a checkpoint that was saved whole after P-Tuning has it."""
    whole = tmp_path / "whole"
    shutil.copytree(checkpoints / "chatglm2-6b", whole)
    for file in whole.glob("pytorch_model*"):
        file.unlink()
    state = {}
    for folder in ("chatglm2-6b", "chatglm2-6b-ptuning-v2"):
        for shard in (checkpoints / folder).glob("*.bin"):
            state |= torch.load(shard, weights_only=True)
    torch.save(state, whole / "pytorch_model.bin")
    shutil.copy(checkpoints / "chatglm2-6b-ptuning-v2" / "config.json", whole)
    reference = load_arrays(checkpoints / "chatglm2-6b-ptuning-v2" / "reference.npz")
    path = converted(tmp_path, whole)
    assert relative_error(logits(path, reference["input_ids"].tolist()), reference["logits"]) < EXACT


def test_a_conversation_after_a_prefix_uses_the_cache(checkpoints, tmp_path):
    path = converted(tmp_path, checkpoints / "chatglm2-6b", ptuning=checkpoints / "chatglm2-6b-ptuning-v2")
    reference = load_arrays(checkpoints / "chatglm2-6b-ptuning-v2" / "reference.npz")
    pipeline = Pipeline(path, kv_dtype="f32")
    past = [*reference["input_ids"].tolist(), *reference["greedy_ids"].tolist()]
    pipeline.generate(past, do_sample=False, max_new_tokens=1)
    longer = past + reference["turn2_ids"].tolist()
    with pipeline.generate(longer, stream=True, do_sample=False, max_new_tokens=4) as stream:
        text = "".join(stream)
    assert stream.usage.cached_tokens >= len(past)
    assert text == Pipeline(path, kv_dtype="f32").generate(longer, do_sample=False, max_new_tokens=4)


# --- adapters ---


def make_adapter(
    folder: Path, shapes: dict[str, tuple[int, int]], rank: int = 4, **config
) -> dict[str, np.ndarray]:
    """A PEFT folder with random factors for matrices of these shapes; returns what each adds, as f32."""
    rng = np.random.default_rng(6)
    folder.mkdir()
    values = {"peft_type": "LORA", "r": rank, "lora_alpha": 12, "bias": "none"} | config
    (folder / "adapter_config.json").write_text(json.dumps(values))
    tensors, added = {}, {}
    for name, (rows, cols) in shapes.items():
        a = rng.standard_normal((rank, cols), dtype=np.float32) / math.sqrt(cols)
        b = rng.standard_normal((rows, rank), dtype=np.float32) / 4
        tensors[f"base_model.model.{name}.lora_A.weight"] = a
        tensors[f"base_model.model.{name}.lora_B.weight"] = b
        scale = 12 / math.sqrt(rank) if config.get("use_rslora") else 12 / rank
        added[f"{name}.weight"] = np.float32(scale) * (b @ a)
    save_file(tensors, folder / "adapter_model.safetensors")
    return added


def split_shapes() -> dict[str, tuple[int, int]]:
    """Everything that an adapter of transformers' layout usually changes, but not k of the second layer."""
    h, ffn, d = GLM_CONFIG["hidden_size"], GLM_CONFIG["intermediate_size"], GLM_CONFIG["head_dim"]
    q, kv = GLM_CONFIG["num_attention_heads"] * d, GLM_CONFIG["num_key_value_heads"] * d
    shapes = {"lm_head": (GLM_CONFIG["vocab_size"], h)}
    for i in range(2):
        layer = f"model.layers.{i}."
        shapes |= {f"{layer}self_attn.q_proj": (q, h), f"{layer}self_attn.v_proj": (kv, h)}
        shapes |= {f"{layer}self_attn.o_proj": (h, q), f"{layer}mlp.gate_up_proj": (2 * ffn, h)}
        shapes |= {f"{layer}mlp.down_proj": (h, ffn)}
    return shapes | {"model.layers.0.self_attn.k_proj": (kv, h)}


@pytest.fixture
def split(tmp_path):
    """A model whose q, k and v are apart, an adapter for it, and the logits of their sum."""
    base = make_glm(tmp_path / "base")
    added = make_adapter(tmp_path / "lora", split_shapes())
    weights = glm_weights(GLM_CONFIG)
    summed = {name: w.astype(np.float32) + added.get(name, 0) for name, w in weights.items()}
    expected = logits(converted(tmp_path, make_glm(tmp_path / "summed", summed)))
    return base, tmp_path / "lora", expected


def test_a_merged_adapter_is_the_sum(split, tmp_path):
    base, lora, expected = split
    assert relative_error(logits(converted(tmp_path, base, lora=lora)), expected) < EXACT


def test_an_adapter_apart_is_the_sum(split, tmp_path):
    base, lora, expected = split
    model, adapter = converted(tmp_path, base), tmp_path / "adapter.gguf"
    convert(lora, adapter, base=base)
    assert relative_error(logits(model, lora=adapter), expected) < EXACT
    for n_threads, chunk in ((1, 1), (2, 3), (3, 512)):
        again = Pipeline(model, kv_dtype="f32", lora=adapter, n_threads=n_threads, prefill_chunk=chunk)
        assert np.array_equal(again.logits(IDS), logits(model, lora=adapter))


def test_adapters_are_switched_and_scaled_while_running(split, tmp_path):
    base, lora, expected = split
    model, adapter = converted(tmp_path, base), tmp_path / "adapter.gguf"
    convert(lora, adapter, base=base)
    alone = logits(model)
    pipeline = Pipeline(model, kv_dtype="f32")
    assert pipeline.lora == {}
    pipeline.set_lora(adapter)
    assert pipeline.lora == {str(adapter): 1.0}
    assert relative_error(pipeline.logits(IDS), expected) < EXACT
    pipeline.set_lora({adapter: 0})
    assert np.array_equal(pipeline.logits(IDS), alone)
    pipeline.set_lora(None)
    assert np.array_equal(pipeline.logits(IDS), alone)
    with pytest.raises(FileNotFoundError):
        pipeline.set_lora(tmp_path / "none.gguf")
    with pytest.raises(FormatError, match="not a LoRA adapter"):
        pipeline.set_lora(model)
    with pytest.raises(InvalidArgument, match="finite"):
        pipeline.set_lora({adapter: float("nan")})
    assert np.array_equal(pipeline.logits(IDS), alone)


def test_the_cache_forgets_what_another_adapter_computed(split, tmp_path):
    base, lora, _ = split
    model, adapter = converted(tmp_path, base), tmp_path / "adapter.gguf"
    convert(lora, adapter, base=base)
    pipeline = Pipeline(model, kv_dtype="f32")
    options = {"do_sample": False, "max_new_tokens": 6}
    alone = pipeline.generate(IDS, **options)
    pipeline.set_lora(adapter)
    with pipeline.generate(IDS, stream=True, **options) as stream:
        adapted = "".join(stream)
    assert stream.usage.cached_tokens == 0
    assert adapted == Pipeline(model, kv_dtype="f32", lora=adapter).generate(IDS, **options) != alone


def test_a_running_reply_keeps_its_adapter(split, tmp_path):
    base, lora, _ = split
    model, adapter = converted(tmp_path, base), tmp_path / "adapter.gguf"
    convert(lora, adapter, base=base)
    pipeline = Pipeline(model, kv_dtype="f32")
    options = {"do_sample": False, "max_new_tokens": 6}
    expected = pipeline.generate(IDS, **options)
    with pipeline.generate(IDS, stream=True, **options) as stream:
        pieces = [next(stream)]
        pipeline.set_lora(adapter)
        pieces += stream
    assert "".join(pieces) == expected


def test_an_adapter_in_llama_cpps_names_for_apart_q_k_v(split, tmp_path):
    """Its converter names them one by one; our file has them as one matrix."""
    base, lora, expected = split
    tensors = load_file(lora / "adapter_model.safetensors")
    names = {
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "mlp.gate_up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    }  # fmt: skip
    path = tmp_path / "adapter.gguf"
    writer = gguf.GGUFWriter(path, "chatglm")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 12)
    for name, tensor in tensors.items():
        inner, _, side = name.removeprefix("base_model.model.").removesuffix(".weight").rpartition(".")
        target = "output"
        if inner != "lm_head":
            _, _, layer, part = inner.split(".", 3)
            target = f"blk.{layer}.{names[part]}"
        writer.add_tensor(f"{target}.weight.{side.lower()}", tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert relative_error(logits(converted(tmp_path, base), lora=path), expected) < EXACT


def test_an_adapter_of_the_first_generation(first_generation, tmp_path):
    folder, config, weights = first_generation
    h = config["hidden_size"]
    added = make_adapter(
        tmp_path / "lora",
        {
            f"transformer.layers.{i}.attention.query_key_value": (3 * h, h)
            for i in range(config["num_layers"])
        },
    )
    ids = question(config)
    expected = first_generation_logits(
        {name: w + added.get(name, 0) for name, w in weights.items()}, config, ids
    )
    assert relative_error(logits(converted(tmp_path, folder, lora=tmp_path / "lora"), ids), expected) < EXACT
    convert(tmp_path / "lora", tmp_path / "adapter.gguf", base=folder)
    model = converted(tmp_path, folder)
    assert relative_error(logits(model, ids, lora=tmp_path / "adapter.gguf"), expected) < EXACT


def test_two_adapters_add_up(tmp_path):
    base = make_remote(tmp_path / "base")
    qkv, h = 4 * 32, 64
    names = [f"transformer.encoder.layers.{i}.self_attention.query_key_value" for i in range(2)]
    first = make_adapter(tmp_path / "first", {names[0]: (qkv, h)})
    second = make_adapter(tmp_path / "second", {names[1]: (qkv, h)}, rank=3, use_rslora=True)
    weights = {k: w.astype(np.float32) for k, w in remote_weights(REMOTE_CONFIG).items()}
    for name in first:
        weights[name] = weights[name] + first[name]
    for name in second:
        weights[name] = weights[name] + np.float32(0.5) * second[name]
    expected = logits(converted(tmp_path, make_remote(tmp_path / "summed", weights)))
    for name in ("first", "second"):
        convert(tmp_path / name, tmp_path / f"{name}.gguf", base=base)
    both = {tmp_path / "first.gguf": 1.0, tmp_path / "second.gguf": 0.5}
    assert relative_error(logits(converted(tmp_path, base), lora=both), expected) < EXACT


def test_whole_tensors_of_an_adapter_replace_the_models(tmp_path):
    """PEFT's modules_to_save."""
    base = make_remote(tmp_path / "base")
    make_adapter(tmp_path / "lora", {})
    new = np.random.default_rng(8).standard_normal((64, 64), dtype=np.float32)
    save_file(
        {"base_model.model.transformer.output_layer.weight": new},
        tmp_path / "lora" / "adapter_model.safetensors",
    )
    file = Gguf(converted(tmp_path, base, lora=tmp_path / "lora"))
    assert np.array_equal(file.floats("output.weight"), new)
    with pytest.raises(ConvertError, match=r"modules_to_save.*-l"):
        convert(tmp_path / "lora", tmp_path / "adapter.gguf", base=base)


QKV = "transformer.encoder.layers.0.self_attention.query_key_value"


def rewrite(folder: Path, edit) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "adapter_model.safetensors")


ADAPTER_FAILURES = {
    "no weights": (lambda f: (f / "adapter_model.safetensors").unlink(), "adapter_model.safetensors"),
    "another kind": (lambda f: set_adapter(f, peft_type="IA3"), "IA3"),
    "no alpha": (lambda f: set_adapter(f, lora_alpha="x"), "lora_alpha"),
    "DoRA": (lambda f: set_adapter(f, use_dora=True), "use_dora"),
    "biases": (lambda f: set_adapter(f, bias="all"), '"bias"'),
    "odd pattern": (lambda f: set_adapter(f, alpha_pattern={"(a+)+$": 3}), "alpha_pattern"),
    "half a pair": (
        lambda f: rewrite(f, lambda t: t.pop(f"base_model.model.{QKV}.lora_A.weight")),
        "has no lora_A",
    ),
    "ranks differ": (
        lambda f: rewrite(
            f, lambda t: t.update({f"base_model.model.{QKV}.lora_A.weight": np.zeros((5, 64), np.float32)})
        ),
        "do not fit each other",
    ),
    "another size": (
        lambda f: rewrite(
            f, lambda t: t.update({f"base_model.model.{QKV}.lora_A.weight": np.zeros((4, 32), np.float32)})
        ),
        "[128, 32]",
    ),
    "another model": (
        lambda f: rewrite(
            f, lambda t: t.update({"base_model.model.x.lora_A.weight": np.zeros((4, 4), np.float32),
                                   "base_model.model.x.lora_B.weight": np.zeros((4, 4), np.float32)})
        ),
        "x.weight",
    ),
    "no floats": (
        lambda f: rewrite(
            f, lambda t: t.update({f"base_model.model.{QKV}.lora_A.weight": np.zeros((4, 64), np.int32)})
        ),
        "floats are expected",
    ),
}  # fmt: skip


def set_adapter(folder: Path, **values: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize("name", ADAPTER_FAILURES)
def test_bad_adapters_are_named(tmp_path, name):
    damage, part = ADAPTER_FAILURES[name]
    base = make_remote(tmp_path / "base")
    make_adapter(tmp_path / "lora", {QKV: (128, 64)})
    damage(tmp_path / "lora")
    for attempt in (
        lambda: convert(base, tmp_path / "m.gguf", lora=tmp_path / "lora"),
        lambda: convert(tmp_path / "lora", tmp_path / "m.gguf", base=base),
    ):
        with pytest.raises(ConvertError) as caught:
            attempt()
        assert part in str(caught.value) and str(tmp_path / "lora") in str(caught.value)
        assert not (tmp_path / "m.gguf").exists()


def test_the_first_fitting_alpha_counts(tmp_path):
    """As in PEFT, which takes the first key of alpha_pattern that fits."""
    base = make_remote(tmp_path / "base")
    pattern = {"query_key_value": 24, "0.self_attention.query_key_value": 1}
    added = make_adapter(tmp_path / "lora", {QKV: (128, 64)}, alpha_pattern=pattern)
    weights = {k: w.astype(np.float32) for k, w in remote_weights(REMOTE_CONFIG).items()}
    weights[f"{QKV}.weight"] += 2 * added[f"{QKV}.weight"]  # 24 instead of 12
    expected = logits(converted(tmp_path, make_remote(tmp_path / "summed", weights)))
    assert relative_error(logits(converted(tmp_path, base, lora=tmp_path / "lora")), expected) < EXACT


@pytest.mark.parametrize("folder", ["base", "lora"])
def test_nothing_is_written_among_the_files_that_are_read(tmp_path, folder):
    base = make_remote(tmp_path / "base")
    make_adapter(tmp_path / "lora", {QKV: (128, 64)})
    (tmp_path / "link.gguf").symlink_to(tmp_path / folder / "model.safetensors")
    for target in (tmp_path / folder / "adapter_model.safetensors", tmp_path / "link.gguf"):
        before = target.read_bytes() if target.exists() else None
        with pytest.raises(ConvertError, match="among the files that are read"):
            convert(base, target, lora=tmp_path / "lora")
        assert (target.read_bytes() if target.exists() else None) == before


def test_an_adapter_needs_its_model(tmp_path):
    make_adapter(tmp_path / "lora", {QKV: (128, 64)}, base_model_name_or_path="someone/chatglm3")
    with pytest.raises(ConvertError, match=r"someone/chatglm3.*--base"):
        convert(tmp_path / "lora", tmp_path / "m.gguf")
    base = make_remote(tmp_path / "base")
    set_adapter(tmp_path / "lora", base_model_name_or_path=str(base))
    convert(tmp_path / "lora", tmp_path / "m.gguf")


PREFIX = "transformer.prefix_encoder.embedding.weight"
TRANS = "transformer.prefix_encoder.trans.0.weight"
PREFIX_FAILURES = {
    "no folder": (None, "no such folder"),
    "no prefix": ({"x": np.zeros((2, 2), np.float32)}, f"{PREFIX} is missing"),
    "another model": ({PREFIX: np.zeros((4, 100), np.float32)}, "100 values"),
    "no positions": ({PREFIX: np.zeros((0, 128), np.float32)}, "0 positions"),
    "no matrix": ({PREFIX: np.zeros(128, np.float32)}, "[128]"),
    "integers": ({PREFIX: np.zeros((4, 128), np.int32)}, "floats are expected"),
    "half a network": (
        {PREFIX: np.zeros((4, 8), np.float32), TRANS: np.zeros((8, 8), np.float32)},
        "trans.0.bias is missing",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PREFIX_FAILURES)
def test_bad_prefixes_are_named(tmp_path, name):
    tensors, part = PREFIX_FAILURES[name]
    base, folder = make_remote(tmp_path / "base"), tmp_path / "prefix"
    if tensors is not None:
        folder.mkdir()
        save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ConvertError) as caught:
        convert(base, tmp_path / "m.gguf", ptuning=folder)
    assert part in str(caught.value) and str(folder) in str(caught.value)
    assert not (tmp_path / "m.gguf").exists()


def test_a_prefix_alone_is_no_model(checkpoints, tmp_path):
    with pytest.raises(ConvertError, match=r"P-Tuning prefix and no model.*--ptuning"):
        convert(checkpoints / "chatglm2-6b-ptuning-v2", tmp_path / "m.gguf")


def test_prefixes_are_for_models_that_have_them(tmp_path):
    (tmp_path / "prefix").mkdir()
    save_file({PREFIX: np.zeros((4, 128), np.float32)}, tmp_path / "prefix" / "model.safetensors")
    with pytest.raises(ConvertError, match="ChatGLM-6B, ChatGLM2 and ChatGLM3 only"):
        convert(make_glm(tmp_path / "glm"), tmp_path / "m.gguf", ptuning=tmp_path / "prefix")


@pytest.mark.parametrize(
    ("damage", "part"),
    [
        (lambda s: s.pop(f"{QKV}.weight_scale"), "weight_scale is missing"),
        (lambda s: s.update({f"{QKV}.weight_scale": np.ones(3, np.float16)}), "[3]"),
        (lambda s: s.update({f"{QKV}.weight": np.zeros((128, 31), np.int8)}), "[128, 62]"),
    ],
)
def test_bad_integers_are_named(tmp_path, damage, part):
    weights = remote_weights(REMOTE_CONFIG)
    weights[f"{QKV}.weight"] = np.zeros((128, 32), np.int8)
    weights[f"{QKV}.weight_scale"] = np.ones(128, np.float16)
    damage(weights)
    folder = make_remote(tmp_path / "in", weights, quantization_bit=4)
    with pytest.raises(ConvertError) as caught:
        convert(folder, tmp_path / "m.gguf")
    assert part in str(caught.value) and QKV in str(caught.value)
