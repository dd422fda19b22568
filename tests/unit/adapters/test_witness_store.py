"""A witness's state: what it says after a restart, and that it does not believe a file that was changed."""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest

from appliance.adapters.ed25519 import SigningKey
from appliance.adapters.witness_store import WAL_PAGES_MAX, LogRow, WitnessStore
from appliance.ledger.checkpoint import Checkpoint, sign_checkpoint
from appliance.ledger.note import SignatureType, format_note
from appliance.ledger.witnessing import TreeHead
from appliance.node.ports import DamagedFile, StorageError, StorageFailed

LOG = SigningKey("example.com/log", SignatureType.ED25519, bytes(range(32)))
ORIGIN = LOG.verifier_key.name
NOW_S = 1_795_462_000


def head(size: int) -> TreeHead:
    return TreeHead(size, bytes([size % 256]) * 32)


def note(size: int) -> bytes:
    return format_note(sign_checkpoint(Checkpoint(ORIGIN, *head(size)), LOG.verifier_key, LOG.sign))


def keep(store: WitnessStore, size: int, now_s: int = NOW_S) -> None:
    with store.submission():
        store.keep(ORIGIN, head(size), note(size), now_s)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "witness.state"


def test_heads_are_there_again(path: Path) -> None:
    store = WitnessStore(path)
    assert (store.head(ORIGIN), store.rows()) == (TreeHead(), [])
    keep(store, 3)
    keep(store, 5, NOW_S + 1)
    with store.submission():
        store.keep_fork(ORIGIN, b"first", NOW_S)
        store.keep_fork(ORIGIN, b"second", NOW_S)
    store.close()
    again = WitnessStore(path)
    assert again.head(ORIGIN) == head(5)
    assert again.rows() == [LogRow(ORIGIN, head(5), note(5), NOW_S + 1, b"first")]
    keep(again, 5, NOW_S + 2)
    assert again.rows()[0].since_s == NOW_S + 1, "it was cosigned first then"
    again.close()


def test_what_a_submission_does_not_end_with_is_not_kept(path: Path) -> None:
    store = WitnessStore(path)
    keep(store, 3)

    def broken() -> None:
        with store.submission():
            store.keep(ORIGIN, head(5), note(5), NOW_S)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broken()
    assert store.head(ORIGIN) == head(3)
    store.close()


def test_the_files_stay_small(path: Path) -> None:
    store = WitnessStore(path)
    for size in range(1, 2 * WAL_PAGES_MAX):
        keep(store, size)
    assert path.with_name(path.name + "-wal").stat().st_size < 3 * WAL_PAGES_MAX * 4096
    store.close()


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE heads SET size = 4",
        "UPDATE heads SET root = zeroblob(32)",
        "UPDATE heads SET note = CAST(replace(CAST(note AS TEXT), 'example.com/log', 'example.com/lag') AS BLOB)",
        "UPDATE heads SET note = x''",
    ],
)
def test_a_head_that_was_changed_is_not_believed(path: Path, change: str) -> None:
    store = WitnessStore(path)
    keep(store, 5)
    store.close()
    db = apsw.Connection(str(path))
    db.execute(change)
    db.close()
    store = WitnessStore(path)
    with pytest.raises(DamagedFile, match="last head"):
        store.head(ORIGIN)
    store.close()


def test_a_wal_that_lost_what_was_synced_stops_the_start(path: Path) -> None:
    store = WitnessStore(path)
    for size in range(1, 9):
        keep(store, size)
    wal = path.with_name(path.name + "-wal")
    data = bytearray(wal.read_bytes())
    data[200] ^= 1
    other = path.with_name("other.state")
    other.write_bytes(path.read_bytes())
    other.with_name(other.name + "-wal").write_bytes(data)
    store.close()
    with pytest.raises(DamagedFile):
        WitnessStore(other)


def test_files_of_others_are_left_alone(path: Path) -> None:
    path.write_bytes(b"no database, but long enough to be looked at as one" * 100)
    with pytest.raises(StorageError):
        WitnessStore(path)
    later = path.with_name("later.state")
    WitnessStore(later).close()
    db = apsw.Connection(str(later))
    db.pragma("user_version", 2)
    db.close()
    with pytest.raises(StorageFailed, match="format 2"):
        WitnessStore(later)


def test_two_processes_on_one_file_keep_out_of_each_others_submissions(path: Path) -> None:
    first, second = WitnessStore(path), WitnessStore(path)
    keep(first, 3)
    assert second.head(ORIGIN) == head(3)
    keep(second, 5)
    assert first.head(ORIGIN) == head(5)
    first.close()
    second.close()
