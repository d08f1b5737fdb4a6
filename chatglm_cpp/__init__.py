"""Run the ChatGLM / GLM family from one GGUF file.

    import chatglm_cpp

    pipeline = chatglm_cpp.Pipeline("model.gguf")
    reply = pipeline.chat([chatglm_cpp.ChatMessage(role="user", content="你好")])
    print(reply.content)

Everything needed to load, chat, complete and inspect is on `Pipeline`; the command `chatglm-cpp`
(= `python -m chatglm_cpp`) does the same from a shell.
"""

from pkgutil import extend_path

# In the folder of the sources this package hides the installed one, which has the engine and the converter.
__path__ = extend_path(__path__, __name__)

from ._C import (
    Busy,
    ChatMessage,
    CodeMessage,
    ContextLengthError,
    Error,
    FormatError,
    FunctionMessage,
    GenerationConfig,
    InvalidArgument,
    PipelineStats,
    ToolCallMessage,
    __version__,
)
from .alternatives import Alternatives
from .messages import DeltaMessage, TokenLogprob, ToolCallDelta
from .model_config import ModelConfig
from .pipeline import Pipeline
from .sessions import Session, read_session
from .stream import Completion, Stream, Usage
from .tokenizer import Tokenizer
from .tools import tool

__all__ = [
    "Alternatives",
    "Busy",
    "ChatMessage",
    "CodeMessage",
    "Completion",
    "ContextLengthError",
    "DeltaMessage",
    "Error",
    "FormatError",
    "FunctionMessage",
    "GenerationConfig",
    "InvalidArgument",
    "ModelConfig",
    "Pipeline",
    "PipelineStats",
    "Session",
    "Stream",
    "TokenLogprob",
    "Tokenizer",
    "ToolCallDelta",
    "ToolCallMessage",
    "Usage",
    "__version__",
    "read_session",
    "tool",
]
