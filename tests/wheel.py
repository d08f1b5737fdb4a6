"""Tests an installed wheel, as its users have it: run with its Python, in any folder.

python tests/wheel.py
"""

import importlib.metadata
import pathlib
import platform
import subprocess
import sys

TESTS = pathlib.Path(__file__).resolve().parent / "python"
FILES = ("test_default_model.py", "test_pipeline.py", "test_cli.py")

# What a wheel for these processors must hold, to be chosen from when it runs.
X86 = ("generic", "avx2", "avxvnni", "avx512vnni")
ARM = ("generic", "neon", "dotprod", "i8mm")
KERNELS = {"x86_64": X86, "AMD64": X86, "aarch64": ARM, "arm64": ARM}


def check_kernels() -> None:
    from chatglm_cpp import _C

    content = pathlib.Path(_C.__file__).read_bytes()
    for name in KERNELS.get(platform.machine(), ("generic",)):
        if name.encode() not in content:
            sys.exit(f"The wheel has no kernels of the name {name}.")


def check_files() -> None:
    files = [str(file) for file in importlib.metadata.files("chatglm-cpp") or ()]
    for wanted in ("chatglm_cpp/py.typed", "chatglm_cpp/default_model/config.json", "licenses/LICENSE"):
        if not any(file.replace("\\", "/").endswith(wanted) for file in files):
            sys.exit(f"The wheel lacks {wanted}.")
    strays = [file for file in files if file.startswith(("tests", "csrc", "benchmarks", "docs"))]
    if strays:
        sys.exit(f"The wheel holds {strays[0]}, which is not for users.")


def main() -> None:
    check_files()
    check_kernels()
    subprocess.run([sys.executable, "-m", "pytest", *(TESTS / file for file in FILES)], check=True)


if __name__ == "__main__":
    main()
