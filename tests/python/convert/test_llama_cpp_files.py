"""Files that llama.cpp's own programs write: they say less than ours, and must run all the same."""

from __future__ import annotations

import re
import shutil
from itertools import takewhile
from pathlib import Path

import gguf
import numpy as np
import pytest
from golden import as_chat, load_arrays, load_json, relative_error
from llama_cpp_files import (
    Writer,
    add_hparams,
    add_tokens,
    read_tokens,
    read_weights,
    tie_embeddings,
    write_file,
    write_vocabulary,
)
from test_goldens import F32_ERROR, greedy

from chatglm_cpp import FormatError, Pipeline, Tokenizer
from chatglm_cpp.cli.describe import describe
from chatglm_cpp.cli.info import format_description

pytest.importorskip("torch", reason="the golden weights are read with PyTorch")
pytest.importorskip("sentencepiece", reason="the judge of SentencePiece models is not installed")

REMOTE = ["chatglm3-6b", "chatglm2-6b", "codegeex2-6b", "glm-4-9b-chat"]
NAMES = [*REMOTE, "glm-4-9b-chat-hf", "glm-edge-1.5b-chat", "glm-4-9b-0414"]


@pytest.fixture(scope="module")
def files(fixtures, tmp_path_factory):
    """files(name, template) is the file that llama.cpp's converter makes of a golden checkpoint."""
    folder = tmp_path_factory.mktemp("llama_cpp_files")

    def make(name: str, template: bool = True) -> Path:
        target = folder / f"{name}-{template}.gguf"
        if not target.exists():
            write_file(fixtures / "checkpoints" / name, target, template=template)
        return target

    return make


@pytest.fixture
def reference(fixtures):
    return lambda name: load_arrays(fixtures / "checkpoints" / name / "reference.npz")


@pytest.mark.parametrize("name", NAMES)
def test_logits_and_greedy_ids(files, reference, name):
    golden = reference(name)
    pipeline = Pipeline(files(name), kv_dtype="f32")
    prompt, expected = golden["input_ids"].tolist(), golden["greedy_ids"].tolist()
    assert relative_error(pipeline.logits(prompt), golden["logits"]) <= F32_ERROR
    eos = pipeline.tokenizer.eos_ids
    assert greedy(pipeline, prompt, len(expected)) == list(takewhile(lambda i: i not in eos, expected))


def llama_logits(path: Path, ids: list[int]) -> np.ndarray:
    llama_cpp = pytest.importorskip("llama_cpp", reason="the judge of the file format is not installed")
    f32 = llama_cpp.GGML_TYPE_F32
    model = llama_cpp.Llama(
        str(path), n_ctx=128, n_threads=1, logits_all=True, type_k=f32, type_v=f32, verbose=False
    )
    model.eval(ids)
    logits = np.array(model.scores[: len(ids)])
    model.close()
    return logits


@pytest.mark.parametrize("name", NAMES)
def test_llama_cpp_agrees_on_the_same_file(files, reference, name):
    golden = reference(name)
    logits = llama_logits(files(name), golden["input_ids"].tolist())
    assert relative_error(logits, golden["logits"]) <= F32_ERROR


def test_what_the_converter_forgets_is_computed_as_llama_cpp_does(fixtures, tmp_path):
    """It gives GLM-4-9B-chat-hf a rotary base of 10000 and an epsilon of 1e-5."""
    folder = fixtures / "checkpoints" / "glm-4-9b-chat-hf"
    file = write_file(folder, tmp_path / "m.gguf", faithful=False)
    golden = load_arrays(folder / "reference.npz")
    ids = golden["input_ids"].tolist()
    logits = Pipeline(file, kv_dtype="f32").logits(ids)
    assert relative_error(logits, llama_logits(file, ids)) <= F32_ERROR
    assert relative_error(logits, golden["logits"]) > F32_ERROR


@pytest.mark.parametrize("template", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_tokens(files, fixtures, name, template):
    tokenizer = Tokenizer(files(name, template))
    for case in load_json(fixtures / "checkpoints" / name / "tokenizer_goldens.json")["cases"]:
        assert tokenizer.encode_plain(case["text"]) == case["ids"], case["text"]
        assert tokenizer.decode(case["ids"]) == case["decoded"], case["text"]
    start = tokenizer.token_id("<sop>" if name.startswith("glm") else "sop")
    assert tokenizer.prefix_ids == ([] if "edge" in name else [tokenizer.token_id("[gMASK]"), start])


@pytest.mark.parametrize("template", [True, False])
@pytest.mark.parametrize("name", [name for name in NAMES if name != "codegeex2-6b"])
def test_chats(files, fixtures, name, template):
    """With the checkpoint's own template, and without one, as older files are."""
    pipeline = Pipeline(files(name, template), kv_dtype="f32")
    golden = load_json(fixtures / "checkpoints" / name / "reference_chat.json")
    assert sorted(pipeline.tokenizer.eos_ids) == sorted(golden["eos_ids"])
    for case in golden["cases"]:
        messages = as_chat(case["messages"])
        assert pipeline.tokenizer.apply_chat_template(messages) == case["prompt_ids"]
        deltas = list(
            pipeline.chat(messages, stream=True, do_sample=False, max_new_tokens=golden["max_new_tokens"])
        )
        expected = [i for i in case["output_ids"] if i not in golden["eos_ids"]]
        assert [i for delta in deltas for i in delta.token_ids] == expected


def test_a_template_of_somebody_else_is_used(fixtures, tmp_path):
    folder = fixtures / "checkpoints" / "chatglm3-6b"
    writer = Writer(tmp_path / "m.gguf", "chatglm")
    config = load_json(folder / "config.json")
    add_hparams(writer, config)
    add_tokens(writer, read_tokens(folder, config), "{% for m in messages %}{{ m['content'] }}{% endfor %}")
    tokenizer = Tokenizer(writer.finish())
    assert tokenizer.chat_format == "template"
    assert tokenizer.prefix_ids == []
    assert tokenizer.apply_chat_template(["你好"]) == tokenizer.encode_plain("你好")


@pytest.mark.parametrize("name", ["chatglm2", "chatglm3", "glm4"])
def test_the_real_vocabularies(fixtures, tmp_path, name):
    """Without the original SentencePiece model or the ranks, every golden text has its ids all the same."""
    source = fixtures / "tokenizers"
    shutil.copy(source / ("chatglm2" if name == "chatglm3" else name) / "tokenizer.model", tmp_path)
    shutil.copy(source / name / "tokenizer_config.json", tmp_path)
    size = 151552 if name == "glm4" else 65024
    file = write_vocabulary(tmp_path, tmp_path / "m.gguf", size, roles=name == "chatglm3")
    tokenizer = Tokenizer(file)
    assert tokenizer.chat_format == name
    golden = load_json(source / name / "encode.json")
    assert tokenizer.prefix_ids == golden["prefix"]
    for case in golden["cases"]:
        assert tokenizer.encode_plain(case["text"]) == case["ids"], case["text"]
        assert tokenizer.decode(case["ids"]) == case["decoded"], case["text"]
    for case in load_json(source / name / "chat.json")["cases"]:
        options = case.get("options", {}).values()
        if False not in options and not (name == "glm4" and any("tools" in m for m in case["messages"])):
            assert tokenizer.apply_chat_template(as_chat(case["messages"])) == case["ids"]


def test_the_output_matrix_may_be_the_embedding(fixtures, tmp_path):
    """The tied models' output is what an untied file with the same matrix twice gives."""
    tied = tie_embeddings(fixtures / "checkpoints" / "glm-edge-1.5b-chat", tmp_path / "tied")
    weights = read_weights(tied)
    assert "output.weight" not in weights
    config = load_json(tied / "config.json")
    ids = load_arrays(fixtures / "checkpoints" / "glm-edge-1.5b-chat" / "reference.npz")["input_ids"].tolist()
    logits = []
    for name, more in (("tied", {}), ("twice", {"output.weight": weights["token_embd.weight"]})):
        writer = Writer(tmp_path / f"{name}.gguf", "chatglm")
        add_hparams(writer, config)
        add_tokens(writer, read_tokens(tied, config), None)
        for tensor, values in (weights | more).items():
            writer.add_tensor(tensor, values)
        logits.append(Pipeline(writer.finish(), kv_dtype="f32").logits(ids))
    assert np.array_equal(*logits)


OPTIONAL_KEYS = (
    "general.file_type", "general.name", "general.type", "tokenizer.ggml.add_bos_token",
    "tokenizer.ggml.eos_token_id", "tokenizer.ggml.pre",
)  # fmt: skip


@pytest.mark.parametrize("name", ["chatglm3-6b", "glm-4-9b-chat"])
def test_keys_that_older_converters_did_not_write(fixtures, reference, tmp_path, name):
    skip = (*OPTIONAL_KEYS, *(["chatglm.rope.freq_base"] if name == "chatglm3-6b" else []))
    file = write_file(fixtures / "checkpoints" / name, tmp_path / "m.gguf", skip=skip, template=False)
    pipeline = Pipeline(file, kv_dtype="f32")
    golden = reference(name)
    assert relative_error(pipeline.logits(golden["input_ids"]), golden["logits"]) <= F32_ERROR
    chat = load_json(fixtures / "checkpoints" / name / "reference_chat.json")
    assert sorted(pipeline.tokenizer.eos_ids) == sorted(chat["eos_ids"])


def rewrite(
    source: Path, target: Path, *, version: int = 3, alignment: int = 32, drop: str = "", **more
) -> Path:
    """`source` with other keys, or tensors in `tensors`, and in another dress."""
    reader = gguf.GGUFReader(source)
    arch = more.pop("arch", reader.fields["general.architecture"].contents())
    tensors = more.pop("tensors", {})
    writer = Writer(target, arch)
    writer.add_custom_alignment(alignment)
    integer = more.pop("integer", None)
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key in ("general.architecture", *drop.split(), *more):
            continue
        kind = field.types[0]
        if kind == gguf.GGUFValueType.UINT32 and integer is not None:
            kind = integer
        writer.add_key_value(key, field.contents(), kind, field.types[-1] if len(field.types) > 1 else None)
    for key, value in more.items():
        kind = {str: gguf.GGUFValueType.STRING, float: gguf.GGUFValueType.FLOAT32}.get(type(value))
        if isinstance(value, list):
            writer.add_array(key, value)
        else:
            writer.add_key_value(key, value, kind or gguf.GGUFValueType.UINT32)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, np.array(tensor.data))
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    writer.finish()
    if version != 3:
        data = bytearray(target.read_bytes())
        data[4:8] = version.to_bytes(4, "little")
        target.write_bytes(data)
    return target


@pytest.mark.parametrize(
    "options",
    [
        {"version": 2},
        {"alignment": 4096},
        {"integer": gguf.GGUFValueType.UINT64},
        {"integer": gguf.GGUFValueType.INT32},
        {"tensors": {"blk.0.attn_rot_embd.weight": np.ones(8, np.float32)}},
        {"tensors": {"rope_freqs.weight": np.ones(16, np.float32)}},
        {"split.count": 1, "split.no": 0},
    ],
    ids=["version 2", "alignment", "u64", "i32", "unknown tensor", "rope_freqs of 1", "one part"],
)
def test_what_does_not_matter(files, reference, tmp_path, options):
    golden = reference("chatglm3-6b")
    file = rewrite(files("chatglm3-6b"), tmp_path / "m.gguf", **options)
    logits = Pipeline(file, kv_dtype="f32").logits(golden["input_ids"])
    assert relative_error(logits, golden["logits"]) <= F32_ERROR


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arch": "llama"}, "architecture 'llama'.*llama.cpp runs"),
        ({"arch": "qwen2"}, "architecture 'qwen2'"),
        ({"arch": "glm4moe"}, "'glm4moe', a GLM of a later generation"),
        ({"general.type": "adapter"}, "LoRA adapter.*base model"),
        ({"general.type": "mmproj", "arch": "clip"}, "projector.*language model"),
        ({"general.type": "imatrix"}, "'imatrix'"),
        ({"split.count": 3, "split.no": 0}, "one of the 3 parts.*llama-gguf-split --merge"),
        ({"chatglm.rope.dimension_sections": [8, 12, 12, 0]}, "rope.dimension_sections"),
        ({"chatglm.nextn_predict_layers": 1}, "nextn_predict_layers"),
        ({"chatglm.rope.scaling.type": "yarn", "chatglm.rope.scaling.factor": 4.0}, "'yarn'"),
        ({"tensors": {"rope_freqs.weight": np.full(16, 2, np.float32)}}, "rope_freqs"),
        ({"drop": "chatglm.block_count"}, "chatglm.block_count"),
        ({"drop": "tokenizer.ggml.tokens"}, "tokenizer.ggml"),
    ],
)  # fmt: skip
def test_what_cannot_run_is_said_in_a_sentence(files, tmp_path, options, message):
    file = rewrite(files("chatglm3-6b"), tmp_path / "m.gguf", **options)
    with pytest.raises(FormatError, match=f"(?s)m.gguf.*{message}"):
        Pipeline(file)


def test_a_big_endian_file(files, tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "chatglm", endianess=gguf.GGUFEndian.BIG)
    writer.add_block_count(2)
    writer.add_tensor("x", np.ones(32, np.float32))
    Writer.finish(writer)
    with pytest.raises(FormatError, match="big-endian"):
        Pipeline(tmp_path / "m.gguf")
    data = files("chatglm3-6b").read_bytes()
    (tmp_path / "reversed.gguf").write_bytes(data[3::-1] + data[4:])
    with pytest.raises(FormatError, match="big-endian"):
        Pipeline(tmp_path / "reversed.gguf")


def test_a_scaling_factor_alone_is_linear(fixtures, reference, files, tmp_path):
    golden = load_arrays(fixtures / "checkpoints" / "chatglm3-6b" / "reference.npz")
    ids = golden["input_ids"].tolist()
    factor = {"chatglm.rope.scaling.factor": 8.0}
    alone = rewrite(files("chatglm3-6b"), tmp_path / "a.gguf", **factor)
    named = rewrite(
        files("chatglm3-6b"), tmp_path / "n.gguf", **factor, **{"chatglm.rope.scaling.type": "linear"}
    )
    logits = Pipeline(alone, kv_dtype="f32").logits(ids)
    assert np.array_equal(logits, Pipeline(named, kv_dtype="f32").logits(ids))
    assert relative_error(logits, golden["logits"]) > F32_ERROR


def test_info_says_what_will_happen(files, tmp_path):
    described = describe(files("chatglm3-6b"))
    assert (described["chat_format"], described["chat_format_guessed"]) == ("chatglm3", True)
    assert described["runs"] and described["problem"] is None and not described["unsupported_types"]
    assert described["architecture"] == "chatglm" and described["name"] == "chatglm3-6b"
    assert described["head_dim"] == 64 and described["cache_bytes"] == 2 * 2 * 2 * 64 * 2048 * 2
    text = format_description(described)
    assert "chatglm3, told from its tokens" in text and re.search(r"^runs +yes$", text, re.M)


def test_info_of_a_file_that_does_not_run(files, tmp_path):
    part = rewrite(files("glm-4-9b-0414"), tmp_path / "part.gguf", **{"split.count": 2, "split.no": 0})
    described = describe(part)
    assert described["chat_format"] == "template"
    assert "llama-gguf-split --merge" in format_description(described)
    writer = Writer(tmp_path / "other.gguf", "clip")
    writer.add_type("mmproj")
    described = describe(writer.finish())
    assert described["layers"] is None and described["chat_format"] is None
    assert "projector" in format_description(described)
    missing = rewrite(files("chatglm3-6b"), tmp_path / "m.gguf", drop="chatglm.attention.head_count")
    assert "chatglm.attention.head_count" in format_description(describe(missing))
