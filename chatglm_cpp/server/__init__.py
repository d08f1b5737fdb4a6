"""An HTTP server over one Pipeline, in OpenAI's protocol. Needs `pip install "chatglm-cpp[server]"`."""

from .app import make_app
from .settings import Settings

__all__ = ["Settings", "make_app"]
