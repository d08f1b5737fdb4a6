"""The server under the name that chatglm.cpp has for its server with the protocol of ChatGLM2-6B's api.py:

CHATGLM_CPP_MODEL=model.gguf uvicorn chatglm_cpp.langchain_api:app

It is the same server as `chatglm_cpp.openai_api:app`, which speaks that protocol at `/`; docs/langchain.md.
"""

from .openai_api import app

__all__ = ["app"]
