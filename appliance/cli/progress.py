"""Progress of long work on standard error: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from appliance.cli.output import console, say

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID
    from rich.status import Status

LINE_INTERVAL_S: Final = 5.0


class Progress:
    """Counts records and shows them.

    Args:
        verb: what is being done, as a participle ("importing").
        total: size of the whole in steps (bytes, records), or None when it is not known.
    """

    def __init__(self, verb: str, total: int | None) -> None:
        self._verb = verb
        self._total = total
        self._began_s = time.monotonic()
        self._next_line_s = self._began_s + LINE_INTERVAL_S
        self._bar: Bar | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TaskProgressColumn(),
                TextColumn("{task.fields[counts]}"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=console(error=True),
            )
            self._bar.start()
            self._task = self._bar.add_task(self._verb, total=self._total, counts="", note="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, *, done: int, records: int, failed: int = 0, note: str = "") -> None:
        """Show where the work stands: `done` of `total`, records and failures so far, what it is waiting for."""
        now_s = time.monotonic()
        rate = records / max(now_s - self._began_s, 1e-3)
        counts = f"{records:,} records, {rate:,.0f}/s, {failed:,} failed"
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, counts=counts, note=note[:60])
        elif now_s >= self._next_line_s:
            self._next_line_s = now_s + LINE_INTERVAL_S
            share = f"{done / self._total:.0%}, " if self._total else ""
            say(f"{self._verb}: {share}{counts}{f' - {note}' if note else ''}")


class Waiting:
    """Shows that something is waited for: a line that turns on a terminal, a line now and then elsewhere.

    Args:
        what: what is done meanwhile ("removing node 4").
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._note = ""
        self._began_s = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._show, daemon=True)
        self._status: Status | None = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            self._status = console(error=True).status(f"{self._what} ...")
            self._status.start()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        if self._status is not None:
            self._status.stop()

    def note(self, text: str) -> None:
        """Say how far it is."""
        self._note = text

    def _show(self) -> None:
        interval_s = 1.0 if self._status is not None else LINE_INTERVAL_S
        while not self._over.wait(interval_s):
            line = f"{self._what}: {time.monotonic() - self._began_s:.0f} s{f', {self._note}' if self._note else ''}"
            if self._status is not None:
                self._status.update(line)
            else:
                say(line)
