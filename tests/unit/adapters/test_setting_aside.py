"""What was set aside is kept, but not for ever, and not at the cost of what takes its place."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import pytest

from appliance.adapters import identity
from appliance.adapters.formats import NewerFormat
from appliance.adapters.identity import DataDirectory
from appliance.adapters.setting_aside import KEPT_MAX, drop, kept, set_aside, size_bytes
from appliance.adapters.standing import StandingFile
from appliance.raft.messages import Configuration, Member, MemberRole

NOW = datetime(2026, 11, 23, 20, 43, 43, tzinfo=UTC)
MEMBERS = (
    Member(1, 2**62, MemberRole.VOTER, "a:1", "a:2"),
    Member(2, 2**62, MemberRole.LEARNER, "b:1", "b:2"),
    Member(3, 2**62, MemberRole.VOTER, "c:1", "c:2"),
)


def put(directory: Path, size: int = 10) -> None:
    for name in ("raft.db", "raft.db-wal", "ledger.db", "ledger.db-shm"):
        (directory / name).write_bytes(b"x" * size)


def test_files_and_reason_are_there_under_the_time(tmp_path: Path) -> None:
    put(tmp_path)
    target = set_aside(tmp_path, ("raft.db", "ledger.db", "audit"), "it is damaged", NOW)
    assert target == tmp_path / "damaged-20261123T204343Z"
    assert target is not None
    assert sorted(path.name for path in target.iterdir()) == [
        "ledger.db",
        "ledger.db-shm",
        "raft.db",
        "raft.db-wal",
        "reason.txt",
    ]
    assert (target / "reason.txt").read_text() == "2026-11-23T20:43:43Z it is damaged\n"
    assert [path.name for path in tmp_path.iterdir()] == [target.name]
    assert size_bytes(target) == 40 + len("2026-11-23T20:43:43Z it is damaged\n")


def test_where_nothing_is_nothing_is_made(tmp_path: Path) -> None:
    assert set_aside(tmp_path, ("raft.db",), "why", NOW) is None
    assert list(tmp_path.iterdir()) == []


def test_the_oldest_make_room_for_the_latest(tmp_path: Path) -> None:
    for day in range(KEPT_MAX + 2):
        put(tmp_path)
        set_aside(tmp_path, ("raft.db", "ledger.db"), f"day {day}", NOW + timedelta(days=day))
    assert [(path / "reason.txt").read_text()[-2] for path in kept(tmp_path)] == ["2", "3", "4"]


def test_two_within_a_second_are_two(tmp_path: Path) -> None:
    for _ in range(2):
        put(tmp_path)
        assert set_aside(tmp_path, ("raft.db",), "why", NOW) is not None
    assert [path.name for path in kept(tmp_path)] == ["damaged-20261123T204343Z", "damaged-20261123T204343Z-2"]


def test_what_is_dropped_is_gone_with_all_that_is_in_it(tmp_path: Path) -> None:
    put(tmp_path)
    (tmp_path / "audit" / "deeper").mkdir(parents=True)
    target = set_aside(tmp_path, ("raft.db", "ledger.db", "audit"), "why", NOW)
    assert target is not None
    drop(target)
    assert kept(tmp_path) == []
    assert not target.exists()


class Usage(NamedTuple):
    """As `shutil.disk_usage` answers."""

    free: int


@pytest.mark.parametrize(("free_bytes", "left"), [(2_000, 3), (1_200, 2), (100, 1)])
def test_a_snapshot_gets_the_room_that_it_is_likely_to_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_bytes: int, left: int
) -> None:
    for day in range(3):
        put(tmp_path, 250)
        set_aside(tmp_path, ("raft.db", "ledger.db"), "why", NOW + timedelta(days=day))
    monkeypatch.setattr(identity.shutil, "disk_usage", lambda _path: Usage(free_bytes))
    directory = DataDirectory(tmp_path, reserve_bytes=300)
    directory.make_room()
    assert directory.kept() == left
    directory.drop_kept()
    assert directory.kept() == 0
    directory.close()


# -- what a node knows of itself beside its log


def test_standing_is_found_again(tmp_path: Path) -> None:
    standing = StandingFile(tmp_path)
    assert (standing.has_held, standing.voters, standing.doubt, standing.condemned) == (False, (), "", "")
    standing.remember(Configuration(MEMBERS))
    standing.note_doubt("odd")
    standing.condemn("over")
    for found in (standing, StandingFile(tmp_path)):
        assert (found.has_held, found.voters, found.doubt, found.condemned) == (True, (1, 3), "odd", "over")
    standing.pardon()
    standing.dispel_doubt()
    again = StandingFile(tmp_path)
    assert (again.voters, again.doubt, again.condemned) == ((1, 3), "", "")


def test_nothing_is_written_when_nothing_has_changed(tmp_path: Path) -> None:
    standing = StandingFile(tmp_path)
    standing.pardon()
    standing.dispel_doubt()
    assert list(tmp_path.iterdir()) == []
    standing.remember(Configuration(MEMBERS))
    before = (tmp_path / "standing.json").stat()
    standing.remember(Configuration(MEMBERS))
    assert (tmp_path / "standing.json").stat() == before


@pytest.mark.parametrize("content", [b"", b"\xff", b"{}", b'{"format": 1, "voters": "all"}'])
def test_a_damaged_one_says_only_that_there_was_something(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "standing.json").write_bytes(content)
    standing = StandingFile(tmp_path)
    assert (standing.has_held, standing.voters) == (True, ())
    standing.remember(Configuration(MEMBERS))
    assert StandingFile(tmp_path).voters == (1, 3)


def test_one_of_a_later_version_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "standing.json").write_bytes(b'{"format": 2}')
    with pytest.raises(NewerFormat):
        DataDirectory(tmp_path)
    DataDirectory(tmp_path / "other").close()
    (tmp_path / "standing.json").unlink()
    DataDirectory(tmp_path).close()  # the lock was given back
