"""A Hugging Face hub on the loopback: the two endpoints that a download uses, over real HTTP."""

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

_INFO = re.compile(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?")
_FILE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


@dataclass
class Repository:
    """What the hub knows of one repository; a test may change it while the server runs.

    gated: its files are refused. lies: names whose content is not what their sha256 says.
    breaks: for each name, after how many bytes of an answer the connection is closed, once.
    """

    folder: Path
    commit: str = "0123456789abcdef0123456789abcdef01234567"
    branches: tuple[str, ...] = ("main",)
    license: str = "mit"
    gated: bool = False
    lies: tuple[str, ...] = ()
    breaks: dict[str, int] = field(default_factory=dict)


@dataclass
class Hub:
    """url: for HF_ENDPOINT. requests: method-less paths, with the byte each began at.

    failing: every file is answered by 503. tokens: what came as bearer token.
    """

    url: str
    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[tuple[str, int]] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    failing: bool = False

    def files_asked_for(self) -> list[tuple[str, int]]:
        """Names of the files that were asked for, and from which byte on."""
        found = [(_FILE.fullmatch(path), start) for path, start in self.requests]
        return [(match[3], start) for match, start in found if match]


@contextlib.contextmanager
def serve_hub() -> Iterator[Hub]:
    """Run a hub until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = self.path.split("?")[0]
            asked = self.headers.get("Range", "bytes=0-")
            start = int(asked.removeprefix("bytes=").split("-")[0])
            hub.requests.append((path, start))
            if token := self.headers.get("Authorization"):
                hub.tokens.add(token.removeprefix("Bearer "))
            if match := _INFO.fullmatch(path):
                self._info(match[1], match[2] or "main")
            elif match := _FILE.fullmatch(path):
                self._file(match[1], match[3], start)
            else:
                self._refuse(404, "EntryNotFound")

        def _info(self, name: str, revision: str) -> None:
            repository = hub.repositories.get(name)
            if repository is None:
                self._refuse(401, "RepoNotFound")
            elif revision not in (*repository.branches, repository.commit):
                self._refuse(404, "RevisionNotFound")
            else:
                self._answer(json.dumps(_description(name, repository)).encode())

        def _file(self, name: str, file: str, start: int) -> None:
            repository = hub.repositories[name]
            if hub.failing:
                self._refuse(503, "")
            elif repository.gated:
                self._refuse(403, "GatedRepo")
            else:
                content = (repository.folder / file).read_bytes()
                if file in repository.lies:
                    content = bytes(len(content))
                self._answer(content, start, repository.breaks.pop(file, None))

        def _answer(self, content: bytes, start: int = 0, break_after: int | None = None) -> None:
            self.send_response(206 if start else 200)
            if start:
                self.send_header(
                    "Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}"
                )
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            self.wfile.write(content[start:][:break_after])
            if break_after is not None:
                hub.failing = True
                self.close_connection = True

        def _refuse(self, status: int, code: str) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub = Hub(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _description(name: str, repository: Repository) -> dict[str, object]:
    siblings = []
    for path in sorted(repository.folder.iterdir()):
        content = path.read_bytes()
        file: dict[str, object] = {"rfilename": path.name, "size": len(content), "blobId": "0"}
        if path.suffix in (".safetensors", ".bin"):
            digest = hashlib.sha256(content).hexdigest()
            file["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 130}
        siblings.append(file)
    return {
        "id": name,
        "modelId": name,
        "sha": repository.commit,
        "private": False,
        "tags": ["safetensors", f"license:{repository.license}"],
        "downloads": 0,
        "likes": 0,
        "siblings": siblings,
    }
