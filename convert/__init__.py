"""Conversion of checkpoints of the GLM family, and of model files of chatglm.cpp up to 0.4, to GGUF.

    from chatglm_cpp.convert import convert
    convert("chatglm3-6b", "chatglm3-q4_0.gguf", dtype="q4_0")

or, from a shell, `python -m chatglm_cpp.convert -i chatglm3-6b -t q4_0 -o chatglm3-q4_0.gguf`.
"""

try:
    import gguf  # noqa: F401
except ModuleNotFoundError:
    raise ModuleNotFoundError(
        "chatglm_cpp.convert needs the package gguf; run: pip install 'chatglm-cpp[convert]'", name="gguf"
    ) from None

from .architectures import supported
from .driver import Summary, convert
from .errors import ConvertError
from .plan import DTYPES

__all__ = ["DTYPES", "ConvertError", "Summary", "convert", "supported"]
