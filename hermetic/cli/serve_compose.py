"""``hermetic serve compose``: files that keep a deployment running."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click

from hermetic.cli import console, options
from hermetic.cli.serve_triton import server_options, settings_of, wish_of
from hermetic.cli.serving import Prepared, prepared
from hermetic.cli.serving_image import insist_on_written
from hermetic.errors import Domain, HermeticError
from hermetic.serve.launch_files import FORMATS, Deployed, files
from hermetic.serve.triton_deployment import read_deployment

_OF_THE_API: Final = ("policy", "api_keys")
_OF_THE_SERVER: Final = ("to", "manifest", "tokenizer", "repository", "max_batch_size", "max_seq_len", "image", "store")
_PATHS: Final = ("to", "manifest", "tokenizer", "repository", "store", "policy", "api_keys")


@click.command("compose")
@click.argument("target", metavar="NAME|PATH|RECIPE[#STAGE]")
@options.setting
@options.store
@click.option("--format", "kind", type=click.Choice(list(FORMATS)), default="compose", show_default=True)
@click.option("--image", envvar="TRITON_IMAGE", default="", help="Triton's image, by digest: NAME@sha256:…")
@click.option("--name", help="What the service is called [the target's name].")
@click.option("--api", is_flag=True, help="systemd: OpenAI's API too, on --port.")
@click.option("--port", type=click.IntRange(1, 65535), default=9000, show_default=True, help="Of the API.")
@click.option("--policy", type=click.Path(), help="Of the API: the deployment's policy file.")
@click.option("--api-keys", type=click.Path(), help="Of the API: a file with a key on each line.")
@click.option("--gpus", type=click.IntRange(min=0), help="GPUs for it [what the engine needs].")
@click.option("-o", "--out", type=click.Path(path_type=Path), default=Path("deployment"), show_default=True)
@server_options
def command(
    target: str, sets: tuple[str, ...], store: str | None, kind: str, image: str, out: Path, **given: Any
) -> None:
    """Write the files that start Triton with an engine: Docker Compose, Kubernetes or systemd.

    The folder gets the model repository too. Engine and tokenizer stay where they are: a NAME by its link, so that a
    roll-back is one restart, anything else by its path, which must then stay alive (`hermetic root add`).
    """
    _insist_on_systemd(kind, given)
    if out.exists():
        message = f"{out} is there already"
        raise HermeticError(Domain.USAGE, "out-exists", message, hint="remove it, or give another with --out")
    with prepared(wish_of(target, sets, store, given)) as found:
        deployed = _deployed(found, target, sets, image, out, given | {"store": store})
        if kind != "systemd":  # which starts hermetic, and that looks for itself
            insist_on_written(found, image, read_deployment(found.subject.repository))
        written = files(kind, deployed)
        out.mkdir(parents=True)
        _copy(Path(found.subject.repository), out / "model-repository")
    for name, text in written.items():
        (out / name).write_text(text, encoding="utf-8")
        console.data(str(out / name))


def _deployed(
    found: Prepared, target: str, sets: tuple[str, ...], image: str, out: Path, given: dict[str, Any]
) -> Deployed:
    deployment = read_deployment(found.subject.repository)
    gpus = given["gpus"] if given["gpus"] is not None else 0 if deployment.kind == "openvino" else deployment.world
    engine = found.link or found.subject.engine
    own = found.subject.tokenizer == found.subject.engine
    tokenizer = os.path.join(engine if own else found.subject.tokenizer, deployment.tokenizer_folder).rstrip("/")
    return Deployed(
        name=given["name"] or os.path.splitext(found.subject.name)[0].replace("_", "-").lower(),
        engine=engine,
        tokenizer=tokenizer,
        repository=os.path.abspath(out / "model-repository"),
        world=deployment.processes,
        gpus=gpus,
        settings=settings_of(given),
        image=image,
        program=os.path.join(os.path.dirname(sys.executable), "hermetic"),
        target=os.path.abspath(target) if "/" in target or os.path.exists(target) else target,
        api=given["api"],
        more=(*(word for one in sets for word in ("--set", one)), *_told(given | {"image": image})),
    )


def _insist_on_systemd(kind: str, given: dict[str, Any]) -> None:
    """Whatever else starts Triton starts it alone: the images have no hermetic in them."""
    asked = [name for name in _OF_THE_API if given[name]]
    if asked and not given["api"]:
        raise HermeticError(Domain.USAGE, "no-api", f"--{asked[0].replace('_', '-')} is of the API", hint="--api too")
    if given["api"] and kind != "systemd":
        message = f"files of {kind} start Triton alone"
        raise HermeticError(
            Domain.USAGE, "no-api", message, hint="--format systemd, or hermetic serve openai before it"
        )


def _told(given: dict[str, Any]) -> Iterator[str]:
    """What was said here and holds for the server too, with paths that hold everywhere."""
    names = (*_OF_THE_SERVER, *((*_OF_THE_API, "port") if given["api"] else ()))
    for name in names:
        if given[name]:
            value = os.path.abspath(given[name]) if name in _PATHS else str(given[name])
            yield from (f"--{name.replace('_', '-')}", value)


def _copy(source: Path, target: Path) -> None:
    """Writable by its owner, unlike what lies in the store."""
    shutil.copytree(source, target, copy_function=shutil.copyfile)
    for folder, _, _ in os.walk(target):
        os.chmod(folder, 0o755)  # noqa: S103  # for the user that the server runs as
