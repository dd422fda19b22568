"""Checks a received ledger file in a process of its own: `python -m appliance.adapters.ledger_checker FILE CLUSTER_ID`.

To read every leaf takes an interpreter for seconds, which the node's event loop needs for the log; apart, and with a
low priority, it takes what processor time is left. The process has no secrets in its environment, writes one answer to
standard output, and ends when its standard input does, so that it outlives neither the node nor the wish for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import sys
import threading
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from appliance.adapters.ledger_verify import verify_copy
from appliance.ledger.state import Summary
from appliance.node.ports import DamagedFile, StorageError, StorageFailed

NICENESS: Final = 10
ANSWER_BYTES_MAX: Final = 1024 * 1024
WORDS_BYTES_MAX: Final = 1024  # of what it says on standard error, from the end
_READ_BYTES: Final = 64 * 1024


class _Sound(Struct, frozen=True, tag="sound"):
    """What the file holds; see `verify_copy`."""

    summary: Summary
    meta: bytes


class _Damaged(Struct, frozen=True, tag="damaged"):
    """The fields of a `DamagedFile`."""

    path: str
    detail: str


class _Failed(Struct, frozen=True, tag="failed"):
    """The file could not be read."""

    reason: str


_ANSWER: Final = msgspec.msgpack.Decoder(_Sound | _Damaged | _Failed)


async def verify_apart(path: Path, cluster_id: str) -> tuple[Summary, bytes]:
    """`verify_copy` in a process of its own, which is killed when the caller is cancelled.

    Raises:
        DamagedFile: names the first bad leaf or key.
        StorageError: the file cannot be read, or the process did not come to an answer.
    """
    try:
        process = await _start(path, cluster_id)
    except OSError as error:
        raise StorageFailed(f"{path} cannot be checked, because no process can be started for it: {error}") from error
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        answer, words = await asyncio.gather(
            _end_of(process.stdout, ANSWER_BYTES_MAX), _end_of(process.stderr, WORDS_BYTES_MAX)
        )
        exit_code = await process.wait()
    finally:
        await _end(process)
    if exit_code != 0:
        said = words.decode(errors="replace").strip() or "nothing"
        raise StorageFailed(f"{path} was not checked to the end: the process ended with {exit_code} and said {said}")
    return _take(path, answer)


def _take(path: Path, answer: bytes) -> tuple[Summary, bytes]:
    try:
        found = _ANSWER.decode(answer)
    except msgspec.MsgspecError as error:
        raise StorageFailed(f"{path} was not checked: the process gave no answer that can be read") from error
    if isinstance(found, _Damaged):
        raise DamagedFile(found.path, found.detail)
    if isinstance(found, _Failed):
        raise StorageFailed(found.reason)
    return found.summary, found.meta


async def _start(path: Path, cluster_id: str) -> asyncio.subprocess.Process:
    """Start the process; a caller that is cancelled meanwhile does not lose it half-way."""
    starting = asyncio.create_task(
        asyncio.create_subprocess_exec(
            sys.executable,
            "-I",  # neither the environment nor the working directory say what is imported
            "-m",
            "appliance.adapters.ledger_checker",
            os.fspath(path),
            cluster_id,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={"PATH": os.defpath, "LANG": "C.UTF-8"},  # no secrets
            start_new_session=True,  # Ctrl-C in a terminal is the node's to handle
        )
    )
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        await _end(await starting)
        raise


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill the process, unless it has ended, and wait for its end."""
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.wait()
    assert process.stdin is not None
    process.stdin.close()


async def _end_of(stream: asyncio.StreamReader, bytes_max: int) -> bytes:
    """Read a stream to its end; answers the last bytes of it."""
    kept = b""
    while data := await stream.read(_READ_BYTES):
        kept = (kept + data)[-bytes_max:]
    return kept


def main() -> None:
    """Check the file that the arguments name, and answer."""
    os.nice(NICENESS)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a dump would hold the ledger's values
    threading.Thread(target=_end_with_node, daemon=True).start()
    path, cluster_id = sys.argv[1:]
    try:
        answer: _Sound | _Damaged | _Failed = _Sound(*verify_copy(Path(path), cluster_id))
    except DamagedFile as error:
        answer = _Damaged(error.path, error.detail)
    except StorageError as error:
        answer = _Failed(str(error))
    sys.stdout.buffer.write(msgspec.msgpack.encode(answer))
    sys.stdout.buffer.flush()


def _end_with_node() -> None:
    """End at once when the node closes our standard input or dies."""
    os.read(0, 1)
    os._exit(3)


if __name__ == "__main__":
    main()
