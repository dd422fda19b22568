"""Notes beside the files for the next start, of a node that goes on, or ends, whether they can be made or not."""

from __future__ import annotations

from collections.abc import Callable

from appliance.node.ports import Log, StorageError


def note(log: Log, write: Callable[[], None]) -> None:
    """Make a note if there is room for it; a node that starts without it finds out again."""
    try:
        write()
    except StorageError as error:
        log.warning("node.standing_failed", reason=str(error))
