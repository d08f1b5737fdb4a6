"""A hub on 127.0.0.1: the parts of the APIs of Hugging Face and ModelScope that downloads use."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass
class Repo:
    """Files by name, some of which need not exist: `more` is listed beside those of the folder."""

    folder: Path
    more: tuple[str, ...] = ()
    refuse: tuple[int, str] | None = None  # status and X-Error-Code of every download
    cut: dict[str, int] = field(default_factory=dict)  # file -> times that its download breaks off

    @property
    def commit(self) -> str:
        return hashlib.sha1(str(self.folder).encode()).hexdigest()

    def listed(self) -> dict[str, int]:
        return {p.name: p.stat().st_size for p in sorted(self.folder.iterdir())} | dict.fromkeys(self.more, 5)


@dataclass
class Request:
    method: str
    file: str
    range: str | None


class HubServer:
    """Serves `repos` (name -> Repo); `requests` are those for files, in order."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.requests: list[Request] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def asked_for(self) -> set[str]:
        """The files whose content was asked for."""
        return {request.file for request in self.requests if request.method == "GET"}

    def __enter__(self) -> HubServer:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _handler(hub: HubServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer()

        def do_GET(self) -> None:
            self.answer()

        def answer(self) -> None:
            url = urlsplit(self.path)
            path, query = unquote(url.path), {k: v[0] for k, v in parse_qs(url.query).items()}
            if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
                self.list_hugging_face(match[1], match[2] or "main")
            elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
                self.send_file(match[1], match[2], match[3])
            elif match := re.fullmatch(r"/api/v1/models/([^/]+/[^/]+)/repo/files", path):
                self.list_modelscope(match[1], query.get("Revision", "master"))
            elif match := re.fullmatch(r"/api/v1/models/([^/]+/[^/]+)/repo", path):
                self.send_file(match[1], query.get("Revision", "master"), query["FilePath"])
            else:
                self.refuse(404, "NotFound")

        def find(self, name: str, revision: str) -> Repo | None:
            repo = hub.repos.get(name)
            if repo is None:
                self.refuse(401 if self.path.startswith("/api/models/") else 404, "RepoNotFound")
            elif revision not in ("main", "master", "v1", repo.commit):
                self.refuse(404, "RevisionNotFound")
            else:
                return repo
            return None

        def list_hugging_face(self, name: str, revision: str) -> None:
            if repo := self.find(name, revision):
                siblings = [
                    {"rfilename": n, "size": size, "blobId": "0"} for n, size in repo.listed().items()
                ]
                self.send_json({"id": name, "modelId": name, "sha": repo.commit, "siblings": siblings})

        def list_modelscope(self, name: str, revision: str) -> None:
            if repo := self.find(name, revision):
                files = [{"Path": n, "Name": n, "Type": "blob", "Size": s} for n, s in repo.listed().items()]
                self.send_json({"Code": 200, "Success": True, "Data": {"Files": files}})

        def send_file(self, name: str, revision: str, file: str) -> None:
            asked = self.headers.get("Range")
            hub.requests.append(Request(self.command, file, asked))
            repo = self.find(name, revision)
            if repo is None:
                return
            if repo.refuse:
                self.refuse(*repo.refuse)
                return
            if file not in repo.listed() or file in repo.more:
                self.refuse(404, "EntryNotFound")
                return
            data = (repo.folder / file).read_bytes()
            start = int(asked.removeprefix("bytes=").partition("-")[0]) if asked else 0
            self.send_response(206 if asked else 200)
            self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
            self.send_header("X-Repo-Commit", repo.commit)
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(len(data) - start))
            if asked:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            self.end_headers()
            if self.command == "HEAD":
                return
            if repo.cut.get(file, 0):
                repo.cut[file] -= 1
                self.wfile.write(data[start : start + (len(data) - start) // 2])
                self.close_connection = True
                return
            self.wfile.write(data[start:])

        def send_json(self, value: object) -> None:
            self.send_body(200, json.dumps(value).encode())

        def refuse(self, status: int, code: str) -> None:
            body = json.dumps({"error": code, "Code": status, "Success": False, "Message": code})
            self.send_body(status, body.encode(), code)

        def send_body(self, status: int, body: bytes, code: str = "") -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            if code:
                self.send_header("X-Error-Code", code)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            """Keeps stderr for the tests."""

    return Handler
