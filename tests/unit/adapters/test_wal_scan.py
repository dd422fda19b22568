"""A WAL of 20 commits, damaged: what may be the torn end of the last one is good, all else is damage."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from appliance.adapters import log_store
from appliance.adapters.log_store import SqliteLogStore
from appliance.adapters.wal_scan import check_wal, scan_wal
from appliance.node.ports import DamagedFile
from appliance.raft.messages import EntryKind, make_entry

HEADER_BYTES = 32
FRAME_BYTES = 24 + 4096
COMMITS = 20


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    """File and WAL of a log with 20 commits of three entries that were never moved into the file. Its writer was not
    asked to close: the files are read while it is open.
    """
    path = tmp_path_factory.mktemp("live") / "raft.db"
    store = SqliteLogStore(path)
    store.load()
    for commit in range(COMMITS):
        first = 1 + 3 * commit
        store.append([make_entry(1, first + n, EntryKind.NORMAL, os.urandom(3_000)) for n in range(3)], None)
    read = path.read_bytes(), path.with_name("raft.db-wal").read_bytes()
    store.close()
    return read


@pytest.fixture
def wal(tmp_path: Path, files: tuple[bytes, bytes]) -> bytearray:
    """The WAL, to be damaged; the file is in `tmp_path`."""
    (tmp_path / "raft.db").write_bytes(files[0])
    return bytearray(files[1])


def frames(data: bytes) -> list[tuple[int, int]]:
    """(offset, commit size) of each frame."""
    offsets = range(HEADER_BYTES, len(data) - FRAME_BYTES + 1, FRAME_BYTES)
    return [(at, struct.unpack_from(">I", data, at + 4)[0]) for at in offsets]


def transactions(data: bytes) -> list[list[int]]:
    """Frame numbers (from 0) of each transaction."""
    result: list[list[int]] = [[]]
    for number, (_at, commit) in enumerate(frames(data)):
        result[-1].append(number)
        if commit:
            result.append([])
    return result[:-1]


def flip(data: bytearray, at: int) -> None:
    data[at] ^= 0x40


def entries_seen(path: Path) -> int:
    db = apsw.Connection(str(path))
    try:
        return int(db.execute("SELECT count(*) FROM entries").fetchone()[0])
    finally:
        db.close()


def test_an_intact_wal(tmp_path: Path, wal: bytearray) -> None:
    (tmp_path / "raft.db-wal").write_bytes(wal)
    count = len(frames(wal))
    assert len(transactions(wal)) == COMMITS  # opening had moved the tables into the file
    assert max(len(one) for one in transactions(wal)) > 1
    assert scan_wal(tmp_path / "raft.db") == (count, count, "")
    assert entries_seen(tmp_path / "raft.db") == 3 * COMMITS


def test_sqlite_alone_loses_commits_in_silence(tmp_path: Path, wal: bytearray) -> None:
    """The reason for the scan."""
    flip(wal, frames(wal)[transactions(wal)[8][0]][0] + 1000)
    (tmp_path / "raft.db-wal").write_bytes(wal)
    scan = scan_wal(tmp_path / "raft.db")
    assert entries_seen(tmp_path / "raft.db") == 3 * 8
    assert "later transaction" in scan.damage


Damage = Callable[[bytearray, int], None]
BYTES_OF_A_FRAME = {
    "page number": 3,
    "commit size": 7,
    "salt 1": 9,
    "salt 2": 13,
    "checksum 1": 17,
    "checksum 2": 21,
    "first byte of the page": 24,
    "middle of the page": 2000,
    "last byte of the page": FRAME_BYTES - 1,
}


@pytest.mark.parametrize("place", BYTES_OF_A_FRAME)
@pytest.mark.parametrize("which", ["first frame", "commit frame"])
@pytest.mark.parametrize("transaction", [0, 1, 10, COMMITS - 2])
def test_a_flipped_byte_before_the_last_transaction(
    tmp_path: Path, wal: bytearray, transaction: int, which: str, place: str
) -> None:
    frame = transactions(wal)[transaction][0 if which == "first frame" else -1]
    flip(wal, frames(wal)[frame][0] + BYTES_OF_A_FRAME[place])
    (tmp_path / "raft.db-wal").write_bytes(wal)
    with pytest.raises(DamagedFile, match=f"frame {frame + 1} is bad"):
        SqliteLogStore(tmp_path / "raft.db")


@pytest.mark.parametrize("place", [place for place in BYTES_OF_A_FRAME if place != "commit size"])
def test_a_flipped_byte_in_the_last_transaction_may_be_a_torn_write(tmp_path: Path, wal: bytearray, place: str) -> None:
    for frame in transactions(wal)[-1]:
        damaged = wal.copy()
        flip(damaged, frames(wal)[frame][0] + BYTES_OF_A_FRAME[place])
        (tmp_path / "raft.db-wal").write_bytes(damaged)
        assert check_wal(tmp_path / "raft.db").committed_count == transactions(wal)[-1][0]


def test_a_commit_that_was_none_is_damage(tmp_path: Path, wal: bytearray) -> None:
    """Commit size and salt share a sector, so no torn write shows a commit in the middle of a transaction."""
    at = next(frames(wal)[n][0] for n in transactions(wal)[-1][:-1])
    assert (at + 4) // 512 == (at + 15) // 512
    flip(wal, at + BYTES_OF_A_FRAME["commit size"])
    (tmp_path / "raft.db-wal").write_bytes(wal)
    with pytest.raises(DamagedFile, match="later transaction"):
        check_wal(tmp_path / "raft.db")


def test_an_older_commit_beside_the_new_salt_is_a_torn_write(tmp_path: Path, wal: bytearray) -> None:
    """Where the frame header lies across two sectors, the first may still be that of the frame before it there."""
    across = {n for n, (at, _) in enumerate(frames(wal)) if (at + 4) // 512 != (at + 15) // 512}
    last = next(one for one in transactions(wal) if across & set(one[:-1]))
    start = min(across & set(last[:-1]))
    torn = wal[: frames(wal)[last[-1]][0] + FRAME_BYTES]
    torn[frames(wal)[start][0] + 7] = 9
    (tmp_path / "raft.db-wal").write_bytes(torn)
    assert check_wal(tmp_path / "raft.db").committed_count == last[0]


@pytest.mark.parametrize("at", [0, 5, 10, 14, 18, 22, 26, 30], ids=lambda at: f"byte-{at}")
def test_a_flipped_byte_in_the_header(tmp_path: Path, wal: bytearray, at: int) -> None:
    flip(wal, at)
    (tmp_path / "raft.db-wal").write_bytes(wal)
    with pytest.raises(DamagedFile, match="header"):
        check_wal(tmp_path / "raft.db")


def test_any_truncation_is_a_torn_end(tmp_path: Path, wal: bytearray) -> None:
    """Cut off anywhere, a WAL shows a shorter history: nothing in it tells that there was more."""
    for length in [0, 1, 31, 32, 33, *range(HEADER_BYTES, len(wal), 9_001), len(wal)]:
        (tmp_path / "raft.db-wal").write_bytes(wal[:length])
        scan = check_wal(tmp_path / "raft.db")
        assert scan.frame_count == max(0, length - HEADER_BYTES) // FRAME_BYTES


@pytest.mark.parametrize("lost", ["zeros", "garbage"])
def test_frames_of_the_last_transaction_that_were_not_written(tmp_path: Path, wal: bytearray, lost: str) -> None:
    """The kernel writes pages back in any order, so the commit frame may be there and one before it not."""
    last = transactions(wal)[-1]
    for frame in last:
        damaged = wal.copy()
        at = frames(wal)[frame][0]
        damaged[at : at + FRAME_BYTES] = bytes(FRAME_BYTES) if lost == "zeros" else os.urandom(FRAME_BYTES)
        (tmp_path / "raft.db-wal").write_bytes(damaged)
        assert check_wal(tmp_path / "raft.db").committed_count == last[0]


def test_a_frame_in_the_middle_that_was_zeroed(tmp_path: Path, wal: bytearray) -> None:
    for transaction in (1, 10, COMMITS - 2):
        at = frames(wal)[transactions(wal)[transaction][0]][0]
        damaged = wal.copy()
        damaged[at : at + FRAME_BYTES] = bytes(FRAME_BYTES)
        (tmp_path / "raft.db-wal").write_bytes(damaged)
        with pytest.raises(DamagedFile, match="later transaction"):
            check_wal(tmp_path / "raft.db")


def test_frames_of_an_earlier_round_are_not_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a checkpoint SQLite writes the WAL from its start again, over frames with another salt."""
    monkeypatch.setattr(log_store, "WAL_PAGES_MAX", 20)
    store = SqliteLogStore(tmp_path / "raft.db")
    store.load()
    for index in range(1, 12):
        store.append([make_entry(1, index, EntryKind.NORMAL, os.urandom(9_000))], None)
        store.tidy()
    scan = scan_wal(tmp_path / "raft.db")
    written = len(frames((tmp_path / "raft.db-wal").read_bytes()))
    store.close()
    assert scan.damage == ""
    assert 0 < scan.committed_count < written


def test_no_wal_is_good(tmp_path: Path) -> None:
    assert scan_wal(tmp_path / "raft.db") == (0, 0, "")
