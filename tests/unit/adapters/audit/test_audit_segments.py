"""Sealed segments: the same rows with and without them, and every way in which they can be wrong."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from audit_rig import Ledger

from appliance.adapters.audit.manifest import MANIFEST
from appliance.adapters.audit.protocol import Progress
from appliance.adapters.audit.rows import START, RowReader
from appliance.adapters.audit.segments import SegmentStore
from appliance.adapters.audit.worker import open_ledger
from appliance.ledger.commands import Op, Operation

ROWS = 10


def fill(ledger: Ledger, entries: int) -> None:
    """Puts, batches of three, deletes of absent keys (refused), in turn."""
    for number in range(entries):
        if number % 4 == 3:
            ledger.delete(f"absent/{number}", "bob")
        elif number % 4 == 2:
            ledger.write([Operation(Op.PUT, f"k{number}/{n}", b"x" * n) for n in range(3)])
        else:
            ledger.put(f"k{number % 7}", b"%d" % number)
    ledger.flush()


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = Ledger(tmp_path)
    fill(made, 60)
    yield made
    made.close()


@pytest.fixture
def db(ledger: Ledger) -> Iterator[apsw.Connection]:
    made = open_ledger(str(ledger.path))
    yield made
    made.close(True)


class Run:
    """One call of `prepare`: what it told, the rows in all."""

    def __init__(self, directory: Path, db: apsw.Connection, **options: object) -> None:
        self.told: list[tuple[str, str]] = []
        self.store = SegmentStore(directory, tell=self._tell, segment_rows=ROWS, **options)  # type: ignore[arg-type]
        self.rest = self.store.prepare(db)
        sealed = [pq.read_table(directory / segment.file) for segment in self.store.segments]
        self.rows = pa.concat_tables([*sealed, self.rest]).to_pylist()

    def _tell(self, progress: Progress) -> None:
        self.told.append((progress.phase, progress.segment))


def whole(db: apsw.Connection) -> list[dict[str, object]]:
    """All rows, without any segment."""
    rows: list[dict[str, object]] = RowReader(db, START).take(10**9).to_pylist()
    return rows


def test_segments_and_the_rest_are_the_same_rows(ledger: Ledger, db: apsw.Connection, tmp_path: Path) -> None:
    run = Run(tmp_path / "audit", db)
    assert run.rows == whole(db)
    assert len(run.rows) == 90
    assert [row["index"] for row in run.rows] == sorted(row["index"] for row in run.rows)
    assert {(row["op"], row["outcome"]) for row in run.rows} == {("put", "ok"), ("delete", "not_found")}
    assert [phase for phase, _ in run.told] == ["sealed"] * len(run.store.segments)
    assert all(ROWS <= segment.rows < ROWS + 3 for segment in run.store.segments)
    assert len(run.rest) < ROWS


def test_a_raft_index_never_stands_in_two_segments(db: apsw.Connection, tmp_path: Path) -> None:
    run = Run(tmp_path / "audit", db)
    seen: set[object] = set()
    for segment in run.store.segments:
        inside = set(pq.read_table(tmp_path / "audit" / segment.file)["index"].to_pylist())
        assert not inside & seen
        seen |= inside


def test_a_second_run_reads_what_the_first_sealed(ledger: Ledger, db: apsw.Connection, tmp_path: Path) -> None:
    first = Run(tmp_path / "audit", db)
    fill(ledger, 12)
    second = Run(tmp_path / "audit", db, verified=first.store.stamps())
    assert second.rows == whole(db)
    assert second.store.segments[: len(first.store.segments)] == first.store.segments
    assert {phase for phase, _ in second.told} == {"sealed"}
    assert len(second.told) == len(second.store.segments) - len(first.store.segments)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 7)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o640)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        pytest.param(Path.unlink, [("rebuilt", "segment-000002.parquet")], id="a segment is gone"),
        pytest.param(cut, [("rebuilt", "segment-000002.parquet")], id="a segment is cut"),
        pytest.param(flip, [("rebuilt", "segment-000002.parquet")], id="a bit is flipped"),
        pytest.param(lambda path: path.with_name(MANIFEST).unlink(), None, id="no manifest"),
        pytest.param(lambda path: path.with_name(MANIFEST).write_text("{"), None, id="a torn manifest"),
        pytest.param(lambda path: path.with_name("x.tmp").write_text("left behind"), [], id="a killed worker's file"),
    ],
)
def test_damage_is_made_good(
    db: apsw.Connection, tmp_path: Path, harm: Callable[[Path], object], told: list[tuple[str, str]] | None
) -> None:
    first = Run(tmp_path / "audit", db)
    harm(tmp_path / "audit" / "segment-000002.parquet")
    second = Run(tmp_path / "audit", db, verified=first.store.stamps())
    assert second.rows == whole(db)
    assert second.store.segments == first.store.segments
    assert second.told == (first.told if told is None else told)
    assert not list((tmp_path / "audit").glob("*.tmp"))


def test_another_ledger_in_the_same_place_is_sealed_anew(tmp_path: Path, db: apsw.Connection) -> None:
    """A restore to an older state, after which other writes came: same length, other content."""
    first = Run(tmp_path / "audit", db)
    (tmp_path / "other").mkdir()
    other = Ledger(tmp_path / "other")
    for number in range(60):
        other.put(f"other/{number}", b"y")
    other.flush()
    other_db = open_ledger(str(other.path))
    second = Run(tmp_path / "audit", other_db, verified=first.store.stamps())
    assert second.rows == whole(other_db)
    assert {phase for phase, _ in second.told} == {"sealed"}
    other_db.close(True)
    other.close()


def test_a_ledger_that_is_shorter_than_what_is_sealed(tmp_path: Path, db: apsw.Connection) -> None:
    Run(tmp_path / "audit", db)
    (tmp_path / "other").mkdir()
    other = Ledger(tmp_path / "other")
    fill(other, 25)  # the same beginning
    other_db = open_ledger(str(other.path))
    assert Run(tmp_path / "audit", other_db).rows == whole(other_db)
    other_db.close(True)
    other.close()


def test_the_manifest_of_another_cluster_counts_for_nothing(tmp_path: Path, db: apsw.Connection) -> None:
    first = Run(tmp_path / "audit", db)
    path = tmp_path / "audit" / MANIFEST
    manifest = msgspec.json.decode(path.read_bytes())
    manifest["cluster_id"] = "00" * 16
    path.write_bytes(msgspec.json.encode(manifest))
    assert Run(tmp_path / "audit", db).told == first.told


def test_many_refusals_and_no_leaf_are_sealed_too(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Ledger(tmp_path / "other")
    for number in range(35):
        other.delete(f"absent/{number}")
    other.flush()
    db = open_ledger(str(other.path))
    run = Run(tmp_path / "audit", db)
    assert len(run.store.segments) == 3
    assert run.rows == whole(db)
    assert Run(tmp_path / "audit", db).told == []
    db.close(True)
    other.close()


def test_an_empty_ledger(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Ledger(tmp_path / "other")
    other.flush()
    db = open_ledger(str(other.path))
    assert Run(tmp_path / "audit", db).rows == []
    db.close(True)
    other.close()


def test_two_workers_at_once_seal_each_segment_once(ledger: Ledger, tmp_path: Path) -> None:
    runs: list[Run] = []

    def work() -> None:
        own = open_ledger(str(ledger.path))
        runs.append(Run(tmp_path / "audit", own))
        own.close(True)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({tuple(run.store.segments) for run in runs}) == 1
    assert sorted(len(run.told) for run in runs) == [0, 0, len(runs[0].store.segments)]


def test_a_leaf_of_an_unknown_format_is_named(tmp_path: Path, ledger: Ledger) -> None:
    writer = apsw.Connection(str(ledger.path))
    ((leaf,),) = writer.execute("SELECT leaf FROM leaves WHERE leaf_index = 4").fetchall()
    writer.execute("UPDATE leaves SET leaf = ? WHERE leaf_index = 4", (leaf.replace(b'"_format":1', b'"_format":9'),))
    db = open_ledger(str(ledger.path))
    with pytest.raises(ValueError, match="leaf 4"):
        Run(tmp_path / "audit", db)
    db.close(True)
    writer.close()
