"""Sealed audit rows: Parquet files beside a manifest: a cache that is rebuilt from `ledger.db` where it is wrong."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Final

import apsw
import pyarrow as pa
import pyarrow.parquet as pq

from appliance.adapters.audit.manifest import MANIFEST_FORMAT, Manifest, Segment
from appliance.adapters.audit.protocol import Progress, SegmentStamp
from appliance.adapters.audit.rows import START, Position, RowReader

SEGMENT_ROWS: Final = 65_536
_LEAF: Final = "SELECT leaf FROM leaves WHERE leaf_index = ?"


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Hold the directory's lock; the kernel releases it when the worker is killed."""
    with (directory / "lock").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class SegmentStore:
    """The sealed segments of one ledger.

    Args:
        directory: made when it is missing.
        verified: segments whose digest was checked before and need not be read again.
        tell: called for each segment that was sealed or rebuilt.
        segment_rows: rows of a segment, at least.
    """

    def __init__(
        self,
        directory: Path,
        *,
        verified: Sequence[SegmentStamp] = (),
        tell: Callable[[Progress], None] = lambda _: None,
        segment_rows: int = SEGMENT_ROWS,
    ) -> None:
        self._directory = directory
        self._verified = set(verified)
        self._tell = tell
        self._segment_rows = segment_rows
        self.segments: list[Segment] = []
        directory.mkdir(mode=0o750, parents=True, exist_ok=True)

    def prepare(self, db: apsw.Connection) -> pa.Table:
        """Check what is sealed, seal what can be, answer the rows that are not sealed.

        To be called in a read transaction of `ledger.db`. Each segment is kept as soon as it is sealed, so a worker
        that is killed in between has not worked for nothing.

        Raises:
            OSError: no room for a segment.
            ValueError: a leaf cannot be read.
        """
        cluster_id = _meta(db, "cluster_id")
        with _locked(self._directory):
            for leftover in self._directory.glob("*.tmp"):
                leftover.unlink(missing_ok=True)
            self.segments = self._check(db, self._load(cluster_id))
            reader = RowReader(db, _end(self.segments[-1]) if self.segments else START)
            while True:
                rows = reader.take(self._segment_rows)
                if len(rows) < self._segment_rows:
                    return rows
                file = f"segment-{len(self.segments):06d}.parquet"
                self.segments.append(self._seal(db, rows, reader.position, file, "sealed"))
                self._store(cluster_id)

    def stamps(self) -> tuple[SegmentStamp, ...]:
        """The segments that `prepare` found or made good."""
        return tuple(sorted(self._verified, key=lambda stamp: stamp.file))

    def _load(self, cluster_id: str) -> tuple[Segment, ...]:
        manifest = Manifest.read(self._directory)
        return manifest.segments if manifest is not None and manifest.cluster_id == cluster_id else ()

    def _store(self, cluster_id: str) -> None:
        Manifest(MANIFEST_FORMAT, cluster_id, tuple(self.segments)).write(self._directory)

    def _check(self, db: apsw.Connection, segments: Sequence[Segment]) -> list[Segment]:
        """The segments that belong to this ledger; damaged ones are made anew, from another ledger's on all go."""
        good: list[Segment] = []
        position = START
        known, self._verified = self._verified, set()
        for segment in segments:
            if segment.leaf_sha256 != _leaf_digest(db, segment.leaf_next) or segment.index_last <= position.raft_index:
                break
            if not self._intact(segment, known):
                reader = RowReader(db, position)
                rows = reader.take(self._segment_rows)
                if reader.position != _end(segment) or len(rows) != segment.rows:
                    break
                segment = self._seal(db, rows, reader.position, segment.file, "rebuilt")  # noqa: PLW2901
            good.append(segment)
            position = _end(segment)
        return good

    def _intact(self, segment: Segment, known: set[SegmentStamp]) -> bool:
        path = self._directory / segment.file
        try:
            stamp = _stamp(path)
            if stamp not in known:
                with path.open("rb") as file:
                    if file_digest(file, "sha256").hexdigest() != segment.sha256:
                        return False
        except OSError:
            return False
        self._verified.add(stamp)
        return True

    def _seal(self, db: apsw.Connection, rows: pa.Table, end: Position, file: str, phase: str) -> Segment:
        temporary = self._directory / f"{file}.tmp"
        pq.write_table(rows, temporary, compression="zstd", row_group_size=SEGMENT_ROWS)
        with temporary.open("rb") as opened:
            digest = file_digest(opened, "sha256").hexdigest()
        temporary.chmod(0o440)
        path = self._directory / file
        temporary.replace(path)
        stamp = _stamp(path)
        self._verified.add(stamp)
        self._tell(Progress(phase, file, len(rows), stamp.size_bytes))
        return Segment(file, end.raft_index, end.leaf_next, len(rows), digest, _leaf_digest(db, end.leaf_next))


def _end(segment: Segment) -> Position:
    """Where the next segment begins."""
    return Position(segment.index_last, segment.leaf_next)


def _stamp(path: Path) -> SegmentStamp:
    found = os.stat(path)
    return SegmentStamp(path.name, found.st_size, found.st_mtime_ns)


def _leaf_digest(db: apsw.Connection, leaf_next: int) -> str:
    """Digest of the leaf before this one; empty when there is none."""
    row = db.execute(_LEAF, (leaf_next - 1,)).fetchone()
    return "" if row is None else sha256(row[0]).hexdigest()


def _meta(db: apsw.Connection, name: str) -> str:
    row = db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
    if row is None:
        return ""
    return row[0].hex() if isinstance(row[0], bytes) else str(row[0])
