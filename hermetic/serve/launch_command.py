"""The command line of Triton with TensorRT-LLM's backend, whether hermetic starts it or a file that it wrote."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from hermetic.errors import Domain, HermeticError
from hermetic.recipe.image_reference import parse_reference
from hermetic.serve.launch_ports import Ports

__all__ = ["Binary", "Place", "Settings", "command", "pinned"]

_REPOSITORY: Final = "/build/in/repository/repository"


@dataclass(frozen=True)
class Place:
    """Where Triton comes from for engines of TensorRT-LLM, as the user says it: an `image` by its digest, or else the
    program `triton` of this machine with its folder `backends`. `gpu` is a product, or "none", for an engine whose GPU
    nothing else tells.
    """

    image: str = ""
    triton: str = ""
    backends: str = ""
    gpu: str = ""


@dataclass(frozen=True)
class Settings:
    """How. `drain_s` is how long requests that run may take to end once the server is told to stop, and `start_s` how
    long it may take to become ready, in seconds: 0 is any time, None is by the size of the engine. `may_wait` is
    whether it waits for GPUs that others have.
    """

    host: str = "127.0.0.1"
    ports: Ports = field(default_factory=Ports)
    drain_s: int = 30
    shm_mb: int = 1024
    place: Place = field(default_factory=Place)
    start_s: int | None = None
    may_wait: bool = True

    @property
    def grpc(self) -> str:
        """Where clients of gRPC connect: host and port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.ports.grpc}"


@dataclass(frozen=True)
class Binary:
    """What the server and its launcher are called where they run; `backends` is the server's own choice if ""."""

    server: str = "tritonserver"
    mpirun: str = "mpirun"
    backends: str = ""


def command(ranks: int, settings: Settings, host: str, binary: Binary | None = None) -> list[str]:
    """Under MPI if there is more than one of `ranks`: one process for each, of which the first answers."""
    binary = binary or Binary()
    lines = [["-n", "1", *_rank(rank, settings, host, binary)] for rank in range(ranks)]
    if ranks == 1:
        return lines[0][2:]
    between = [word for line in lines for word in (*line, ":")]
    return [binary.mpirun, "--allow-run-as-root", *between[:-1]]


def _rank(rank: int, settings: Settings, host: str, binary: Binary) -> list[str]:
    line = [binary.server, f"--model-repository={_REPOSITORY}", "--disable-auto-complete-config"]
    line += [f"--backend-directory={binary.backends}"] if binary.backends else []
    line += [f"--backend-config=python,shm-region-prefix-name=rank{rank}_"]
    for name, port in vars(settings.ports).items():
        line += [f"--{name}-address={host}", f"--{name}-port={port}"]
    line += [f"--exit-timeout-secs={settings.drain_s}"]
    return line + (["--model-control-mode=explicit", "--load-model=tensorrt_llm"] if rank else [])


def pinned(image: str) -> str:
    """`image`, which must be named by its digest. Raises `HermeticError` (usage/image-not-pinned)."""
    try:
        digest = parse_reference(image).digest
    except ValueError as error:
        raise HermeticError(Domain.USAGE, "image-not-pinned", f"image {image!r}: {error}") from error
    if not digest:
        message = f"image {image!r} is not named by its digest, so another may be started tomorrow"
        raise HermeticError(Domain.USAGE, "image-not-pinned", message, hint="--image NAME@sha256:...")
    return image
