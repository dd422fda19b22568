"""Files that lose their name at once and their room in steps, and not while another process reads them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.adapters import freeing
from appliance.adapters.freeing import FREED_AT_ONCE_BYTES, discard, hold, let_go

WAIT_S = 20.0
SIZE_BYTES = 2 * FREED_AT_ONCE_BYTES + 1
READER = "import sys; f = open(sys.argv[1], 'rb'); print('open', flush=True); sys.stdin.read(); print(len(f.read()))"


def until(condition: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline_s, f"waited in vain for {what}"
        time.sleep(0.005)  # it happens on a thread that tells nobody


def test_a_file_that_is_not_there_is_discarded_all_the_same(tmp_path: Path) -> None:
    discard(tmp_path / "missing")
    assert hold(tmp_path / "missing") is None
    let_go(None)


def test_a_discarded_file_has_no_name_and_soon_no_room(tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(bytes(SIZE_BYTES))
    with path.open("rb") as watched:
        discard(path)
        assert not path.exists()
        until(lambda: os.fstat(watched.fileno()).st_size == 0, "the room to be free")


def test_what_another_process_reads_stays_whole_until_it_has_read_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(freeing, "LOOK_S", 0.005)
    path = tmp_path / "large"
    path.write_bytes(bytes(SIZE_BYTES))
    held = hold(path)
    assert held is not None
    watched = os.stat(held)
    with subprocess.Popen(
        [sys.executable, "-c", READER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "open\n"
        path.unlink()
        let_go(held)
        until(lambda: not freeing._is_alone(held), "the kernel to know the reader")
        said, _ = reader.communicate()
    assert said == f"{SIZE_BYTES}\n"
    until(lambda: not is_open(watched), "the file to be let go")


def test_a_file_that_is_read_for_ever_is_left_to_its_readers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freeing, "LOOK_S", 0.005)
    monkeypatch.setattr(freeing, "READERS_S", 0.02)
    path = tmp_path / "large"
    path.write_bytes(bytes(SIZE_BYTES))
    held = hold(path)
    with path.open("rb") as reader:
        path.unlink()
        let_go(held)
        until(lambda: count_open(os.fstat(reader.fileno())) == 1, "the node to close it")
        assert os.fstat(reader.fileno()).st_size == SIZE_BYTES


def count_open(status: os.stat_result) -> int:
    """Descriptors of this process that are open on a file."""
    count = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            found = os.stat(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue
        count += (found.st_dev, found.st_ino) == (status.st_dev, status.st_ino)
    return count


def is_open(status: os.stat_result) -> bool:
    return count_open(status) > 0
