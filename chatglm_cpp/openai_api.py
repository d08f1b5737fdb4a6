"""The server as an ASGI application with settings from the environment:

CHATGLM_CPP_MODEL=model.gguf uvicorn chatglm_cpp.openai_api:app
"""

from .server import Settings, make_app

app = make_app(Settings.from_environment())
