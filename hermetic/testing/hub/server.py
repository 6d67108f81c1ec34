"""The stand-in Hub as a server: two of them, since large files come from another host than the answers about them."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Self

from hermetic.testing.hub.faults import Fault
from hermetic.testing.hub.repository import Repository

__all__ = ["Hub", "Served"]


@dataclass
class Served:
    """One request and what was sent: `start` is the first byte that was asked for, `sent` counts bytes of the body: all
    that the client may have received.
    """

    method: str
    path: str
    start: int = 0
    status: int = 0
    sent: int = 0
    token: str = ""
    large: bool = False


class Hub:
    """The server. Use as a context manager, or call `close`.

    `endpoint` is what ``HF_ENDPOINT`` is set to. `faults` are tried in order, `served` are the requests so far.
    `tokens` maps each token that is known to the name of its user. `page` is how many files one page of a listing has,
    `longest` how many bytes one answer may have: who asks for more at once is refused with 400, as the real Hub does
    above 50 GB (docs/adr/0027).
    """

    def __init__(self, port: int = 0, *, page: int = 1000) -> None:
        from hermetic.testing.hub.answers import Handler  # noqa: PLC0415  # which knows this module

        self.repositories: dict[tuple[str, str], Repository] = {}
        self.tokens: dict[str, str] = {}
        self.faults: list[Fault] = []
        self.served: list[Served] = []
        self.page = page
        self.longest = 50 * 10**9
        self._guard = threading.Lock()
        handler = type("_Handler", (Handler,), {"hub": self})
        self._servers = [_Server((address, at), handler) for address, at in (("127.0.0.1", port), ("127.0.0.2", 0))]
        self._threads = [
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True) for server in self._servers
        ]
        for thread in self._threads:
            thread.start()
        self.endpoint = f"http://127.0.0.1:{self._servers[0].server_port}"
        self.storage = f"http://127.0.0.2:{self._servers[1].server_port}"

    def repository(self, name: str, *, kind: str = "model", **options: object) -> Repository:
        """A new repository; `options` are fields of `Repository`."""
        made = Repository(name, kind, **options)  # type: ignore[arg-type]
        self.repositories[kind, name] = made
        return made

    def load(self, folder: Path) -> None:
        """Take repositories from ``FOLDER/{models,datasets}/OWNER/NAME/COMMIT/…``: each folder COMMIT becomes a commit
        on main, in the order of their names.
        """
        for kind in ("model", "dataset"):
            for place in sorted((folder / f"{kind}s").glob("*/*")):
                made = self.repository(f"{place.parent.name}/{place.name}", kind=kind)
                for commit in sorted(item for item in place.iterdir() if item.is_dir()):
                    made.commit_folder(commit)

    def fault(self, fault: Fault) -> Fault:
        """Let `fault` strike from now on."""
        with self._guard:
            self.faults.append(fault)
        return fault

    def struck(self, method: str, path: str) -> Fault | None:
        """The fault of this request, if any."""
        with self._guard:
            return next((fault for fault in self.faults if fault.strikes(method, path)), None)

    def record(self, served: Served) -> Served:
        with self._guard:
            self.served.append(served)
        return served

    def bodies(self, pattern: str = "") -> list[Served]:
        """The downloads so far whose path matches, in order."""
        found: Iterable[Served] = list(self.served)
        return [item for item in found if item.method == "GET" and item.large and re.search(pattern, item.path)]

    def close(self) -> None:
        for fault in self.faults:
            fault.release()
        for server, thread in zip(self._servers, self._threads, strict=True):
            server.shutdown()
            server.server_close()
            thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that go away are what is tested, and no news."""
