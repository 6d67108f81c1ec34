"""The repositories of the stand-in Hub: commits, branches, and files named as git and git-lfs name them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Blob", "Repository"]

_LARGE = 10 << 20  # what the Hub refuses in git itself
_LFS_NAMES = (".safetensors", ".bin", ".gguf", ".pt", ".onnx", ".parquet", ".arrow", ".model")


@dataclass(frozen=True)
class Blob:
    """The content of a file: bytes, or a file of this machine. `size` in bytes, digests in hexadecimal.

    `git` is the git-sha1 of the content, or for a file in LFS of the pointer that git holds in its stead.
    """

    content: bytes | Path
    size: int
    sha256: str
    git: str
    lfs: bool

    @classmethod
    def of(cls, content: bytes | Path, *, lfs: bool) -> Blob:
        size = content.stat().st_size if isinstance(content, Path) else len(content)
        sha256 = _digest(content, hashlib.sha256())
        pointer = _pointer(sha256, size)
        git = _git_sha1(pointer, len(pointer)) if lfs else _git_sha1(content, size)
        return cls(content, size, sha256, git, lfs)

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.git

    @property
    def pointer_size(self) -> int:
        return len(_pointer(self.sha256, self.size))


def _pointer(sha256: str, size: int) -> bytes:
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def _git_sha1(content: bytes | Path, size: int) -> str:
    return _digest(content, hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False))


def _digest(content: bytes | Path, digest: hashlib._Hash) -> str:
    if isinstance(content, bytes):
        digest.update(content)
        return digest.hexdigest()
    with open(content, "rb") as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _is_large(name: str, size: int) -> bool:
    return size >= _LARGE or name.endswith(_LFS_NAMES)


@dataclass
class Repository:
    """A model or a dataset. `gated` and `private` say who is let in; `allowed` are the tokens that are.

    `licence` is what its card declares; `commits` are its states by id, `branches` and `tags` name some of them.
    """

    name: str
    kind: str = "model"
    gated: bool = False
    private: bool = False
    allowed: set[str] = field(default_factory=set)
    licence: str = ""
    is_lfs: Callable[[str, int], bool] = _is_large
    commits: dict[str, dict[str, Blob]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def commit(self, files: Mapping[str, bytes | Path], *, branch: str = "main") -> str:
        """A new commit that holds exactly `files`, and `branch` moved to it. Returns its id."""
        blobs = {}
        for name, content in sorted(files.items()):
            size = content.stat().st_size if isinstance(content, Path) else len(content)
            blobs[name] = Blob.of(content, lfs=self.is_lfs(name, size))
        before = self.branches.get(branch, "")
        listing = json.dumps([self.kind, self.name, before, {name: blob.sha256 for name, blob in blobs.items()}])
        commit = hashlib.sha1(listing.encode(), usedforsecurity=False).hexdigest()
        self.commits[commit] = blobs
        self.branches[branch] = commit
        return commit

    def commit_folder(self, folder: str | os.PathLike[str], *, branch: str = "main") -> str:
        """A new commit that holds exactly the files of `folder`."""
        top = Path(folder)
        files: dict[str, bytes | Path] = {str(path.relative_to(top)): path for path in top.rglob("*") if path.is_file()}
        return self.commit(files, branch=branch)

    def find(self, revision: str) -> str | None:
        """The commit that a branch, a tag or a commit id means."""
        if revision in self.commits:
            return revision
        return self.branches.get(revision) or self.tags.get(revision)
