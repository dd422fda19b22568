"""A snapshot's way from one node to another, on a connection of its own.

    sender                             receiver
    OFFER   meta, size, digest    ->
                                  <-   RESUME  offset     (what it has of a file with this digest)
    CHUNK   offset, checksum      ->
    ...
    END     digest                ->
                                  <-   DONE               (digest checked, `on_snapshot` returned)

Either side may send REFUSE instead. The receiver keeps `<path>.part`, and beside it the digest of the file that it is a
part of, so that a cut costs only what was under way, as long as the same file is offered again. Files are read and
written on worker threads.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from appliance.adapters.pace import Pace
from appliance.adapters.peer_auth import Refused
from appliance.adapters.peer_link import CLOSE_TIMEOUT_S, Link
from appliance.adapters.peer_protocol import (
    SNAPSHOT_CHUNK_BYTES,
    Chunk,
    Done,
    End,
    Kind,
    Offer,
    Payload,
    ProtocolError,
    Refuse,
    Resume,
    chunk_checksum,
    encode_frame,
)
from appliance.node.peer_ports import PeerEvents, SnapshotFile, SnapshotRefused
from appliance.raft.messages import SnapshotMeta
from appliance.tables.errors import ApplianceError

SNAPSHOT_FRAME_BYTES_MAX: Final = 4 * SNAPSHOT_CHUNK_BYTES
FRAMES_WAITING_MAX: Final = 16  # chunks in memory at the receiver before it lets the sender wait
SYNC_BYTES: Final = 2 * 1024 * 1024  # a sync of much more would hold up the log's small ones for as long

_T = TypeVar("_T")


class SnapshotError(OSError):
    """A snapshot could not be handed over; the message says why."""


class _Frames:
    """The frames of a snapshot's link as a coroutine reads them; a link handler."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._queue: asyncio.Queue[Payload | Exception] = asyncio.Queue()
        self._paused = False
        self._discards = False
        link.attach(self, SNAPSHOT_FRAME_BYTES_MAX)

    def on_frame(self, link: Link, kind: int, value: Payload) -> None:
        """Queue it, and let the peer wait when it is ahead of us."""
        if self._discards:
            return
        self._queue.put_nowait(value)
        if self._queue.qsize() >= FRAMES_WAITING_MAX and not self._paused:
            self._paused = True
            link.pause_reading()

    def on_violation(self, link: Link, error: ProtocolError) -> None:
        """The reader learns it behind the frames before it."""
        self._queue.put_nowait(Refused(error.reason, error.detail))

    def on_lost(self, link: Link) -> None:
        """The reader learns it behind the frames before it."""
        self._queue.put_nowait(ConnectionResetError("the link was lost"))

    @property
    def waiting(self) -> bool:
        """Whether `expect` would return at once."""
        return not self._queue.empty()

    async def refuse(self, error: Refused) -> None:
        """Tell the peer why, unless it was the one to refuse, and close.

        What it sends meanwhile is read and dropped: to close with unread bytes would reset the connection, and the
        reason would be lost with it.
        """
        if not error.by_peer:
            self._discards = True
            self._link.resume_reading()
            self._link.send(encode_frame(Kind.REFUSE, Refuse(error.reason, error.detail)), always=True)
            await asyncio.wait([self._link.closed], timeout=CLOSE_TIMEOUT_S)
        self._link.close()

    async def expect(self, *types: type[_T]) -> _T:
        """Wait for a value of one of these types; raises `Refused` or `ConnectionError`."""
        value = await self._queue.get()
        if self._paused and self._queue.empty():
            self._paused = False
            self._link.resume_reading()
        if isinstance(value, Exception):
            raise value
        if isinstance(value, Refuse):
            raise Refused(value.reason, value.detail, by_peer=True)
        if not isinstance(value, types):
            raise Refused("bad_frame", f"a {type(value).__name__} does not belong here")
        return value


async def send_snapshot(link: Link, file: SnapshotFile, on_resume: Callable[[int], None], bytes_per_s: int) -> None:
    """Hand a file over; returns when the receiver has taken it.

    Args:
        link: a connection whose handshake is over; closed at the end.
        file: what is sent.
        on_resume: told how many bytes of it the receiver has.
        bytes_per_s: pace; 0 sets none.

    Raises:
        SnapshotRefused: the receiver has all of it and does not take it.
        OSError: the file cannot be read, or the receiver refused before that, or was lost.
    """
    frames = _Frames(link)
    offset = 0
    try:
        link.send(encode_frame(Kind.OFFER, Offer(file.meta, file.size_bytes, file.sha256)), always=True)
        resume = await frames.expect(Resume)
        offset = resume.offset
        if not 0 <= offset <= file.size_bytes:
            raise SnapshotError(f"the receiver asked for offset {offset} of {file.size_bytes} bytes")
        on_resume(offset)
        offset = await _send_chunks(link, frames, file, offset, bytes_per_s)
        link.send(encode_frame(Kind.END, End(file.sha256)), always=True)
        await frames.expect(Done)
    except Refused as error:
        failure = SnapshotRefused if offset == file.size_bytes else SnapshotError
        raise failure(f"the snapshot was refused: {error}") from error
    finally:
        link.close()


async def _send_chunks(link: Link, frames: _Frames, file: SnapshotFile, offset: int, bytes_per_s: int) -> int:
    """Send chunks to the end, or until the receiver says something: that is read next, and can only be a refusal.
    Answers up to where they went.
    """
    loop = asyncio.get_running_loop()
    pace = Pace(bytes_per_s, loop.time())
    with await asyncio.to_thread(file.path.open, "rb") as opened:
        opened.seek(offset)
        while offset < file.size_bytes and not frames.waiting:
            data = await asyncio.to_thread(opened.read, min(SNAPSHOT_CHUNK_BYTES, file.size_bytes - offset))
            if not data:
                raise SnapshotError(f"{file.path} ended at {offset} of {file.size_bytes} bytes while it was sent")
            link.send(encode_frame(Kind.CHUNK, Chunk(offset, chunk_checksum(offset, data), data)), always=True)
            await link.drain()
            offset += len(data)
            await asyncio.sleep(pace.wait_s(len(data), loop.time()))
    return offset


class SnapshotReceiver:
    """Takes one snapshot at a time.

    Args:
        events: asked for the path, told when a file is complete.
    """

    def __init__(self, events: PeerEvents) -> None:
        self._events = events
        self._busy = False

    async def receive(self, link: Link) -> SnapshotMeta:
        """Carry out the receiver's side of one link, and close it; answers what was taken.

        Raises:
            Refused: by either side.
            OSError: the link was lost, or the file cannot be written.
        """
        frames = _Frames(link)
        try:
            if self._busy:
                raise Refused("busy", "another snapshot is being received")
            self._busy = True
            try:
                return await self._receive(link, frames)
            finally:
                self._busy = False
        except Refused as error:
            await frames.refuse(error)
            raise
        except ConnectionError:
            raise
        except Exception as error:  # a full disk, or a snapshot that the node does not accept
            detail = error.detail if isinstance(error, ApplianceError) else f"{type(error).__name__}: {error}"
            refused = Refused("not_installed", detail)
            await frames.refuse(refused)
            raise refused from error
        finally:
            link.close()

    async def _receive(self, link: Link, frames: _Frames) -> SnapshotMeta:
        offer = await frames.expect(Offer)
        path = self._events.snapshot_path()
        part = await asyncio.to_thread(_PartFile, path, offer)
        try:
            await self._events.on_offer(offer.size - part.offset)
            link.send(encode_frame(Kind.RESUME, Resume(part.offset)), always=True)
            await self._receive_chunks(frames, part, offer)
            if not await asyncio.to_thread(part.finish, offer.sha256):
                raise Refused("damaged_chunk", "the digest of the whole file does not match; it starts anew")
        finally:
            await asyncio.to_thread(part.close)
        await self._events.on_snapshot(offer.meta, path)
        link.send(encode_frame(Kind.DONE, Done()), always=True)
        return offer.meta

    async def _receive_chunks(self, frames: _Frames, part: _PartFile, offer: Offer) -> None:
        while True:
            value: Chunk | End = await frames.expect(Chunk, End)
            if isinstance(value, End):
                if part.offset != offer.size or value.sha256 != offer.sha256:
                    raise Refused("bad_frame", f"the file ended at {part.offset} of {offer.size} bytes")
                return
            if value.offset != part.offset or part.offset + len(value.data) > offer.size:
                raise Refused("bad_frame", f"a chunk for offset {value.offset} came at {part.offset}")
            if value.checksum != chunk_checksum(value.offset, value.data):
                raise Refused("damaged_chunk", f"the checksum of the chunk at {value.offset} does not match")
            await asyncio.to_thread(part.write, value.data)


class _PartFile:
    """The file that is being received, and the digest beside it; all methods block."""

    def __init__(self, path: Path, offer: Offer) -> None:
        self._path = path
        self._part = path.with_name(path.name + ".part")
        self._mark = path.with_name(path.name + ".part.sha256")
        wanted = offer.sha256.hex()
        known = self._mark.read_text() if self._mark.exists() else ""
        resumes = known == wanted and self._part.exists() and self._part.stat().st_size <= offer.size
        if not resumes:
            self._part.unlink(missing_ok=True)
            self._mark.write_text(wanted)
        self._file = self._part.open("ab")
        self.offset = self._file.tell()
        self._unsynced_bytes = 0

    def write(self, data: bytes) -> None:
        """Add a checked chunk."""
        self._file.write(data)
        self._file.flush()  # so that what was received counts even when this process dies
        self.offset += len(data)
        self._unsynced_bytes += len(data)
        if self._unsynced_bytes >= SYNC_BYTES:
            os.fdatasync(self._file.fileno())
            self._unsynced_bytes = 0

    def finish(self, sha256: bytes) -> bool:
        """Check the whole, sync it and give it its name; a file that does not match is dropped, and False answered."""
        self._file.flush()
        os.fsync(self._file.fileno())
        with self._part.open("rb") as whole:
            digest = hashlib.file_digest(whole, "sha256").digest()
        self._mark.unlink(missing_ok=True)
        if digest != sha256:
            self._part.unlink(missing_ok=True)
            return False
        os.replace(self._part, self._path)
        return True

    def close(self) -> None:
        """Close the file; what was received stays for the next time."""
        self._file.close()
