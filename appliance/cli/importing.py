"""`appliance kv import`: many records, each written once, whatever happens to the nodes meanwhile.

Every request carries an idempotency key made of the import id and its line range. So a request can be sent again
after any failure, and a whole import can be repeated with its id, and nothing is applied twice.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final

import msgspec

from appliance.cli.client import AsyncClient
from appliance.cli.exits import CliError, Exit
from appliance.cli.import_source import BadLine, Batch, Record, read_batches
from appliance.cli.kv import replayed, value_fields
from appliance.cli.output import emit, say
from appliance.cli.paths import key_path
from appliance.cli.progress import Progress
from appliance.cli.session import Session
from appliance.cli.shapes import Imported, LineError

ERRORS_LISTED_MAX: Final = 100
ERRORS_PRINTED_MAX: Final = 20
IMPORT_ID_CHARS_MAX: Final = 64
ANSWER_TIMEOUT_S: Final = 10.0  # twice a node's write time-out: whoever is silent for longer is asked elsewhere
GRACE_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class ImportPlan:
    """What to import and how; the options of `kv import`."""

    source: str
    prefix: str
    concurrency: int
    batch_records: int
    deadline_s: float
    import_id: str
    acknowledged: Path | None


@dataclass(slots=True)
class Tally:
    """What has become of the lines so far."""

    acknowledged: int = 0
    replayed: int = 0
    failed: int = 0
    unknown: int = 0
    skipped: int = 0
    offset: int = 0
    complete: bool = False
    errors: list[LineError] = field(default_factory=list)


def run_import(session: Session, plan: ImportPlan) -> None:
    """Import, show progress, answer with `Imported`. Raises `CliError` unless every line was written."""
    importer = Importer(session, plan)
    began_s = time.monotonic()
    stopped: BaseException | None = None
    with ExitStack() as stack:
        source, total = _open_source(plan.source, stack)
        sink = stack.enter_context(plan.acknowledged.open("wb")) if plan.acknowledged else None
        progress = stack.enter_context(Progress("importing", total))
        try:
            asyncio.run(importer.run(source, sink, progress))
        except (CliError, KeyboardInterrupt) as error:
            stopped = error
    tally = importer.tally
    result = Imported(
        import_id=importer.import_id,
        acknowledged=tally.acknowledged,
        replayed=tally.replayed,
        failed=tally.failed,
        unknown=tally.unknown,
        skipped=tally.skipped,
        complete=tally.complete,
        seconds=round(time.monotonic() - began_s, 3),
        errors=tally.errors[:ERRORS_LISTED_MAX],
        errors_truncated=tally.failed + tally.unknown > ERRORS_LISTED_MAX,
    )
    rate = f"{result.acknowledged / max(result.seconds, 1e-3):,.0f}/s"
    emit(
        session,
        result,
        columns=("import id", "acknowledged", "of them replayed", "failed", "unknown", "seconds", "rate"),
        table=[
            (
                result.import_id,
                result.acknowledged,
                result.replayed,
                result.failed,
                result.unknown,
                result.seconds,
                rate,
            )
        ],
    )
    _conclude(result, stopped, plan)


class Importer:
    """One import on its way."""

    def __init__(self, session: Session, plan: ImportPlan) -> None:
        self._session = session
        self._plan = plan
        self.import_id = _import_id(plan)
        self.tally = Tally()
        self._trouble = ""

    async def run(self, source: BinaryIO, sink: BinaryIO | None, progress: Progress) -> None:
        """Send all batches. Raises the `CliError` that stopped it, after the batches on their way have ended."""
        batches = read_batches(source, prefix=self._plan.prefix, records_max=self._plan.batch_records)
        async with self._session.async_client(
            timeout_s=self._plan.deadline_s,
            answer_timeout_s=ANSWER_TIMEOUT_S,
            refused_rounds_max=None,
            on_trouble=self._note_trouble,
        ) as client:
            await self._run(client, batches, sink, progress)

    async def _run(
        self, client: AsyncClient, batches: Iterator[Batch], sink: BinaryIO | None, progress: Progress
    ) -> None:
        running: dict[asyncio.Task[None], frozenset[str]] = {}
        ticker = asyncio.create_task(self._tick(progress))
        try:
            # The thread reads and parses while this loop waits for answers; a pipe may be slow
            while (batch := await asyncio.to_thread(next, batches, None)) is not None:
                self._count_bad(batch)
                keys = frozenset(record.key for record in batch.records)
                while len(running) >= self._plan.concurrency or any(
                    not keys.isdisjoint(held) for held in running.values()
                ):
                    await self._reap(running)
                if keys:
                    running[asyncio.create_task(self._send(client, batch, sink))] = keys
            while running:
                await self._reap(running)
            self.tally.complete = True
        finally:
            await self._wind_up(running)
            ticker.cancel()
            self._show(progress)

    async def _reap(self, running: dict[asyncio.Task[None], frozenset[str]]) -> None:
        done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            del running[task]
            task.result()

    async def _wind_up(self, running: Iterable[asyncio.Task[None]]) -> None:
        """Let what is on its way end by itself for a moment, then cut it off: those lines count as unknown."""
        tasks = list(running)
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=GRACE_S)
        for task in late:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _send(self, client: AsyncClient, batch: Batch, sink: BinaryIO | None) -> None:
        if len(batch.records) == 1:
            await self._send_one(client, batch.records[0], sink)
            return
        operations = [{"op": "put", "key": record.key, **value_fields(record.value)} for record in batch.records]
        try:
            answer = await client.request(
                "POST",
                "/batch",
                content=msgspec.json.encode({"operations": operations}),
                idempotency_key=f"import:{self.import_id}:{batch.first}-{batch.last}",
            )
        except CliError as error:
            if error.exit_code is not Exit.USAGE:
                self._settle(batch.records, error)
                return
        except asyncio.CancelledError:
            self._count(
                batch.records, "outcome_unknown", "the import was stopped while this was on its way", known=False
            )
            raise
        else:
            body = answer.json()
            self._acknowledge(batch.records, body["results"], sink, again=replayed(answer, body))
            return
        # A batch is refused as a whole and leaves nothing: line by line, the good ones get through
        for record in batch.records:
            await self._send_one(client, record, sink)

    async def _send_one(self, client: AsyncClient, record: Record, sink: BinaryIO | None) -> None:
        try:
            answer = await client.request(
                "PUT",
                key_path("/kv", record.key),
                content=record.value,
                idempotency_key=f"import:{self.import_id}:{record.line}",
            )
        except CliError as error:
            self._settle([record], error)
            return
        except asyncio.CancelledError:
            self._count([record], "outcome_unknown", "the import was stopped while this was on its way", known=False)
            raise
        body = answer.json()
        self._acknowledge([record], [body], sink, again=replayed(answer, body))

    def _settle(self, records: list[Record], error: CliError) -> None:
        """Count a failure; raises it again unless it is about these records alone."""
        known = error.exit_code is not Exit.OUTCOME_UNKNOWN
        self._count(records, error.code, error.message, known=known)
        if error.exit_code not in (Exit.USAGE, Exit.CONFLICT):
            raise error

    def _acknowledge(
        self, records: list[Record], results: list[dict[str, Any]], sink: BinaryIO | None, *, again: bool
    ) -> None:
        self.tally.acknowledged += len(records)
        self.tally.replayed += len(records) if again else 0
        self._trouble = ""
        if sink is not None:
            for record, result in zip(records, results, strict=True):
                row = {
                    "line": record.line,
                    "key": record.key,
                    "version": result["version"],
                    "leaf_index": result["leaf_index"],
                }
                sink.write(msgspec.json.encode(row) + b"\n")
            sink.flush()

    def _count_bad(self, batch: Batch) -> None:
        self.tally.offset = batch.offset
        self.tally.skipped += batch.skipped
        for bad in batch.bad:
            self._note_error(bad)
        self.tally.failed += len(batch.bad)

    def _count(self, records: list[Record], code: str, detail: str, *, known: bool) -> None:
        for record in records:
            self._note_error(BadLine(record.line, record.key, code, detail))
        if known:
            self.tally.failed += len(records)
        else:
            self.tally.unknown += len(records)

    def _note_error(self, bad: BadLine) -> None:
        if len(self.tally.errors) < ERRORS_LISTED_MAX:
            self.tally.errors.append(LineError(line=bad.line, key=bad.key, code=bad.code, detail=bad.detail))
        listed = len(self.tally.errors)
        if listed <= ERRORS_PRINTED_MAX and not self._session.as_json:
            key = f" ({bad.key})" if bad.key else ""
            say(f"line {bad.line}{key}: {bad.code}: {bad.detail}")
            if listed == ERRORS_PRINTED_MAX:
                say("further lines that fail are counted, not printed; --output json lists 100")

    def _note_trouble(self, error: CliError) -> None:
        self._trouble = f"waiting: {error.code}"

    async def _tick(self, progress: Progress) -> None:
        while True:
            self._show(progress)
            await asyncio.sleep(0.2)

    def _show(self, progress: Progress) -> None:
        tally = self.tally
        progress.update(
            done=tally.offset, records=tally.acknowledged, failed=tally.failed + tally.unknown, note=self._trouble
        )


def _conclude(result: Imported, stopped: BaseException | None, plan: ImportPlan) -> None:
    again = f"`appliance kv import {plan.source} --import-id {result.import_id} --batch {plan.batch_records}"
    again += f" --prefix {plan.prefix}`" if plan.prefix else "`"
    resume = f"{again} goes on where this stopped, and writes nothing twice"
    if isinstance(stopped, KeyboardInterrupt):
        raise CliError(Exit.INTERRUPTED, "interrupted", hint=resume, code="interrupted", retryable=True)
    if isinstance(stopped, CliError):
        code = Exit.OUTCOME_UNKNOWN if result.unknown else stopped.exit_code
        hint = resume if stopped.retryable or result.unknown else stopped.hint
        raise CliError(
            code,
            f"the import stopped: {stopped.message}",
            hint=hint,
            code=stopped.code,
            retryable=stopped.retryable,
            status=stopped.status,
        )
    if result.failed:
        raise CliError(
            Exit.PARTIAL,
            f"{result.failed:,} of the lines could not be written",
            hint="correct those lines and import them alone",
            code="partial",
        )


def _import_id(plan: ImportPlan) -> str:
    given = plan.import_id
    if given:
        if len(given) > IMPORT_ID_CHARS_MAX or not (given.isascii() and given.isprintable() and " " not in given):
            raise CliError(
                Exit.USAGE,
                f"an import id has 1 to {IMPORT_ID_CHARS_MAX} visible ASCII characters",
                hint="use the one that the stopped import printed",
                code="usage",
            )
        return given
    try:
        stat = Path(plan.source).stat()
        identity = f"{stat.st_dev}:{stat.st_ino}:{stat.st_size}:{stat.st_mtime_ns}"
    except OSError:
        identity = plan.source
    return hashlib.sha256(f"{identity}:{secrets.token_hex(16)}".encode()).hexdigest()[:16]


def _open_source(name: str, stack: ExitStack) -> tuple[BinaryIO, int | None]:
    if name == "-":
        return sys.stdin.buffer, None
    path = Path(name)
    try:
        source = stack.enter_context(path.open("rb"))
    except FileNotFoundError:
        raise CliError(
            Exit.NOT_FOUND, f"{name}: there is no such file", hint="check the path", code="not_found"
        ) from None
    return source, path.stat().st_size or None
