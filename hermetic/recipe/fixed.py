"""Fixed outputs: what the driver's own fetchers bring, because the lock file already says what it is."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Final

from hermetic.errors import HermeticError
from hermetic.recipe import evaluation
from hermetic.recipe.lockfile import FixedEntry, LockedFile
from hermetic.recipe.pins import current_lock, lock_command
from hermetic.recipe.source import SINGLE, Source

__all__ = ["ACCEPTED", "OPEN_LICENCES", "FixedOutput", "hub_dataset", "hub_snapshot", "remote"]

#: The file that says which licence the recipe accepts.
ACCEPTED: Final = "LICENSE_ACCEPTED.txt"
#: Licences, as a Hub spells them, that ask nothing of who only uses the files.
OPEN_LICENCES: Final = frozenset(
    """
    afl-3.0 agpl-3.0 apache-2.0 artistic-2.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 cc cc-by-2.0
    cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 ecl-2.0 epl-1.0 epl-2.0 eupl-1.1 eupl-1.2 gpl
    gpl-2.0 gpl-3.0 isc lgpl lgpl-2.1 lgpl-3.0 mit mpl-2.0 ms-pl ncsa odbl odc-by ofl-1.1 osl-3.0 pddl postgresql
    unlicense wtfpl zlib
    """.split()  # noqa: SIM905  # a line each would be a page
)
_REPO: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")
_REVISION: Final = re.compile(r"[^\s@?#]+")
_REMOTE: Final = re.compile(r"(https|http|s3|gs)://[^\s/?#@]+/[^\s?#]+")


class FixedOutput(Source):
    """Files from elsewhere, exactly those that the lock file lists; usable wherever a `Source` is.

    It stands in keys by the names, sizes and sha256 of its files and by nothing else: where they are brought from,
    with which token and how often was tried does not matter. `uri` names it in the lock file, `entry` is what that
    says (None while it is being written). `wanted` are its files, by the name they have in the output.
    """

    __slots__ = ("_hint", "accepted", "allow", "check", "entry", "ignore", "secret", "single", "uri")

    def __init__(
        self,
        uri: str,
        *,
        allow: Iterable[str] = (),
        ignore: Iterable[str] = (),
        accepted: str = "",
        secret: str = "",
        check: bool = True,
        single: str = "",
        entry: FixedEntry | None = None,
    ) -> None:
        self.path = self.uri = uri
        self._origin = evaluation.origin()
        self.allow = _patterns(allow)
        self.ignore = _patterns(ignore)
        self.accepted = accepted
        self.secret = secret
        self.check = check
        self.single = single
        self._hint = lock_command()
        self.entry = entry if entry is not None else self._locked()

    def __repr__(self) -> str:
        return f"FixedOutput({self.uri!r})"

    @property
    def name(self) -> str:
        """What its store path is called: the last part of its address."""
        last = self.uri.rstrip("/").rpartition("@")[0] if self.uri.startswith("hf://") else self.uri.rstrip("/")
        return re.sub(r"[^A-Za-z0-9._+=?-]+|^[.-]+", "_", last.rpartition("/")[2])[:120] or "fixed"

    def file(self, path: str) -> FixedOutput:
        """One of its files, alone: a program finds it as ``/build/in/<role>``, as it finds a `Source` of a file."""
        return FixedOutput(
            self.uri, accepted=self.accepted, secret=self.secret, check=False, single=path, entry=self.entry
        )

    def selected(self, entry: FixedEntry) -> dict[str, LockedFile]:
        """Those files of `entry` that the patterns choose, by their path there."""
        if self.single:
            return {name: file for name, file in entry.files.items() if name == self.single}
        return {name: file for name, file in entry.files.items() if self._chooses(name)}

    def _chooses(self, name: str) -> bool:
        if self.allow and not any(fnmatchcase(name, pattern) for pattern in self.allow):
            return False
        return not any(fnmatchcase(name, pattern) for pattern in self.ignore)

    @property
    def wanted(self) -> Mapping[str, tuple[str, LockedFile]]:
        """For each name in the output the path at the origin, and the file."""
        assert self.entry is not None
        found = self.selected(self.entry)
        return {SINGLE.decode() if self.single else path: (path, file) for path, file in sorted(found.items())}

    @property
    def texts(self) -> Mapping[str, bytes]:
        """Files that are not fetched, by name: the acceptance of the licence, if the recipe states one."""
        if not self.accepted or self.single or self.entry is None or ACCEPTED in self.entry.files:
            return MappingProxyType({})
        repository = self.uri.partition("@")[0]
        return {ACCEPTED: f"licence: {self.accepted}\nof: {repository}\naccepted: in the recipe\n".encode()}

    @property
    def size(self) -> int:
        """Bytes to fetch."""
        return sum(file.size for _, file in self.wanted.values())

    def problem(self, entry: FixedEntry | None) -> HermeticError | None:
        """Why this cannot be had with what the lock file says; None if it can. With its line of the recipe."""
        try:
            with evaluation.apart():
                self._judge(entry)
        except HermeticError as error:
            return error
        return None

    def _locked(self) -> FixedEntry | None:
        try:
            lock = current_lock()
        except HermeticError as error:
            evaluation.fail(error.reason, error.message, hint=error.hint)
            return None
        return lock.fixed.get(self.uri) if lock is not None else None

    def _judge(self, entry: FixedEntry | None) -> None:
        if entry is None:
            self._fail("not-locked", f"{self.uri} is not locked: nothing says what it is", self._hint)
        elif entry.unresolved:
            message = f"{self.uri} could not be locked: {entry.unresolved}"
            self._fail("unresolved", message, f"where it can be asked for: {self._hint}")
        elif not (found := self.selected(entry)):
            what = self.single or f"allow={list(self.allow)}, ignore={list(self.ignore)}"
            some = ", ".join(sorted(entry.files)[:5]) or "nothing"
            self._fail("no-such-file", f"{self.uri} has no file for {what}", f"it has {some}")
        elif unknown := sorted(name for name, file in found.items() if not file.sha256):
            message = f"{self.uri} is locked without the sha256 of {', '.join(unknown[:5])}"
            self._fail("not-locked", message, self._hint)
        else:
            self._judge_licence(entry)

    def _fail(self, reason: str, message: str, hint: str) -> None:
        evaluation.fail(reason, message, hint=hint, at=self._origin)

    def _judge_licence(self, entry: FixedEntry) -> None:
        stated = entry.licence or "none stated"
        needed = entry.gated or (bool(entry.licence) and entry.licence not in OPEN_LICENCES)
        if (needed or self.accepted) and self.accepted != stated:
            said = f"the recipe accepts {self.accepted!r}" if self.accepted else "nobody has accepted it"
            hint = f'read it at {entry.source}, and if you accept it say so: accept_licence="{stated}"'
            self._fail("licence-not-accepted", f"{self.uri} has the licence {stated!r}; {said}", hint)


def hub_snapshot(
    repository: str,
    *,
    revision: str = "main",
    allow: str | Iterable[str] = (),
    ignore: str | Iterable[str] = (),
    accept_licence: str = "",
    runtime_secret_name: str = "hf_access_token",  # noqa: S107  # the name of a secret, not a secret
    check: bool = True,
) -> FixedOutput:
    """A model of a Hugging Face Hub, at the commit for which `revision` stood when the recipe was locked.

    `allow` and `ignore` are patterns of paths, as the Hub's own client takes them (``*.safetensors``, ``original/``).
    `accept_licence` is the licence's name as the Hub gives it; without it, models that are gated or under a licence
    of their own are refused before anything is fetched. `runtime_secret_name` is the secret that holds the token, as
    Truss looks for it. With `check` the files are looked at as a checkpoint as soon as they are there: shards against
    the index, headers against files, tokenizer against vocabulary. Only what the files are enters keys.
    """
    return _hub("hf://", repository, revision, allow, ignore, accept_licence, runtime_secret_name, check=check)


def hub_dataset(
    repository: str,
    *,
    revision: str = "main",
    allow: str | Iterable[str] = (),
    ignore: str | Iterable[str] = (),
    accept_licence: str = "",
    runtime_secret_name: str = "hf_access_token",  # noqa: S107  # as above
) -> FixedOutput:
    """A dataset of a Hugging Face Hub; all as for `hub_snapshot`. ``hub_dataset(...).file(path)`` is one file of it."""
    return _hub("hf://datasets/", repository, revision, allow, ignore, accept_licence, runtime_secret_name, check=False)


def remote(uri: str, *, allow: str | Iterable[str] = (), ignore: str | Iterable[str] = ()) -> FixedOutput:
    """Files at an address: ``https://host/file`` is one file; ``s3://bucket/prefix/`` and ``gs://bucket/prefix/`` are
    all objects below the prefix, and without the last slash one object. One file alone lies in a folder, by its name.
    """
    if _REMOTE.fullmatch(uri) is None:
        hint = "https://host/file, s3://bucket/key or gs://bucket/key, without a query: what it holds may be secret"
        evaluation.fail("bad-address", f"{uri!r} is no address of files", hint=hint)
    return FixedOutput(uri, allow=_patterns(allow), ignore=_patterns(ignore), check=False)


def _hub(
    prefix: str,
    repository: str,
    revision: str,
    allow: str | Iterable[str],
    ignore: str | Iterable[str],
    accepted: str,
    secret: str,
    *,
    check: bool,
) -> FixedOutput:
    if _REPO.fullmatch(repository) is None:
        evaluation.fail("bad-address", f"{repository!r} is no repository of a Hub", hint="owner/name")
    if _REVISION.fullmatch(revision) is None:
        evaluation.fail("bad-address", f"{revision!r} is no revision", hint="a branch, a tag or a commit")
    return FixedOutput(
        f"{prefix}{repository}@{revision}",
        allow=_patterns(allow),
        ignore=_patterns(ignore),
        accepted=accepted,
        secret=secret,
        check=check,
    )


def _patterns(given: str | Iterable[str]) -> tuple[str, ...]:
    """As the Hub's client reads them: a folder stands for everything below it."""
    patterns = (given,) if isinstance(given, str) else tuple(given)
    return tuple(f"{pattern}*" if pattern.endswith("/") else pattern for pattern in patterns)
