"""The data directory: whose it is, who uses it, and the reserve."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from appliance.adapters.formats import NewerFormat
from appliance.adapters.identity import DataDirectory, DataDirInUse
from appliance.adapters.log_store import SqliteLogStore
from appliance.node.ports import DiskFull, Identity, IdentityStatus, StorageFailed
from tests.contract.processes import Child

IDENTITY = Identity("0123456789abcdef" * 2, 3, 2**63 - 1)


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[DataDirectory]:
    directory = DataDirectory(tmp_path / "data", reserve_bytes=64 * 1024)
    yield directory
    directory.close()


@pytest.fixture
def founded(directory: DataDirectory) -> DataDirectory:
    """A directory with a log and the identity written for it."""
    SqliteLogStore(directory.path / "raft.db").close()
    directory.write(IDENTITY)
    return directory


def test_an_empty_directory_is_fresh(directory: DataDirectory) -> None:
    assert directory.check().status is IdentityStatus.FRESH


def test_what_was_written_is_found_again(founded: DataDirectory) -> None:
    found = founded.check()
    assert (found.status, found.identity, found.reason) == (IdentityStatus.OK, IDENTITY, "")
    store = SqliteLogStore(founded.path / "raft.db")  # use does not change whose file it is
    store.load()
    store.close()
    assert founded.check().status is IdentityStatus.OK


def test_integers_beyond_doubles_are_text_in_the_file(founded: DataDirectory) -> None:
    data = json.loads((founded.path / "identity.json").read_text())
    assert data["incarnation"] == str(2**63 - 1)
    assert data["format"] == 1


def copied(path: Path) -> None:
    shutil.copy2(path / "raft.db", path / "copy")
    os.replace(path / "copy", path / "raft.db")


def made_again_under_the_same_inode(path: Path) -> None:
    """As a restored archive may have it: the inode that was freed is the next to be given out."""
    data = (path / "raft.db").read_bytes()
    (path / "raft.db").unlink()
    (path / "raft.db").write_bytes(data)


def edited(name: str, value: object) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        data = json.loads((path / "identity.json").read_text())
        (path / "identity.json").write_text(json.dumps({**data, name: value}))

    return edit


@pytest.mark.parametrize(
    ("change", "reason", "identity_known"),
    [
        (lambda path: (path / "raft.db").unlink(), "raft.db is missing", True),
        (copied, "another file", True),
        (made_again_under_the_same_inode, "another file", True),
        (edited("raft_inode", "1"), "inode differs", True),
        (lambda path: (path / "identity.json").unlink(), "identity.json is missing, but raft.db", False),
        (lambda path: (path / "identity.json").write_bytes(b""), "cannot be understood", False),
        (lambda path: (path / "identity.json").write_bytes(b"\xff\x00"), "cannot be understood", False),
        (edited("format", 0), "format is 0", False),
        (edited("incarnation", "x"), "cannot be understood", False),
        (edited("node_id", "3"), "cannot be understood", False),
        (edited("extra", 1), "cannot be understood", False),
    ],
    ids=[
        "log missing",
        "log copied",
        "log made again",
        "inode",
        "identity missing",
        "empty",
        "no text",
        "format",
        "incarnation",
        "type",
        "unknown field",
    ],
)
def test_a_directory_that_is_not_what_it_was(
    founded: DataDirectory, change: Callable[[Path], None], reason: str, identity_known: bool
) -> None:
    change(founded.path)
    found = founded.check()
    assert found.status is IdentityStatus.REPLACED
    assert reason in found.reason
    assert found.identity == (IDENTITY if identity_known else None)


def test_what_a_later_version_has_written_is_left_alone(founded: DataDirectory) -> None:
    """Taken for damage it would get a new incarnation, and the later version find its directory taken over."""
    path = founded.path / "identity.json"
    path.write_text(json.dumps({"format": 2, "clusters": ["of another form"]}))
    before = path.read_bytes()
    with pytest.raises(NewerFormat, match=r"identity\.json is of format 2, which a later version .* up to 1\."):
        founded.check()
    assert path.read_bytes() == before


def test_a_ledger_alone_is_not_fresh(directory: DataDirectory) -> None:
    (directory.path / "ledger.db").write_bytes(b"")
    found = directory.check()
    assert (found.status, found.identity) == (IdentityStatus.REPLACED, None)


def test_an_identity_cannot_be_written_without_a_log(directory: DataDirectory) -> None:
    with pytest.raises(StorageFailed, match=r"raft\.db"):
        directory.write(IDENTITY)


def test_a_second_use_in_the_same_process_is_refused(directory: DataDirectory) -> None:
    with pytest.raises(DataDirInUse, match=f"process {os.getpid()}"):
        DataDirectory(directory.path)
    directory.check()  # the first one is not disturbed


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    def hold(report: Callable[[int], None]) -> None:
        held = DataDirectory(tmp_path)
        report(os.getpid())
        signal.pause()
        held.close()

    child = Child(hold)
    holder = child.next_report()
    with pytest.raises(DataDirInUse, match=rf"process {holder}\. Stop that process"):
        DataDirectory(tmp_path)
    child.kill()
    DataDirectory(tmp_path).close()


def test_the_reserve_is_really_allocated_and_given_up_once(directory: DataDirectory) -> None:
    directory.hold_reserve()
    directory.hold_reserve()
    status = (directory.path / "reserve.bin").stat()
    assert status.st_size == 64 * 1024
    assert status.st_blocks * 512 >= 64 * 1024
    assert directory.release_reserve() is True
    assert directory.release_reserve() is False
    assert not (directory.path / "reserve.bin").exists()


def test_a_reserve_for_which_there_is_no_room(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).total
    directory = DataDirectory(tmp_path / "data", reserve_bytes=4 * free)
    with pytest.raises(DiskFull):
        directory.hold_reserve()
    assert not (directory.path / "reserve.bin").exists()
    directory.close()
