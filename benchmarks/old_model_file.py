"""The weights of a GGUF file of ChatGLM2's or ChatGLM3's architecture, in a model file of the earlier
chatglm-cpp (0.4), so that compare.py can measure it with the same bytes:

    python benchmarks/old_model_file.py random.gguf random.bin

The tokenizer of the file is a makeshift: compare.py gives ids, not text. Needs sentencepiece.
"""

from __future__ import annotations

import argparse
import io
import os
import struct
import sys
from collections.abc import Iterator
from typing import BinaryIO

import gguf
import sentencepiece

TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q5_0": 6, "Q5_1": 7, "Q8_0": 8}
CHATGLM2 = 2  # its number of the architecture
VERSION = 2  # of the header

OF_LAYER = (
    ("attn_norm.weight", "input_layernorm.weight"),
    ("attn_qkv.weight", "self_attention.query_key_value.weight"),
    ("attn_qkv.bias", "self_attention.query_key_value.bias"),
    ("attn_output.weight", "self_attention.dense.weight"),
    ("ffn_norm.weight", "post_attention_layernorm.weight"),
    ("ffn_up.weight", "mlp.dense_h_to_4h.weight"),
    ("ffn_down.weight", "mlp.dense_4h_to_h.weight"),
)


def names(n_layers: int) -> Iterator[tuple[str, str]]:
    """(GGUF's name, the other's name) in the order that it reads them."""
    yield "token_embd.weight", "transformer.embedding.word_embeddings.weight"
    for i in range(n_layers):
        for ours, theirs in OF_LAYER:
            yield f"blk.{i}.{ours}", f"transformer.encoder.layers.{i}.{theirs}"
    yield "output_norm.weight", "transformer.encoder.final_layernorm.weight"
    yield "output.weight", "transformer.output_layer.weight"


def tokenizer() -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a b c d e f g h i j k l m n o p q r s t u v w x y z"] * 8),
        model_writer=model,
        vocab_size=400,
        hard_vocab_limit=False,
        byte_fallback=True,
        minloglevel=2,
    )
    return model.getvalue()


def write(source: str, target: str) -> None:
    """Writes the file `target`, which must not be there yet; a failure leaves nothing behind."""
    reader = gguf.GGUFReader(source)
    present = {tensor.name for tensor in reader.tensors}
    missing = [ours for ours, _ in OF_LAYER if f"blk.0.{ours}" not in present]
    if missing or "chatglm.block_count" not in reader.fields:
        raise ValueError("it has not ChatGLM2's or ChatGLM3's architecture")
    with open(target, "xb") as file:
        try:
            write_file(reader, file)
        except BaseException:
            os.unlink(target)
            raise


def write_file(reader: gguf.GGUFReader, file: BinaryIO) -> None:
    def field(key: str) -> int | float:
        return reader.fields[f"chatglm.{key}"].contents()

    n_layers = int(field("block_count"))
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    output, piece = tensors["output.weight"], tokenizer()
    file.write(b"ggml" + struct.pack("<ii", CHATGLM2, VERSION))
    file.write(struct.pack("<ii", TYPES[output.tensor_type.name], int(output.shape[1])))
    for key in ("embedding_length", "attention.head_count", "attention.head_count_kv"):
        file.write(struct.pack("<i", int(field(key))))
    file.write(struct.pack("<ii", n_layers, int(field("feed_forward_length"))))
    file.write(struct.pack("<fif", field("attention.layer_norm_rms_epsilon"), 0, 10000.0))
    file.write(struct.pack("<iii", int(field("context_length")), 2, 0))
    file.write(struct.pack("<i", len(piece)) + piece)
    for ours, theirs in names(n_layers):
        tensor = tensors[ours]
        shape = [int(n) for n in reversed(tensor.shape)]
        file.write(struct.pack("<i", len(theirs)) + theirs.encode())
        file.write(struct.pack(f"<i{len(shape)}i", len(shape), *shape))
        file.write(struct.pack("<i", TYPES[tensor.tensor_type.name]))
        file.write(bytes(-file.tell() % 16))
        tensor.data.tofile(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", help="GGUF file")
    parser.add_argument("target", help="file to write, which must not be there yet")
    args = parser.parse_args()
    try:
        write(args.source, args.target)
    except (OSError, LookupError, ValueError) as error:
        sys.exit(f"error: {args.source} cannot be written to {args.target}: {error}")


if __name__ == "__main__":
    main()
