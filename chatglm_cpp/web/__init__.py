"""The web page: `chatglm-cpp web`, or `chatglm_cpp.web.serve` from a program. Needs the extra `web`."""

from .server import Address, serve

__all__ = ["Address", "serve"]
