"""After a machine went down: look at what runs of another boot realised, and keep only what is whole."""

from __future__ import annotations

import os
import stat

from hermetic.digest import Key, hash_descriptor
from hermetic.store.checking import Hashes, differences
from hermetic.store.layout import EPOCH_NS, Layout
from hermetic.store.pending import Pending, sync_file_system
from hermetic.store.realisation import Realisation
from hermetic.store.records import keys, names_below, read_record
from hermetic.store.removal import remove_tree
from hermetic.store.syncpoint import reach

__all__ = ["is_whole", "recover"]

_SLACK_NS = 3600 * 10**9  # how far the clock may have been set back while the lost run worked


def is_whole(layout: Layout, record: Realisation) -> bool:
    """Whether the output and everything kept beside it can be believed although its run never synced."""
    try:
        preimage = os.stat(layout.preimage(record.key)).st_size
    except OSError:
        return False
    return preimage > 0 and next(differences(layout, record, Hashes()), None) is None


def recover(layout: Layout, pending: Pending) -> None:
    """Verify the results of all runs that another boot left pending, drop what is not whole, and end the doubt.

    Call it with the store's recovery lock held. Safe to be killed at any moment: the markers go last.
    """
    runs = pending.of_other_boots()
    if not runs:
        return
    since = min(filter(None, (pending.started(run, boot) for run, boot in runs.items())), default=0)
    for key in list(keys(layout)):
        record = read_record(layout, key)
        # A record that cannot be read tells no run; it was the last thing its run wrote.
        if record is None or (record.run in runs and not is_whole(layout, record)):
            _drop(layout, key, record)
    reach("recover.after-outputs")
    _drop_blobs(layout, since - _SLACK_NS)
    reach("recover.after-blobs")
    sync_file_system(layout.root)
    pending.settle(runs)


def _drop(layout: Layout, key: Key, record: Realisation | None) -> None:
    os.unlink(layout.record(key))
    if record is not None:
        remove_tree(layout.output(key, record.name))


def _drop_blobs(layout: Layout, since: int) -> None:
    """Unlink the blobs, linked at or after `since`, that are not what their names say."""
    for name in list(names_below(layout.folder("blobs"))):
        path = f"{layout.root}/blobs/{name[:2]}/{name}"
        try:
            status = os.lstat(path)
            if status.st_ctime_ns >= since and not _is_blob(path, name, status):
                os.unlink(path)
        except FileNotFoundError:
            continue


def _is_blob(path: str, name: str, status: os.stat_result) -> bool:
    mode = 0o555 if name.endswith(".x") else 0o444
    if not stat.S_ISREG(status.st_mode) or stat.S_IMODE(status.st_mode) != mode or status.st_mtime_ns != EPOCH_NS:
        return False
    with open(path, "rb", buffering=0) as file:
        return hash_descriptor(file.fileno())[0].hex == name.removesuffix(".x")
