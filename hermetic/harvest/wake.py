"""File events, as a reason to look sooner. Whoever waits looks again after a while in any case.

``watchfiles`` is optional and its events are never believed: on network and FUSE file systems they do not arrive, and a
writer through a mapping makes none. See ``docs/adr``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

__all__ = ["listen"]

_DEBOUNCE_MS, _STEP_MS = 50, 20


async def listen(folders: Sequence[str], poke: Callable[[], None]) -> None:
    """Call `poke` whenever something below `folders` changes, until cancelled.

    Returns at once where there are no events to be had: the library is missing, or inotify's limits are reached.
    """
    try:
        from watchfiles import awatch  # noqa: PLC0415  # an extra
    except ImportError:
        return
    stop = asyncio.Event()
    try:
        async for _ in awatch(
            *folders,
            watch_filter=None,
            debounce=_DEBOUNCE_MS,
            step=_STEP_MS,
            rust_timeout=1000,
            stop_event=stop,
            force_polling=False,
            ignore_permission_denied=True,
        ):
            poke()
    except (OSError, RuntimeError):
        return
    finally:
        stop.set()
