"""A registry that speaks the pull half of the protocol and can be told to fail in every way that a real one has."""

from __future__ import annotations

import base64
import http.server
import json
import re
import ssl
import threading
import urllib.parse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

REPOSITORY = "team/tool"


@dataclass
class Behaviour:
    """What the registry does wrong, and whom it lets in."""

    login: str = ""  # "", "basic" or "bearer"
    user: str = "builder"
    password: str = "hunter2-password"
    identity_token: str = "identity-token-secret"
    token: str = "bearer-token-secret"
    ranges: bool = True
    cut: dict[str, list[int]] = field(default_factory=dict)  # digest: after how many bytes each answer breaks off
    replaced: dict[str, bytes] = field(default_factory=dict)  # digest: what is sent instead
    busy: int = 0  # how many answers are 503 first
    redirect: bool = False


@dataclass
class Request:
    path: str
    headers: dict[str, str]


class FakeRegistry:
    """Serves the blobs of one layout as ``team/tool``; tags are those of its index. Use as a context manager."""

    def __init__(self, layout: Path, certificate: tuple[Path, Path] | None = None) -> None:
        self.behaviour = Behaviour()
        self.requests: list[Request] = []
        self._layout = layout
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._server.handle_error = lambda *_: None  # clients that break off are what is tested

    @property
    def port(self) -> int:
        return self._server.server_address[1]

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def reference(self, tag: str = "t") -> str:
        return f"{self.host}/{REPOSITORY}:{tag}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def bytes_asked(self, digest: str) -> list[str]:
        """The ``Range`` of every request for a blob."""
        return [request.headers.get("Range", "") for request in self.requests if request.path.endswith(digest)]

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        registry = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                registry.requests.append(Request(self.path, dict(self.headers)))
                registry.answer(self)

            def do_POST(self) -> None:
                form = self.rfile.read(int(self.headers["Content-Length"])).decode()
                registry.requests.append(Request(f"{self.path}?{form}", dict(self.headers)))
                registry.give_token(self, urllib.parse.parse_qs(form).get("refresh_token", [""])[0])

            def log_message(self, *_: object) -> None:
                pass

        return Handler

    def answer(self, to: http.server.BaseHTTPRequestHandler) -> None:
        path = to.path.partition("?")[0]
        if path == "/token":
            self.give_token(to)
        elif path.startswith("/elsewhere/"):
            self._blob(to, path.rpartition("/")[2])
        elif not self._is_known(to):
            self._send(to, 401, b"{}", {"WWW-Authenticate": self._challenge()})
        elif self.behaviour.busy:
            self.behaviour.busy -= 1
            self._send(to, 503, b"", {"Retry-After": "0"})
        elif match := re.fullmatch(rf"/v2/{REPOSITORY}/manifests/(.+)", path):
            self._manifest(to, match[1])
        elif match := re.fullmatch(rf"/v2/{REPOSITORY}/blobs/(.+)", path):
            if self.behaviour.redirect:
                target = f"http://localhost:{self.port}/elsewhere/{match[1]}?signature=signed-address-secret"
                self._send(to, 307, b"", {"Location": target})
            else:
                self._blob(to, match[1])
        else:
            self._send(to, 200 if path == "/v2/" else 404, b"{}")

    def _is_known(self, to: http.server.BaseHTTPRequestHandler) -> bool:
        given = to.headers.get("Authorization", "")
        if self.behaviour.login == "bearer":
            return given == f"Bearer {self.behaviour.token}"
        return self.behaviour.login == "" or given == self._basic()

    def _basic(self) -> str:
        return "Basic " + base64.b64encode(f"{self.behaviour.user}:{self.behaviour.password}".encode()).decode()

    def _challenge(self) -> str:
        if self.behaviour.login == "basic":
            return 'Basic realm="fake"'
        scope = f"repository:{REPOSITORY}:pull"
        return f'Bearer realm="http://{self.host}/token",service="fake",scope="{scope}"'

    def give_token(self, to: http.server.BaseHTTPRequestHandler, refresh: str = "") -> None:
        if refresh == self.behaviour.identity_token or to.headers.get("Authorization") == self._basic():
            self._send(to, 200, json.dumps({"token": self.behaviour.token}).encode())
        else:
            self._send(to, 401, b'{"details": "no such user"}')

    def _manifest(self, to: http.server.BaseHTTPRequestHandler, which: str) -> None:
        listed = json.loads((self._layout / "index.json").read_bytes())["manifests"]
        tags = {item["annotations"]["org.opencontainers.image.ref.name"]: item["digest"] for item in listed}
        content = self._content(tags.get(which, which))
        if content is None:
            self._send(to, 404, b"{}")
            return
        self._send(to, 200, content, {"Content-Type": json.loads(content).get("mediaType", "")})

    def _content(self, digest: str) -> bytes | None:
        if digest in self.behaviour.replaced:
            return self.behaviour.replaced[digest]
        path = self._layout / "blobs/sha256" / digest.removeprefix("sha256:")
        return path.read_bytes() if path.is_file() else None

    def _blob(self, to: http.server.BaseHTTPRequestHandler, digest: str) -> None:
        content = self._content(digest)
        if content is None:
            self._send(to, 404, b"{}")
            return
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", to.headers.get("Range", "")) if self.behaviour.ranges else None
        start = int(match[1]) if match else 0
        cuts = self.behaviour.cut.get(digest, [])
        self._send(to, 206 if match else 200, content[start:], cut=cuts.pop(0) if cuts else None)

    def _send(
        self,
        to: http.server.BaseHTTPRequestHandler,
        status: int,
        content: bytes,
        headers: dict[str, str] | None = None,
        cut: int | None = None,
    ) -> None:
        to.send_response(status)
        for name, value in (headers or {}).items():
            to.send_header(name, value)
        to.send_header("Content-Length", str(len(content)))
        to.end_headers()
        to.wfile.write(content[:cut])
        if cut is not None:
            to.close_connection = True
