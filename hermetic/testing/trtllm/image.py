"""Makes an OCI image of the STAND-IN for TensorRT-LLM: its tools where the real image has them, nothing of NVIDIA's.

The Python inside is the one that runs hermetic, with its libraries, as a `PythonEnv` takes them from this machine; a
static busybox comes along as ``/bin/sh`` where there is one. So the digest is the same each time on one machine, and
not on another.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import os
import shutil
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from hermetic.recipe.lockfile import PLATFORM
from hermetic.sandbox import interpreter, python
from hermetic.testing.trtllm.tables import options_json

__all__ = ["CONVERT", "QUANTIZE", "WHISPER", "StandinImage", "build_image", "runtime_packages"]

_MODELS: Final = "/app/tensorrt_llm/examples/models/core"
#: Where the real image has these; of the first there is one for each model family.
CONVERT: Final = f"{_MODELS}/qwen/convert_checkpoint.py"
_CONVERT_LLAMA: Final = f"{_MODELS}/llama/convert_checkpoint.py"
WHISPER: Final = f"{_MODELS}/whisper/convert_checkpoint.py"
QUANTIZE: Final = "/app/tensorrt_llm/examples/quantization/quantize.py"

_HERE: Final = Path(__file__).parent
File = tuple[str, bytes | str | Path, bool]  # name; content, text of a symlink, or file to copy; whether executable
_OCI: Final = "application/vnd.oci.image"
_EPOCH: Final = 315532800
_APPLETS: Final = ("sh", "cat", "cp", "echo", "env", "id", "ls", "mkdir", "rm", "sleep", "timeout", "true")
_COMMANDS: Final = {"build": "trtllm-build", "bench": "trtllm-bench"}
_NOTHING: Final[Mapping[str, bytes]] = MappingProxyType({})
_SETTINGS: Final[Mapping[str, str]] = MappingProxyType({})
#: Modules that give the stand-in's runtime the names that the real one has, by module below site-packages.
_MODULES: Final = {
    "tensorrt_llm/bindings/__init__.py": "",
    "tensorrt_llm/bindings/executor.py": "from tensorrt_llm.runtime_standin import (\n"
    "    DecodingConfig, EagleConfig, Executor, ExecutorConfig, ExternalDraftTokensConfig, GuidedDecodingConfig,\n"
    "    GuidedDecodingParams, KvCacheConfig, LookaheadDecodingConfig, ModelType, OutputConfig, Request,\n"
    "    SamplingConfig,\n)\n",
    "tensorrt_llm/llmapi/__init__.py": "from tensorrt_llm.runtime_standin import (\n"
    "    LLM, LlmGuidedDecodingParams as GuidedDecodingParams, SamplingParams,\n)\n",
    "tensorrt_llm/llmapi/tokenizer.py": "from tensorrt_llm.runtime_standin import (\n"
    "    xgrammar_tokenizer_info as _xgrammar_tokenizer_info,\n)\n",
    "torch/__init__.py": "from tensorrt_llm.runtime_standin import Tensor, Tensor as from_numpy\n"
    'float16, bfloat16, float32 = "float16", "bfloat16", "float32"\n',
    "tensorrt/__init__.py": "from tensorrt_llm.runtime_standin import LayerInformationFormat, Logger, Runtime\n",
    "transformers/__init__.py": "from tensorrt_llm.runtime_standin import AutoTokenizer\n",
}
#: What imports the runtime only when it is asked for: the tools have no use for it.
_LAZY: Final = """
def __getattr__(name):
    if name in ("LLM", "SamplingParams"):
        from tensorrt_llm import runtime_standin

        return getattr(runtime_standin, name)
    raise AttributeError(name)
"""
_START: Final = '#!/usr/bin/env python3\n"""hermetic\'s STAND-IN, not the real tool."""\nimport sys\n'


@dataclass(frozen=True)
class StandinImage:
    """An OCI layout with one image. `digest` is its manifest's; `python` the version inside, as "3.11.7"."""

    folder: Path
    digest: str
    tag: str
    python: str

    @property
    def reference(self) -> str:
        """As a recipe writes it."""
        return f"oci:{self.folder}:{self.tag}"


def build_image(
    folder: str | os.PathLike[str],
    version: str = "1.2.1",
    *,
    packages: Mapping[str, bytes] = _NOTHING,
    variables: Mapping[str, str] = _SETTINGS,
    files: Sequence[File] = (),
    installed: Sequence[str] = (),
) -> StandinImage:
    """Write an OCI layout with a stand-in for TensorRT-LLM `version` into `folder`, which may have others already.

    `packages` are files below site-packages, also in place of the stand-in's own; `variables` go into its environment
    (``STANDIN_…``: how it misbehaves) and, where there are any, its digest into the tag. `files` are a layer of their
    own, and so are `installed`, packages of the Python that runs hermetic, such as NumPy, which the real image has and
    the stand-in itself does without. Takes about a second.

    Raises `HermeticError`: recipe/unknown-version for a version whose options nobody wrote down, and
    environment/unsupported-interpreter.
    """
    target = Path(folder)
    (target / "blobs/sha256").mkdir(parents=True, exist_ok=True)
    found = interpreter.describe("")
    layers = [_layer(target, _base(found)), _layer(target, _tools(found, version, packages))]
    layers += [_layer(target, iter(files))] if files else []
    layers += [_layer(target, _installed(found, name)) for name in installed]
    told = [f"{name}={value}" for name, value in sorted(variables.items())]
    tagged = [*told, *installed]
    tag = f"standin-{version}" + (f"-{hashlib.sha256(_json(tagged)).hexdigest()[:8]}" if tagged else "")
    settings = {
        "Env": ["PATH=/usr/local/bin:/usr/bin:/bin", f"HERMETIC_STANDIN_FOR=TensorRT-LLM {version}", *told],
        "Labels": {"org.opencontainers.image.title": f"hermetic's STAND-IN for TensorRT-LLM {version}"},
    }
    system, architecture = PLATFORM.split("/")
    root = {"type": "layers", "diff_ids": [layer["digest"] for layer in layers]}  # not compressed: the same digests
    config = {"architecture": architecture, "os": system, "config": settings, "rootfs": root}
    manifest: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": f"{_OCI}.manifest.v1+json",
        "config": _put(target, _json(config), f"{_OCI}.config.v1+json"),
        "layers": layers,
    }
    described = _put(target, _json(manifest), manifest["mediaType"])
    _add_to_index(target, described | {"annotations": {"org.opencontainers.image.ref.name": tag}})
    return StandinImage(target, described["digest"], tag, found.version)


def _base(found: interpreter.Interpreter) -> Iterator[File]:
    """An interpreter below /usr with the libraries that manylinux names, and a shell."""
    own, system = python.assemblies(found)
    for below, tree in (("usr", own), ("usr/lib", system)):
        yield from ((f"{below}/{name}", Path(path), name in tree.executable) for name, path in tree.files.items())
        yield from ((f"{below}/{name}", text, False) for name, text in tree.links.items())
    yield from ((name, f"usr/{name}", False) for name in ("bin", "lib"))
    yield from ((name, "usr/lib", False) for name in ("lib64",))
    yield "usr/lib64", "lib", False
    busybox = shutil.which("busybox", path=f"{os.environ.get('PATH', os.defpath)}:/bin:/usr/bin")
    if busybox is not None:
        yield "usr/bin/busybox", Path(busybox).resolve(), True
        yield from ((f"usr/bin/{name}", "busybox", False) for name in _APPLETS)


def _tools(found: interpreter.Interpreter, version: str, packages: Mapping[str, bytes]) -> Iterator[File]:
    """The package ``tensorrt_llm`` and what starts it."""
    site = f"usr/{found.inside}/site-packages"
    options = options_json(version)
    both = {**runtime_packages(version), **packages}
    yield from ((f"{site}/{name}", content, False) for name, content in both.items())
    yield f"{site}/tensorrt_llm/options.json", options.encode(), False
    for name in ("standin", "conversion", "mpirun", "whisper"):
        yield f"{site}/tensorrt_llm/{name}.py", _HERE / f"{name}.py", False
    yield f"{site}/tensorrt_llm/commands/__init__.py", b"", False
    for module, tool in _COMMANDS.items():
        start = _start("standin", tool)
        yield f"{site}/tensorrt_llm/commands/{module}.py", start, False
        yield f"usr/local/bin/{tool}", start, True
    yield "usr/local/bin/mpirun", _start("mpirun", "mpirun"), True
    yield WHISPER.lstrip("/"), _start("whisper", os.path.basename(WHISPER)), True
    for place in (CONVERT, _CONVERT_LLAMA, QUANTIZE):
        if os.path.basename(place) in json.loads(options):
            yield place.lstrip("/"), _start("conversion", os.path.basename(place)), True
    yield "usr/lib/python3/dist-packages", f"../{os.path.basename(found.inside)}/site-packages", False  # Debian's name


def _installed(found: interpreter.Interpreter, name: str) -> Iterator[File]:
    """A package as it is installed here, with the libraries that its wheel brought along."""
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent
    for below in (folder, folder.with_name(f"{name}.libs")):
        for path in sorted(below.rglob("*")):
            inside = path.relative_to(folder.parent).as_posix()
            if path.is_file() and path.suffix != ".pyc" and "/tests/" not in inside:
                yield f"usr/{found.inside}/site-packages/{inside}", path, False


def runtime_packages(version: str = "1.2.1") -> dict[str, bytes]:
    """The stand-in's runtime, by path below site-packages, for programs that are run outside an image too."""
    found = {"tensorrt_llm/__init__.py": f'{_START}\n__version__ = "{version}"\n{_LAZY}'.encode()}
    found |= {name: f"{_START}\n{text}".encode() for name, text in _MODULES.items()}
    return found | {"tensorrt_llm/runtime_standin.py": (_HERE / "runtime.py").read_bytes()}


def _start(module: str, tool: str) -> bytes:
    body = f'from tensorrt_llm.{module} import main\n\nif __name__ == "__main__":\n'
    return f'{_START}{body}    sys.exit(main(["{tool}", *sys.argv[1:]]))\n'.encode()


def _layer(target: Path, files: Iterator[File]) -> dict[str, Any]:
    """An uncompressed layer, written once; the same files always give the same bytes."""
    partial = target / "blobs/sha256/.partial"
    with tarfile.open(partial, "w", format=tarfile.PAX_FORMAT) as archive:
        made: set[str] = set()
        for name, content, executable in sorted(files, key=lambda file: file[0]):
            for folder in reversed(Path(name).parents[:-1]):
                if str(folder) not in made:
                    made.add(str(folder))
                    archive.addfile(_entry(str(folder), tarfile.DIRTYPE, 0o755))
            _add(archive, name, content, 0o755 if executable else 0o644)
    with partial.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    partial.rename(target / "blobs/sha256" / digest)
    size = (target / "blobs/sha256" / digest).stat().st_size
    return {"mediaType": f"{_OCI}.layer.v1.tar", "digest": f"sha256:{digest}", "size": size}


def _add(archive: tarfile.TarFile, name: str, content: bytes | str | Path, mode: int) -> None:
    if isinstance(content, str):
        entry = _entry(name, tarfile.SYMTYPE, 0o777)
        entry.linkname = content
        archive.addfile(entry)
        return
    entry = _entry(name, tarfile.REGTYPE, mode)
    if isinstance(content, bytes):
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
        return
    with content.open("rb") as stream:
        entry.size = os.fstat(stream.fileno()).st_size
        archive.addfile(entry, stream)


def _entry(name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.mtime = kind, mode, _EPOCH
    return entry


def _add_to_index(target: Path, described: dict[str, Any]) -> None:
    path = target / "index.json"
    listed = json.loads(path.read_bytes())["manifests"] if path.exists() else []
    others = [item for item in listed if item["annotations"] != described["annotations"]]
    path.write_bytes(_json({"schemaVersion": 2, "manifests": [*others, described]}))
    (target / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')


def _put(target: Path, content: bytes, media_type: str) -> dict[str, Any]:
    digest = hashlib.sha256(content).hexdigest()
    (target / "blobs/sha256" / digest).write_bytes(content)
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}


def _json(document: object) -> bytes:
    return json.dumps(document, sort_keys=True).encode()
