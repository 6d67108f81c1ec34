"""The answers of the stand-in Hub, as the real one gives them (seen in what huggingface_hub 2.4 asks and expects)."""

from __future__ import annotations

import json
import os
import re
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any, ClassVar, Final
from urllib.parse import parse_qs, quote, unquote, urlsplit

from hermetic.testing.hub.repository import Blob, Repository
from hermetic.testing.hub.server import Served

if TYPE_CHECKING:
    from hermetic.testing.hub.faults import Fault
    from hermetic.testing.hub.server import Hub

__all__ = ["Handler"]

_PIECE: Final = 1 << 20
_API: Final = re.compile(r"/api/(model|dataset)s/([^/]+(?:/[^/]+)?)(?:/(revision|tree)/([^/]+)(?:/(.*))?|/(refs))?")
_RESOLVE: Final = re.compile(r"/(?:(dataset)s/)?([^/]+(?:/[^/]+)?)/resolve/([^/]+)/(.+)")


class _Refused(Exception):  # noqa: N818  # it is an answer, not an error of ours
    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    hub: ClassVar[Hub]
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    _served: Served
    _fault: Fault | None

    def do_GET(self) -> None:  # named by http.server
        self._answer()

    def do_HEAD(self) -> None:  # as above
        self._answer()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # as above
        """Nobody reads it: `Hub.served` has more."""

    def _answer(self) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path)
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        self._served = self.hub.record(Served(self.command, path, token=token))
        self._fault = self.hub.struck(self.command, path)
        if self._fault is not None and self._fault.status:
            self._fault.seen.set()
            self._json({"error": "on demand"}, self._fault.status, self._fault.headers)
            return
        if self._fault is not None and self._fault.mute:
            self._fault.seen.set()
            self._fault.wait()
        try:
            self._route(url.path, {name: values[-1] for name, values in parse_qs(url.query).items()})
        except _Refused as refusal:
            headers = {"X-Error-Code": refusal.code, "X-Error-Message": refusal.message}
            self._json({"error": refusal.message}, refusal.status, headers)

    def _route(self, path: str, query: dict[str, str]) -> None:
        if path == "/api/whoami-v2":
            self._whoami()
        elif path.startswith("/storage/"):
            self._stored(path.rpartition("/")[2])
        elif (found := _API.fullmatch(path)) is not None:
            kind, name, what, revision, inside, refs = found.groups()
            repository = self._repository(kind, unquote(name))
            if refs:
                self._refs(repository)
            elif what == "tree":
                self._tree(repository, unquote(revision), unquote(inside or ""), query)
            else:
                self._info(repository, unquote(revision or "main"), query)
        elif (found := _RESOLVE.fullmatch(path)) is not None:
            kind, name, revision, file = found.groups()
            repository = self._repository(kind or "model", unquote(name))
            self._resolve(repository, unquote(revision), unquote(file))
        else:
            raise _Refused(404, "", "Not Found")

    def _repository(self, kind: str, name: str) -> Repository:
        found = self.hub.repositories.get((kind, name))
        if found is not None and (not found.private or self._served.token in found.allowed):
            return found
        # Who is not logged in must not learn which private repositories there are.
        raise _Refused(404 if self._served.token else 401, "RepoNotFound", "Repository not found")

    def _commit(self, repository: Repository, revision: str) -> str:
        commit = repository.find(revision)
        if commit is None:
            raise _Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit

    def _whoami(self) -> None:
        user = self.hub.tokens.get(self._served.token)
        if user is None:
            raise _Refused(401, "", "Invalid credentials in Authorization header")
        self._json({"type": "user", "name": user, "fullname": user, "orgs": [], "auth": {"type": "access_token"}})

    def _info(self, repository: Repository, revision: str, query: dict[str, str]) -> None:
        commit = self._commit(repository, revision)
        licence = repository.licence
        details = query.get("blobs", "").lower() == "true"
        document: dict[str, Any] = {
            "id": repository.name,
            "sha": commit,
            "private": repository.private,
            "gated": "manual" if repository.gated else False,
            "disabled": False,
            "tags": [f"license:{licence}"] if licence else [],
            "cardData": {"license": licence} if licence else {},
            "siblings": [_sibling(name, blob, details=details) for name, blob in repository.commits[commit].items()],
        }
        self._json(document)

    def _tree(self, repository: Repository, revision: str, inside: str, query: dict[str, str]) -> None:
        files = repository.commits[self._commit(repository, revision)]
        prefix = f"{inside}/" if inside else ""
        entries = _entries(files, prefix, recursive=query.get("recursive", "").lower() in {"true", "1"})
        first = int(query.get("cursor", "0"))
        limit = min(int(query.get("limit", self.hub.page)), self.hub.page)
        headers = {}
        if first + limit < len(entries):
            rest = "&".join(f"{name}={quote(value)}" for name, value in query.items() if name != "cursor")
            here = f"{self.hub.endpoint}{urlsplit(self.path).path}"
            headers["Link"] = f'<{here}?{rest}&cursor={first + limit}>; rel="next"'
        self._json(entries[first : first + limit], headers=headers)

    def _refs(self, repository: Repository) -> None:
        def listed(kind: str, names: dict[str, str]) -> list[dict[str, str]]:
            return [{"name": n, "ref": f"refs/{kind}/{n}", "targetCommit": c} for n, c in names.items()]

        branches, tags = listed("heads", repository.branches), listed("tags", repository.tags)
        self._json({"branches": branches, "tags": tags, "converts": []})

    def _resolve(self, repository: Repository, revision: str, file: str) -> None:
        self._admit(repository)
        commit = self._commit(repository, revision)
        blob = repository.commits[commit].get(file)
        if blob is None:
            raise _Refused(404, "EntryNotFound", "Entry not found")
        headers = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if not blob.lfs:
            self._body(blob, headers | {"ETag": f'"{blob.git}"'})
            return
        headers |= {"X-Linked-Size": str(blob.size), "X-Linked-Etag": f'"{blob.sha256}"', "ETag": f'"{blob.git}"'}
        self._empty(302, headers | {"Location": f"{self.hub.storage}/storage/{blob.sha256}?Signature=on-loan"})

    def _admit(self, repository: Repository) -> None:
        if not repository.gated or self._served.token in repository.allowed:
            return
        status, advice = (403, "ask its owners") if self._served.token else (401, "log in")
        message = f"Access to {repository.kind} {repository.name} is restricted: {advice}."
        raise _Refused(status, "GatedRepo", message)

    def _stored(self, sha256: str) -> None:
        for repository in self.hub.repositories.values():
            for files in repository.commits.values():
                for name, blob in files.items():
                    if blob.lfs and blob.sha256 == sha256:
                        self._served.path = f"/storage/{name}"
                        self._served.large = True
                        if self._fault is None:
                            self._fault = self.hub.struck(self.command, self._served.path)
                        self._body(blob, {"ETag": f'"{blob.sha256[:32]}"', "Accept-Ranges": "bytes"})
                        return
        raise _Refused(403, "", "AccessDenied")

    def _body(self, blob: Blob, headers: dict[str, str]) -> None:
        start, end = self._range(blob.size)
        if start >= blob.size and "Range" in self.headers:
            self._empty(416, {"Content-Range": f"bytes */{blob.size}"})
            return
        if end - start > self.hub.longest:
            raise _Refused(400, "", "Bad Request")
        partial = "Range" in self.headers
        if partial:
            headers = headers | {"Content-Range": f"bytes {start}-{end - 1}/{blob.size}"}
        self._served.start = start
        self._head(206 if partial else 200, end - start, headers)
        if self.command == "GET":
            self._send(blob, start, end)

    def _range(self, size: int) -> tuple[int, int]:
        match = re.fullmatch(r"bytes=([0-9]+)-([0-9]*)", self.headers.get("Range", ""))
        if match is None:
            return 0, size
        return int(match[1]), min(int(match[2]) + 1 if match[2] else size, size)

    def _send(self, blob: Blob, start: int, end: int) -> None:
        fault = self._fault
        stop = end if fault is None or fault.cut is None else min(end, start + fault.cut)
        if fault is not None and fault.corrupt and start < end:
            fault.seen.set()
            self._push(bytes([_piece(blob, start, 1)[0] ^ 1]))
            start += 1
        if fault is not None and fault.hold is not None:
            until = min(end, start + fault.hold)
            self._copy(blob, start, until, None)
            fault.seen.set()
            fault.wait()
            start = until
        self._copy(blob, start, stop, fault if fault is not None and fault.pace else None)
        if fault is not None and fault.cut is not None:
            fault.seen.set()
            self.close_connection = True

    def _copy(self, blob: Blob, start: int, end: int, paced: Fault | None) -> None:
        if isinstance(blob.content, bytes) or paced is not None:
            step = paced.pace // 10 + 1 if paced is not None else _PIECE
            for at in range(start, end, step):
                self._push(_piece(blob, at, min(step, end - at)))
                if paced is not None:
                    paced.wait(0.1)
            return
        self.wfile.flush()
        with open(blob.content, "rb") as stream:
            while start < end:
                most = min(_PIECE * 4, end - start)
                self._served.sent += most
                count = os.sendfile(self.connection.fileno(), stream.fileno(), start, most)
                self._served.sent += count - most
                start += count

    def _push(self, data: bytes) -> None:
        self._served.sent += len(data)  # before they go: who has received them may look at once
        self.wfile.write(data)

    def _json(self, document: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(document).encode()
        self._head(status, len(data), {"Content-Type": "application/json"} | (headers or {}))
        if self.command == "GET":
            self.wfile.write(data)

    def _empty(self, status: int, headers: dict[str, str]) -> None:
        self._head(status, 0, headers)

    def _head(self, status: int, length: int, headers: dict[str, str]) -> None:
        self._served.status = status
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(length)}).items():
            self.send_header(name, value)
        self.end_headers()


def _piece(blob: Blob, start: int, count: int) -> bytes:
    if isinstance(blob.content, bytes):
        return blob.content[start : start + count]
    with open(blob.content, "rb") as stream:
        return os.pread(stream.fileno(), count, start)


def _sibling(name: str, blob: Blob, *, details: bool) -> dict[str, Any]:
    if not details:
        return {"rfilename": name}
    lfs = {"lfs": {"sha256": blob.sha256, "size": blob.size, "pointerSize": blob.pointer_size}} if blob.lfs else {}
    return {"rfilename": name, "size": blob.size, "blobId": blob.git, **lfs}


def _entries(files: dict[str, Blob], prefix: str, *, recursive: bool) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    folders: set[str] = set()
    for name, blob in files.items():
        if not name.startswith(prefix):
            continue
        parts = name.removeprefix(prefix).split("/")
        for depth in range(1, len(parts) if recursive else min(2, len(parts))):
            folder = prefix + "/".join(parts[:depth])
            if folder not in folders:
                folders.add(folder)
                found.append({"type": "directory", "oid": "0" * 40, "size": 0, "path": folder})
        if recursive or len(parts) == 1:
            found.append(_file(name, blob))
    return found


def _file(name: str, blob: Blob) -> dict[str, Any]:
    lfs = {"lfs": {"oid": blob.sha256, "size": blob.size, "pointerSize": blob.pointer_size}} if blob.lfs else {}
    return {"type": "file", "oid": blob.git, "size": blob.size, "path": name, **lfs}
