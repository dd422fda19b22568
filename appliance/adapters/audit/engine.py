"""The node's side of audit queries: worker processes, their number, their time, their end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from appliance.adapters.audit.protocol import (
    FRAME_BYTES_MAX,
    LENGTH_BYTES,
    MEDIA_TYPES,
    Done,
    Failed,
    Progress,
    Ready,
    Reply,
    SegmentStamp,
    Task,
)
from appliance.node.api import AuditAnswer
from appliance.node.ports import Instruments, Log
from appliance.tables.errors import ERRORS, ApplianceError
from appliance.tables.settings import AuditSettings

SQL_BYTES_MAX: Final = 64 * 1024
ANSWER_BYTES_MAX: Final = 32 * 1024 * 1024
WAITING_MAX: Final = 16
SPARE_IDLE_S: Final = 600.0
START_TIMEOUT_S: Final = 30.0
_SQL_LOGGED_CHARS: Final = 1000
_DRAIN_BYTES: Final = 256 * 1024
_OUTCOMES: Final = (
    "ok",
    "bad_query",
    "bad_request",
    "query_timeout",
    "query_memory",
    "overloaded",
    "disk_full",
    "internal",
    "cancelled",
    "other",
)
_LOUD: Final = frozenset({"query_timeout", "query_memory", "disk_full", "internal", "other"})

_Outcome = tuple[AuditAnswer, int]  # and the number of rows in it

_decode_reply = msgspec.msgpack.Decoder(Reply).decode


class _JsonRows(msgspec.Struct, frozen=True):
    """The rows of an answer in JSON, each still encoded."""

    rows: list[msgspec.Raw]


_decode_rows = msgspec.json.Decoder(_JsonRows).decode


class _Worker:
    """A worker process that has imported everything, or is about to."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.process = process
        self.stdin = process.stdin
        self.stdout = process.stdout

    async def receive(self) -> Reply:
        """The next frame. Raises `EOFError` when the worker is gone."""
        try:
            length = int.from_bytes(await self.stdout.readexactly(LENGTH_BYTES), "big")
            if length > FRAME_BYTES_MAX:
                raise EOFError("a frame of the audit worker is too long")
            reply: Reply = _decode_reply(await self.stdout.readexactly(length))
        except asyncio.IncompleteReadError as error:
            raise EOFError("the audit worker is gone") from error
        return reply

    def kill(self) -> None:
        """End the process at once."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.stdin.close()


class DuckDbAudit:
    """SQL over `audit` and `current`, each query in a process of its own.

    The first query pays for the start of a worker; after it one spare waits for the next, for ten minutes at most.

    Args:
        data_dir: of the node; segments live in `audit/` under it.
        settings: `[audit]`.
        log: told what became of each query.
        instruments: `scribe_audit_queries_total`, `scribe_audit_query_seconds`.
        settle: waits until the ledger file holds everything applied now; answers its path.
    """

    def __init__(
        self,
        data_dir: Path,
        settings: AuditSettings,
        log: Log,
        instruments: Instruments,
        settle: Callable[[], Awaitable[Path]],
    ) -> None:
        self._directory = data_dir.resolve() / "audit"
        self._settings = settings
        self._log = log
        self._settle = settle
        self._slots = asyncio.Semaphore(settings.query_concurrency)
        self._waiting = 0
        self._closed = False
        self._sweeping = asyncio.Lock()
        self._swept = False
        self._spare: asyncio.Task[_Worker] | None = None
        self._spare_timer: asyncio.TimerHandle | None = None
        self._starting: set[asyncio.Task[_Worker]] = set()
        self._background: set[asyncio.Task[None]] = set()
        self._verified: tuple[SegmentStamp, ...] = ()
        self._counts = {name: instruments.counter("scribe_audit_queries_total", outcome=name) for name in _OUTCOMES}
        self._seconds = instruments.histogram("scribe_audit_query_seconds")

    async def start(self) -> None:
        """Start the spare worker, so that the first query need not wait for it. Optional."""
        await self._sweep()
        self._keep_spare()

    async def close(self) -> None:
        """End all workers. Queries that run end with `shutting_down`."""
        self._closed = True
        if self._spare_timer is not None:
            self._spare_timer.cancel()
        self._drop_spare()
        while self._starting or self._background:
            await asyncio.wait({*self._starting, *self._background})

    async def query(self, sql: str, params: list[Any] | dict[str, Any] | None, fmt: str, limit: int) -> AuditAnswer:
        """Answer at most `limit` (and `max_rows`) rows of one SELECT in `fmt` (`json`, `csv`, `arrow`, `parquet`).

        For json, `body` is the whole document and `rows` are its rows, each still encoded (`msgspec.Raw`). Cancelling
        the awaiting task kills the worker.

        Raises:
            ApplianceError: `bad_query`, `bad_request`, `query_timeout`, `query_memory`, `overloaded`, `disk_full`,
                `shutting_down`, `internal`.
        """
        started_s = time.monotonic()
        outcome, rows = "cancelled", 0
        try:
            answer, rows = await self._query(sql, params, fmt, limit)
            outcome = "ok"
        except ApplianceError as error:
            outcome = error.code if error.code in self._counts else "other"
            if outcome in _LOUD:
                seconds = round(time.monotonic() - started_s, 3)
                self._log.warning("audit.query_failed", outcome=error.code, seconds=seconds, detail=error.detail)
            raise
        finally:
            seconds = time.monotonic() - started_s
            self._counts[outcome].inc()
            self._seconds.observe(seconds)
            self._log.info(
                "audit.query", sql=sql[:_SQL_LOGGED_CHARS], outcome=outcome, rows=rows, seconds=round(seconds, 3)
            )
        return answer

    async def _sweep(self) -> None:
        """Remove, once and before any worker of ours spills, what workers of an earlier process left behind."""
        async with self._sweeping:
            if not self._swept:
                await asyncio.to_thread(_remove_spill, self._directory)
                self._swept = True

    async def _query(self, sql: str, params: list[Any] | dict[str, Any] | None, fmt: str, limit: int) -> _Outcome:
        if len(sql) > SQL_BYTES_MAX or "\x00" in sql:
            raise ApplianceError("bad_query", f"SQL has at most {SQL_BYTES_MAX} characters and no NUL.")
        if fmt not in MEDIA_TYPES:
            raise ApplianceError("bad_request", f"format is one of {', '.join(MEDIA_TYPES)}.")
        if self._slots.locked() and self._waiting >= WAITING_MAX:
            raise ApplianceError("overloaded", f"{WAITING_MAX} audit queries wait already; ask again later.")
        self._waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self._waiting -= 1
        try:
            if self._closed:
                raise ApplianceError("shutting_down", "The node is stopping; ask another one.")
            return await self._in_time(sql, params, fmt, min(limit, self._settings.max_rows))
        finally:
            self._slots.release()

    async def _in_time(self, sql: str, params: list[Any] | dict[str, Any] | None, fmt: str, limit: int) -> _Outcome:
        phases: list[str] = []
        limit_s = self._settings.query_timeout
        try:
            async with asyncio.timeout(limit_s) as timer:
                await self._sweep()
                path = await self._settle()
                task = Task(
                    ledger_path=os.fspath(path.resolve()),
                    audit_dir=os.fspath(self._directory),
                    sql=sql,
                    params=params,
                    format=fmt,
                    limit=limit,
                    memory_bytes=self._settings.query_memory,
                    answer_bytes_max=ANSWER_BYTES_MAX,
                    verified=self._verified,
                )
                return await self._on_worker(task, phases)
        except TimeoutError as error:
            if not timer.expired():
                raise
            if "running" in phases:
                detail = f"It was ended after {limit_s} s; ask for less, or raise [audit] query_timeout."
            else:
                detail = (
                    f"After {limit_s} s the audit tables were still being prepared; what is done is kept, ask again."
                )
            raise ApplianceError("query_timeout", detail) from error

    async def _on_worker(self, task: Task, phases: list[str]) -> _Outcome:
        worker = await self._take_worker()
        try:
            data = msgspec.json.encode(task)
            worker.stdin.write(len(data).to_bytes(LENGTH_BYTES, "big") + data)
            await worker.stdin.drain()
            while True:
                reply = await worker.receive()
                if isinstance(reply, Progress):
                    phases.append(reply.phase)
                    self._note(reply)
                elif isinstance(reply, Failed):
                    raise ApplianceError(reply.code if reply.code in ERRORS else "internal", reply.detail)
                elif isinstance(reply, Done):
                    body = await worker.stdout.readexactly(reply.body_bytes)
                    self._verified = reply.verified
                    rows: list[Any] = list(_decode_rows(body).rows) if task.format == "json" else []
                    answer = AuditAnswer(reply.columns, rows, reply.truncated, MEDIA_TYPES[task.format], body)
                    return answer, reply.row_count
        except (EOFError, asyncio.IncompleteReadError, ConnectionError) as error:
            raise await self._crashed(worker) from error
        finally:
            worker.kill()
            self._later(self._reap(worker))
            self._keep_spare()

    def _note(self, progress: Progress) -> None:
        if progress.phase == "sealed":
            self._log.info("audit.sealed", segment=progress.segment, rows=progress.rows, size_bytes=progress.size_bytes)
        elif progress.phase == "rebuilt":
            self._log.warning("audit.segment_rebuilt", segment=progress.segment)

    async def _crashed(self, worker: _Worker) -> ApplianceError:
        """A worker that dies without a word was ended by its own bound on memory, by the system's, or by `close`."""
        exit_code = await worker.process.wait()
        if self._closed:
            return ApplianceError("shutting_down", "The node is stopping; ask another one.")
        self._log.warning("audit.worker_failed", exit_code=exit_code, detail="it ended without an answer")
        return ApplianceError(
            "query_memory",
            f"The worker ended with {exit_code}, most likely for want of memory. Ask for less at a time,"
            " or raise [audit] query_memory.",
        )

    async def _take_worker(self) -> _Worker:
        """The spare, or a new one when the spare died while it waited."""
        for _ in range(2):
            starting, self._spare = self._spare or self._start_worker(), None
            try:
                worker = await asyncio.shield(starting)
            except asyncio.CancelledError:
                self._abandon(starting)
                raise
            except (OSError, EOFError, TimeoutError) as error:
                raise ApplianceError("internal", f"An audit worker cannot be started: {error}") from error
            if worker.process.returncode is None and not worker.stdout.at_eof():
                return worker
            worker.kill()
            self._later(self._reap(worker))
        raise ApplianceError("internal", "Audit workers end as soon as they are started.")

    def _start_worker(self) -> asyncio.Task[_Worker]:
        """Start a worker in a task of its own, so that a cancelled query cannot lose the process half-way."""
        starting = asyncio.create_task(self._spawn())
        self._starting.add(starting)
        starting.add_done_callback(self._started)
        return starting

    def _started(self, starting: asyncio.Task[_Worker]) -> None:
        self._starting.discard(starting)
        if not starting.cancelled():
            starting.exception()  # whoever takes the worker meets it; a spare's is not worth a warning

    async def _spawn(self) -> _Worker:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",  # neither the environment nor the working directory say what is imported
            "-m",
            "appliance.adapters.audit.worker",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env={"PATH": os.defpath, "LANG": "C.UTF-8"},  # no secrets
            start_new_session=True,  # Ctrl-C in a terminal is the node's to handle
        )
        worker = _Worker(process)
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                if not isinstance(await worker.receive(), Ready):
                    raise EOFError("the audit worker did not say that it is ready")
        except BaseException:
            worker.kill()
            self._later(self._reap(worker))
            raise
        return worker

    def _keep_spare(self) -> None:
        """Have one worker wait for the next query, for a while."""
        if self._closed:
            return
        if self._spare is None:
            self._spare = self._start_worker()
        if self._spare_timer is not None:
            self._spare_timer.cancel()
        self._spare_timer = asyncio.get_running_loop().call_later(SPARE_IDLE_S, self._drop_spare)

    def _drop_spare(self) -> None:
        spare, self._spare = self._spare, None
        if spare is not None:
            self._abandon(spare)

    def _abandon(self, starting: asyncio.Task[_Worker]) -> None:
        """End a worker that nobody will use, as soon as it has started."""
        if starting.done():
            self._discard(starting)
        else:
            starting.add_done_callback(self._discard)

    def _discard(self, starting: asyncio.Task[_Worker]) -> None:
        if starting.cancelled() or starting.exception() is not None:
            return
        starting.result().kill()
        self._later(self._reap(starting.result()))

    async def _reap(self, worker: _Worker) -> None:
        """Wait for a killed worker's end and remove what it spilled."""
        while await worker.stdout.read(_DRAIN_BYTES):  # the pipe is released at its end only
            pass
        await worker.process.wait()
        spill = self._directory / f"spill-{worker.process.pid}"
        await asyncio.to_thread(shutil.rmtree, spill, ignore_errors=True)

    def _later(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)


def _remove_spill(directory: Path) -> None:
    for leftover in directory.glob("spill-*"):
        shutil.rmtree(leftover, ignore_errors=True)
