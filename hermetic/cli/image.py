"""``hermetic image``: which images stages may run in, and how a tested one becomes approved."""

from __future__ import annotations

import click

from hermetic.cli import approved, console, options
from hermetic.cli.common import open_store
from hermetic.errors import Domain, HermeticError
from hermetic.llm.approved_images import ApprovedImages


@click.group("image")
def command() -> None:
    """List the images that stages may run in, and promote one that was tested.

    The setting `images` (HERMETIC_IMAGES, or images = "FILE" in hermetic.toml) names the file. Without it every image
    may be used.
    """


@command.command("list")
@options.as_json
def list_(as_json: bool) -> None:
    """Every image of the file, and whether it is approved or in test."""
    found = _configured()
    for state, entries in (("approved", found.approved), ("testing", found.testing)):
        for entry in entries:
            if as_json:
                console.json_line({"state": state, **vars(entry)})
                continue
            more = f"  replaces {entry.replaces}" if entry.replaces else ""
            tested = f"  tested by {entry.tested[:12]}" if entry.tested else ""
            console.data(f"{state:9} {entry.reference}{'@' + entry.digest if entry.digest else ''}{more}{tested}")


@command.command("promote")
@click.argument("reference")
@click.argument("test", metavar="PATH|KEY")
@options.store
def promote(reference: str, test: str, store: str | None) -> None:
    """Approve REFERENCE, which is in test, because the smoke test PATH passed in it.

    PATH is what `hermetic realise --test-images RECIPE#smoke` printed. The promotion is appended to the file, which
    you commit.
    """
    from hermetic.llm.approved_images import promote as append

    found = _configured()
    place = open_store(store)
    realisation = place.find(test)
    preimage = place.preimage(realisation.key)
    if preimage is None or realisation.impure:
        message = f"{realisation.name} is not the result of a build in a sandbox"
        raise HermeticError(Domain.TRUST, "not-a-test", message, hint="hermetic realise --test-images RECIPE#smoke")
    entry = append(found, reference, preimage, realisation.key.hex)
    console.note(f"{entry.reference}@{entry.digest} is approved now: commit {found.file}")


def _configured() -> ApprovedImages:
    found = approved.configured()
    if found is None:
        hint = 'images = "approved-images.toml" in hermetic.toml, or HERMETIC_IMAGES'
        raise HermeticError(Domain.USAGE, "no-approved-images", "no file of approved images is set", hint=hint)
    return found
