"""Writes a full-size GGUF file with random weights: see what a model will do here before downloading it.

    python benchmarks/random_model.py chatglm2-6b q4_0 random-6b-q4_0.gguf
    python benchmarks/random_model.py chatglm2-6b q4_0 part.gguf --layers 4
    python benchmarks/random_model.py chatglm2-6b sizes

`chatglm-cpp bench --random chatglm2-6b` writes one, measures it and deletes it.
"""

import argparse
import sys

from chatglm_cpp.convert import DTYPES, ConvertError

from chatglm_cpp.random_model import SHAPES, tensor_bytes_of, write_random_model


def layers_key(shape: str) -> str:
    return next(key for key in ("num_layers", "num_hidden_layers") if key in SHAPES[shape])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("dtype", choices=[*DTYPES, "sizes"], help="sizes: print the size for each type")
    parser.add_argument("path", nargs="?")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--layers", type=int, metavar="N", help="the first N layers only")
    args = parser.parse_args()
    if args.dtype == "sizes":
        for dtype in DTYPES:
            print(f"{args.shape} {dtype}: {tensor_bytes_of(args.shape, dtype) / 1e9:.2f} GB")
        return
    if not args.path:
        parser.error("give the path of the file to write")
    try:
        config = {}
        if args.layers is not None:
            key = layers_key(args.shape)
            if not 1 <= args.layers <= SHAPES[args.shape][key]:
                parser.error(f"{args.shape} has {SHAPES[args.shape][key]} layers, not {args.layers}")
            config[key] = args.layers
        write_random_model(args.shape, args.dtype, args.path, seed=args.seed, config=config)
    except ConvertError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
