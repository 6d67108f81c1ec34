"""Fixed outputs: what an address stands for now (for the lock file), and bringing exactly what the lock file lists."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import closing

from hermetic.fetch import checkpoint
from hermetic.fetch.bring import Bringer
from hermetic.fetch.origin import BrokenError, Origin, unreachable
from hermetic.recipe.fixed import FixedOutput
from hermetic.recipe.lockfile import FixedEntry, LockedFile

__all__ = ["Fetch", "resolve"]

_WEB = ("https://", "http://")
_OBJECTS = ("s3://", "gs://")


def resolve(outputs: Sequence[FixedOutput], known: FixedEntry | None) -> FixedEntry:
    """What the address that all of `outputs` name stands for: every file, with the sha256 of those that any of them
    wants. With `known`, what that says stays, and only hashes that it lacks are asked for.

    Raises `HermeticError`: environment/hub-…, environment/origin-…, hash/hub-mismatch, hash/checkpoint-….
    """
    first = outputs[0]

    def chosen(entry: FixedEntry) -> set[str]:
        return {name for output in outputs for name in output.selected(entry)}

    if first.uri.startswith(_WEB):
        from hermetic.fetch.url import resolve_url  # noqa: PLC0415  # each origin brings a client of its own

        return known if known is not None else resolve_url(first.uri)
    if first.uri.startswith(_OBJECTS):
        from hermetic.fetch.objects import Objects, resolve_objects  # noqa: PLC0415  # as above

        entry = resolve_objects(first.uri, chosen, known)
        return _with_dimensions(Objects(first.uri), entry, chosen(entry))
    from hermetic.fetch.hub import Hub, parse  # noqa: PLC0415  # as above

    with closing(Hub(parse(first.uri), secret=first.secret)) as hub:
        entry = hub.resolve(chosen, known)
        entry = _with_dimensions(hub, entry, chosen(entry))
        for output in outputs:
            if output.check:
                _look_ahead(hub, output, entry)
    return entry


def _with_dimensions(origin: Origin, entry: FixedEntry, chosen: Collection[str]) -> FixedEntry:
    """With how large the model is, of exactly the ``config.json`` that is locked, if that is one of the files."""
    if checkpoint.CONFIG not in chosen:
        return entry
    file = entry.files[checkpoint.CONFIG]
    content = _beginning(origin, checkpoint.CONFIG, file.size)
    same = hashlib.sha256(content).hexdigest() == file.sha256
    return entry.model_copy(update={"config": checkpoint.dimensions(content) if same else {}})


def _look_ahead(origin: Origin, output: FixedOutput, entry: FixedEntry) -> None:
    """Check a checkpoint by its small files and the beginnings of the large ones, before anything large is fetched."""
    files = output.selected(entry)

    def read(name: str, count: int) -> bytes:
        return _beginning(origin, name, count)

    checkpoint.check_folder(origin.described, read, {name: file.size for name, file in files.items()})
    for name, file in files.items():
        if name.endswith(".safetensors"):
            length = checkpoint.header_length(origin.described, name, read(name, 8), file.size)
            checkpoint.check_header(origin.described, name, read(name, 8 + length)[8:], file.size)


def _beginning(origin: Origin, name: str, count: int) -> bytes:
    """The first `count` bytes of a file, or all of it."""
    for _ in range(5):
        found = b""
        try:
            with origin.stream(name, 0, count) as (_, pieces):
                for piece in pieces:
                    found += piece
                    if len(found) >= count:
                        break
            return found[:count]
        except BrokenError as error:
            why = str(error)
    raise unreachable(origin.described, why)


class Fetch:
    """Brings one fixed output. `bring` runs in a thread of its own, `stop` ends it from any other."""

    def __init__(
        self,
        output: FixedOutput,
        folder: str,
        quarantine: str,
        *,
        tell: Callable[[int], None],
        nearby: Callable[[LockedFile], Iterable[str]],
    ) -> None:
        assert output.entry is not None
        self._output = output
        self._origin = origin_of(output)
        self._bringer = Bringer(self._origin, folder, quarantine, tell, self._look, self._nearby)
        self._more = nearby
        self._wanted = output.wanted

    def bring(self) -> str:
        """The folder with the output, every byte verified. Raises as `Bringer.bring` does, and hash/checkpoint-…."""
        try:
            return self._bringer.bring(self._wanted, self._output.texts)
        finally:
            self._origin.close()

    def stop(self) -> None:
        """End as soon as possible; `bring` then raises `StoppedError`."""
        self._bringer.stop.set()
        self._origin.abort()

    def _nearby(self, file: LockedFile) -> Iterable[str]:
        yield from self._more(file)
        yield from getattr(self._origin, "nearby", lambda _: ())(file)

    def _look(self, name: str, path: str) -> None:
        if not self._output.check:
            return
        described = self._output.uri
        checkpoint.check_file(described, name, path)
        if name.rpartition("/")[2] in checkpoint.INDEXES:
            with open(path, "rb") as stream:
                checkpoint.check_index(described, stream.read(), self._wanted, name)

    def check(self, out: str) -> None:
        """Look at what was brought as a whole. Raises `HermeticError` (hash/checkpoint-…)."""
        if self._output.check:
            sizes: Mapping[str, int] = {name: file.size for name, (_, file) in self._wanted.items()}
            checkpoint.check_folder(self._output.uri, lambda name, count: _read(f"{out}/{name}", count), sizes)


def _read(path: str, count: int) -> bytes:
    with open(path, "rb") as stream:
        return stream.read(count)


def origin_of(output: FixedOutput) -> Origin:
    """Where `output` is fetched from."""
    entry = output.entry
    assert entry is not None
    if output.uri.startswith("hf://"):
        from hermetic.fetch.hub import Hub, parse  # noqa: PLC0415  # as above

        return Hub(parse(output.uri), commit=entry.commit, secret=output.secret)
    if output.uri.startswith(_WEB):
        from hermetic.fetch.url import Url  # noqa: PLC0415  # as above

        return Url(output.uri)
    from hermetic.fetch.objects import Objects  # noqa: PLC0415  # as above

    return Objects(output.uri)
