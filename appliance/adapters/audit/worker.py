"""The process that runs one audit query and ends: `python -m appliance.adapters.audit.worker`.

It is started by `engine`, imports everything, and waits for its task. It has no secrets in its environment, a low
priority, and bounds on its memory; the engine kills it when time is over or nobody waits any more.
"""

from __future__ import annotations

import errno
import os
import resource
import sys
import threading
import traceback
from pathlib import Path
from typing import BinaryIO, Final

import apsw
import duckdb
import msgspec
import pyarrow as pa

from appliance.adapters.audit.answers import Answer, encode_answer
from appliance.adapters.audit.protocol import LENGTH_BYTES, Done, Failed, Progress, Ready, Reply, Task
from appliance.adapters.audit.sandbox import check_sql, lock, open_database, query_error, streamed_error
from appliance.adapters.audit.segments import SegmentStore
from appliance.adapters.audit.tables import make_audit, make_current, names_current
from appliance.tables.errors import ApplianceError

NICENESS: Final = 10
ADDRESS_SPACE_SLACK_BYTES: Final = 512 * 1024 * 1024  # arenas, stacks and Arrow beside DuckDB's own memory
BUSY_TIMEOUT_MS: Final = 5_000
BATCH_ROWS: Final = 2048
_CACHE_KIB: Final = 16 * 1024


class Channel:
    """Frames to the engine, on a copy of standard output that no library prints to."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out

    def send(self, reply: Reply, body: bytes = b"") -> None:
        """Send a frame and what follows it."""
        data = msgspec.msgpack.encode(reply)
        self._out.write(len(data).to_bytes(LENGTH_BYTES, "big") + data)
        self._out.write(body)
        self._out.flush()


def main() -> None:
    """Say that all is ready, take one task, answer it."""
    os.nice(NICENESS)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a dump would hold the ledger's values
    channel = Channel(os.fdopen(os.dup(1), "wb"))
    os.dup2(2, 1)
    channel.send(Ready())
    length = sys.stdin.buffer.read(LENGTH_BYTES)
    if len(length) < LENGTH_BYTES:
        return
    task = msgspec.json.decode(sys.stdin.buffer.read(int.from_bytes(length, "big")), type=Task)
    threading.Thread(target=_end_with_engine, daemon=True).start()
    try:
        answer, store = _run(task, channel)
    except ApplianceError as error:
        channel.send(Failed(error.code, error.detail))
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        channel.send(Failed("disk_full" if full else "internal", f"The audit tables cannot be built: {error}"))
    except Exception:
        channel.send(Failed("internal", traceback.format_exc(limit=-3)))
    else:
        done = Done(answer.columns, answer.row_count, answer.truncated, len(answer.body), store.stamps())
        channel.send(done, answer.body)
    os._exit(0)  # nothing of DuckDB needs to be torn down


def _end_with_engine() -> None:
    """End at once when the engine closes our standard input or dies."""
    sys.stdin.buffer.read(1)
    os._exit(3)


def _run(task: Task, channel: Channel) -> tuple[Answer, SegmentStore]:
    directory = Path(task.audit_dir)
    store = SegmentStore(directory, verified=task.verified, tell=channel.send)
    os.chdir(directory)  # files have short relative names in plans and settings
    db = open_database(task.memory_bytes, f"spill-{os.getpid()}")
    check_sql(db, task.sql)
    try:
        _build(task, db, store)
        files = [segment.file for segment in store.segments]
        lock(db, files)
        _limit_address_space(task.memory_bytes)
        channel.send(Progress("running"))
        result = db.sql(task.sql, params=task.params)
        if result is None:
            raise ApplianceError("bad_query", "The statement has no result.")
        reader = result.to_arrow_reader(BATCH_ROWS)  # streams: rows beyond the limit are never made
        try:
            return encode_answer(reader, task.format, task.limit, task.answer_bytes_max), store
        except OSError as error:
            raise streamed_error(error) from error
    except (duckdb.Error, MemoryError) as error:
        raise query_error(error) from error
    except (pa.ArrowException, OverflowError, UnicodeError) as error:
        if isinstance(error, pa.ArrowMemoryError):
            raise query_error(MemoryError(str(error))) from error
        detail = f"A column cannot be written as {task.format}; cast it to VARCHAR. {error}"
        raise ApplianceError("bad_query", detail) from error


def _build(task: Task, db: duckdb.DuckDBPyConnection, store: SegmentStore) -> None:
    """Make the tables from one read transaction: a query sees what was applied when it began."""
    ledger = open_ledger(task.ledger_path)
    try:
        ledger.execute("BEGIN")
        rest = store.prepare(ledger)
        make_audit(db, [segment.file for segment in store.segments], rest)
        if names_current(task.sql):
            make_current(db, ledger)
    finally:
        ledger.close(True)  # from here on the ledger's WAL can be checkpointed again


def open_ledger(path: str) -> apsw.Connection:
    """`ledger.db`, read-only in every sense."""
    db = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READONLY)
    db.set_busy_timeout(BUSY_TIMEOUT_MS)
    db.pragma("query_only", 1)
    db.pragma("mmap_size", 0)  # a read error must be an error, not SIGBUS
    db.pragma("trusted_schema", 0)
    db.pragma("cache_size", -_CACHE_KIB)
    return db


def _limit_address_space(memory_bytes: int) -> None:
    """A backstop: single huge values are allocated outside DuckDB's own accounting."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    now_bytes = pages * resource.getpagesize()
    limit = now_bytes + memory_bytes + ADDRESS_SPACE_SLACK_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    main()
