"""Child processes that are killed: SIGKILL leaves no time to tidy up, and what the kernel has been given stays."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable

Report = Callable[[int], None]
REPORT_BYTES = 8


class Child:
    """A fork of this process that runs `work(report)`; what it reports arrives here even when it is killed."""

    def __init__(self, work: Callable[[Report], None]) -> None:
        self._read_end, write_end = os.pipe()
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                os.close(self._read_end)
                work(lambda number: void(os.write(write_end, number.to_bytes(REPORT_BYTES))))
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        os.close(write_end)

    def next_report(self) -> int | None:
        """Wait for the next report; None when there will be none."""
        data = os.read(self._read_end, REPORT_BYTES)
        return int.from_bytes(data) if data else None

    def kill(self) -> list[int]:
        """Kill it; answers the reports not yet taken."""
        os.kill(self.pid, signal.SIGKILL)
        return self.wait(-signal.SIGKILL)

    def wait(self, expected_code: int) -> list[int]:
        """Wait for its end; answers the reports not yet taken."""
        rest: list[int] = []
        while (number := self.next_report()) is not None:
            rest.append(number)
        os.close(self._read_end)
        _, status = os.waitpid(self.pid, 0)
        assert os.waitstatus_to_exitcode(status) == expected_code
        return rest


def void(_: object) -> None:
    """For a callback whose answer is not wanted."""


def kill_me() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
