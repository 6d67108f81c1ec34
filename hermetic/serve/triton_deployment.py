"""``deployment.json``: what a Triton repository promises, and whether the engine at hand is the one it was made for."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

from hermetic.digest import hash_bytes, hash_descriptor
from hermetic.errors import Domain, HermeticError

__all__ = ["Deployment", "Digests", "files_hash", "manifest_files", "read_deployment", "verify"]

Digests = Mapping[str, Mapping[str, Any]]

_VERSION: Final = 1
#: May lie beside what it describes.
_MANIFEST: Final = "manifest.json"


@dataclass(frozen=True)
class Deployment:
    """`kind` is the engine's, `limits` are in tokens (``max_seq_len``) and sequences (``max_batch_size``).

    `models` are the names in the repository, `tensors` the release whose names their tensors have. `engine_hash` and
    `tokenizer_hash` (``blake3:…``) stand for all `engine_files` and `tokenizer_files`, whose ``blake3`` and ``size``
    (bytes) are by their path in the folder. `tokenizer_folder` is where in the engine the tokenizer lies, if it has no
    folder of its own; `world` is the number of ranks, each with a GPU of its own.
    """

    kind: str
    quantisation: str
    limits: Mapping[str, int]
    models: tuple[str, ...]
    tensors: str
    engine_hash: str
    tokenizer_hash: str
    engine_files: Digests
    tokenizer_files: Digests
    world: int = 1
    tokenizer_folder: str = ""

    @property
    def processes(self) -> int:
        """Of Triton. The LLM API starts its other ranks itself: its guide launches one server whatever the model's
        tensor parallelism (triton-inference-server/tensorrtllm_backend, docs/llmapi.md).
        """
        return 1 if self.kind == "tensorrt-llm-pytorch" else self.world


def read_deployment(folder: str | os.PathLike[str]) -> Deployment:
    """Of the repository in `folder`. Raises `HermeticError`: usage/no-deployment, trust/deployment-invalid."""
    path = os.path.join(folder, "deployment.json")
    try:
        with open(path, "rb") as stream:
            said = json.load(stream)
        if said["deployment"] != _VERSION:
            raise ValueError(f"version {said['deployment']!r}")
        engine, tokenizer = said["engine"], said["tokenizer"]
        found = Deployment(
            kind=said["kind"],
            quantisation=said["quantisation"],
            limits=said["limits"],
            models=tuple(said["models"]),
            tensors=said["tensors"],
            engine_hash=engine["hash"],
            tokenizer_hash=tokenizer["hash"],
            engine_files=engine["files"],
            tokenizer_files=tokenizer["files"],
            world=said.get("world", 1),
            tokenizer_folder=tokenizer.get("folder", ""),
        )
        sound = (files_hash(engine["files"]), files_hash(tokenizer["files"]))
    except (FileNotFoundError, NotADirectoryError):
        message = f"{folder} is no repository of hermetic's: it has no deployment.json"
        raise HermeticError(Domain.USAGE, "no-deployment", message) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise HermeticError(Domain.TRUST, "deployment-invalid", f"{path} cannot be used: {error}") from error
    if sound != (found.engine_hash, found.tokenizer_hash):
        message = f"{path} contradicts itself: its files do not have the hash that it says"
        raise HermeticError(Domain.TRUST, "deployment-invalid", message)
    return found


def files_hash(files: Digests) -> str:
    """One digest for all: BLAKE3 of the JSON object of file name to BLAKE3, sorted and without spaces."""
    named = {name: of["blake3"] for name, of in files.items()}
    text = json.dumps(named, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return f"blake3:{hash_bytes(text.encode()).hex}"


def manifest_files(path: str) -> Digests:
    """What the engine manifest at `path` lists. Raises `HermeticError` (trust/manifest-invalid)."""
    try:
        with open(path, "rb") as stream:
            files = json.load(stream)["files"]
        if not files or not all(isinstance(of["blake3"], str) for of in files.values()):
            raise ValueError("it lists no files with BLAKE3")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise HermeticError(Domain.TRUST, "manifest-invalid", f"{path} is no engine manifest: {error}") from error
    return dict(files)


def verify(what: str, folder: str, files: Digests, *, whole: bool, said: Callable[[int], None] | None = None) -> None:
    """Compare every file below `folder` with `files`; with `whole` there may be no other.

    Follows links. `said` is told of bytes that were read. Raises `HermeticError` (trust/…-changed, by `what`), naming
    every file that is missing, different or unknown.
    """
    with ThreadPoolExecutor(os.cpu_count() or 1, "hermetic-verify") as pool:
        checks = pool.map(lambda name: _problem(folder, name, files[name], said), sorted(files))
        problems = [problem for problem in checks if problem]
    if whole:
        problems += [f"{name} is not listed" for name in sorted(_names(folder)) if name not in files]
    if problems:
        message = f"the {what} in {folder} is not what was promised: {'; '.join(problems[:20])}"
        hint = "put back what was there, or describe what is there now with a new manifest"
        raise HermeticError(Domain.TRUST, f"{what}-changed", message, hint=hint, data={"problems": problems})


def _problem(folder: str, name: str, expected: Mapping[str, Any], said: Callable[[int], None] | None) -> str:
    try:
        descriptor = os.open(os.path.join(folder, name), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return f"{name} is missing"
    except OSError as error:
        return f"{name} cannot be read: {error.strerror}"
    try:
        digest, size = hash_descriptor(descriptor)
    finally:
        os.close(descriptor)
    if said is not None:
        said(size)
    return "" if digest.hex == expected["blake3"] else f"{name} has other bytes"


def _names(folder: str) -> Iterator[str]:
    for parent, _, names in os.walk(folder):
        for name in names:
            inside = os.path.relpath(os.path.join(parent, name), folder)
            if inside != _MANIFEST:
                yield inside
