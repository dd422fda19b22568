"""`appliance kv export`: current keys and values as NDJSON, read page by page."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, BinaryIO, Final

import msgspec

from appliance.cli.client import AsyncClient
from appliance.cli.exits import CliError, Exit
from appliance.cli.failover import Answer
from appliance.cli.kv import value_fields, version_of
from appliance.cli.output import emit, size_text
from appliance.cli.paths import key_path
from appliance.cli.progress import Progress
from appliance.cli.session import Session
from appliance.cli.shapes import Exported

PAGE_ITEMS: Final = 1000
DEADLINE_S: Final = 120.0


def run_export(session: Session, file: str, *, prefix: str, concurrency: int, force: bool) -> None:
    """Write keys and values to a file (whole or not at all) or to standard output."""
    if file == "-":
        asyncio.run(_export(session, sys.stdout.buffer, prefix, concurrency))
        sys.stdout.buffer.flush()
        return
    path = Path(file)
    if path.exists() and not force:
        raise CliError(Exit.CONFLICT, f"{file} is there already", hint="give another name, or --force", code="conflict")
    part = path.with_name(f".{path.name}.part")
    began_s = time.monotonic()
    try:
        with part.open("wb") as sink:
            records = asyncio.run(_export(session, sink, prefix, concurrency))
            size_bytes = sink.tell()
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    result = Exported(file=file, records=records, bytes=size_bytes, seconds=round(time.monotonic() - began_s, 3))
    emit(
        session,
        result,
        columns=("file", "records", "size", "seconds"),
        table=[(file, records, size_text(size_bytes), result.seconds)],
    )


async def _export(session: Session, sink: BinaryIO, prefix: str, concurrency: int) -> int:
    records = 0
    waiting: deque[asyncio.Task[bytes | None]] = deque()
    with Progress("exporting", None) as progress:
        async with session.async_client(timeout_s=DEADLINE_S) as client:
            try:
                async for key, version in _keys(client, prefix):
                    waiting.append(asyncio.create_task(_record(client, key, version)))
                    if len(waiting) >= concurrency:
                        records += _write(sink, await waiting.popleft())
                        progress.update(done=records, records=records)
                while waiting:
                    records += _write(sink, await waiting.popleft())
            finally:
                for task in waiting:
                    task.cancel()
                await asyncio.gather(*waiting, return_exceptions=True)
        progress.update(done=records, records=records)
    return records


async def _keys(client: AsyncClient, prefix: str) -> AsyncIterator[tuple[str, int]]:
    """Keys and their versions, by linearizable pages."""
    after: str | None = ""
    while after is not None:
        params: dict[str, str | int] = {"limit": PAGE_ITEMS}
        if prefix:
            params["prefix"] = prefix
        if after:
            params["after"] = after
        page: dict[str, Any] = (await client.request("GET", "/kv", params=params)).json()
        for item in page["items"]:
            yield item["key"], int(item["version"])
        after = page["next"]


async def _record(client: AsyncClient, key: str, version: int) -> bytes | None:
    """One line, or None when the key was deleted since it was listed.

    Whatever the asked node has is good enough when it is no older than the list; else a majority is asked.
    """
    path = key_path("/kv", key)
    try:
        answer = await client.request("GET", path, params={"consistency": "stale"})
        if version_of(answer) >= version:
            return _line(key, answer)
    except CliError as error:
        if error.exit_code is not Exit.NOT_FOUND:
            raise
    try:
        return _line(key, await client.request("GET", path))
    except CliError as error:
        if error.exit_code is not Exit.NOT_FOUND:
            raise
        return None


def _line(key: str, answer: Answer) -> bytes:
    return msgspec.json.encode({"key": key, **value_fields(answer.body)}) + b"\n"


def _write(sink: BinaryIO, line: bytes | None) -> int:
    if line is None:
        return 0
    sink.write(line)
    return 1
