"""``hermetic du``: where the bytes of the store are."""

from __future__ import annotations

import click

from hermetic.cli import console, options
from hermetic.cli.common import open_store
from hermetic.digest import Key
from hermetic.store import Store, Unpacked, Usage


@click.command("du")
@click.argument("targets", metavar="[PATH|KEY]...", nargs=-1)
@options.store
@options.as_json
@click.option("--shared", is_flag=True, help="Also name the paths that each one shares its bytes with.")
def command(targets: tuple[str, ...], store: str | None, as_json: bool, shared: bool) -> None:
    """Show how many bytes store paths take: in all, for themselves alone, and shared with others.

    Equal files lie on the disk once. What a path has for itself alone is what collecting it would free. Unpacked
    images share nothing.
    """
    place = open_store(store)
    ledger = place.ledger()
    images = [] if targets else place.images()
    records = [place.find(target) for target in targets] or list(place.records())
    for usage in sorted((ledger.usage(record) for record in records), key=lambda usage: -usage.size):
        sharers = ledger.sharers(usage.record) if shared else {}
        if as_json:
            console.json_line(_as_json(place, usage, sharers))
        else:
            _show(place, usage, sharers)
    for image in sorted(images, key=lambda image: -image.size):
        _show_image(image, as_json=as_json)
    if not targets:
        _total(ledger.total + sum(image.size for image in images), as_json=as_json)


def _show(store: Store, usage: Usage, sharers: dict[Key, int]) -> None:
    from hermetic.realise.display import human_bytes

    sizes = "".join(f"{human_bytes(count):>10}" for count in (usage.size, usage.own, usage.shared))
    console.data(f"{sizes}  {usage.record.path(store)}")
    for key, count in sharers.items():
        console.data(f"{'':20}{human_bytes(count):>10}    with {_path(store, key)}")


def _show_image(image: Unpacked, *, as_json: bool) -> None:
    from hermetic.realise.display import human_bytes

    if as_json:
        console.json_line(
            {"path": image.folder, "image": image.name, "size": image.size, "own": image.size, "shared": 0}
        )
    else:
        sizes = "".join(f"{human_bytes(count):>10}" for count in (image.size, image.size, 0))
        console.data(f"{sizes}  {image.folder}  ({image.name or 'an image'})")


def _total(total: int, *, as_json: bool) -> None:
    from hermetic.realise.display import human_bytes

    if as_json:
        console.json_line({"total": total})
    else:
        console.note(f"columns: in all, for itself alone, shared; all paths together: {human_bytes(total)}")


def _as_json(store: Store, usage: Usage, sharers: dict[Key, int]) -> dict[str, object]:
    shared = {_path(store, key): count for key, count in sharers.items()}
    return {
        "path": str(usage.record.path(store)),
        "key": usage.record.key.hex,
        "size": usage.size,
        "own": usage.own,
        "shared": usage.shared,
        **({"with": shared} if shared else {}),
    }


def _path(store: Store, key: Key) -> str:
    record = store.realisation(key)
    return str(record.path(store)) if record is not None else key.base32
