"""Snapshots over real sockets: whole, cut and resumed, damaged, refused."""

from __future__ import annotations

import asyncio
import hashlib
import random
from pathlib import Path

import pytest
from peer_harness import META, Node, Proxy, World, heartbeat, offered, until

from appliance.adapters.peer_protocol import SNAPSHOT_CHUNK_BYTES
from appliance.node.peer_ports import SnapshotRefused
from appliance.node.ports import DiskFull
from appliance.tables.errors import ApplianceError

pytestmark = pytest.mark.anyio

MIB = 1024 * 1024


def content(directory: Path, size: int) -> Path:
    path = directory / "snapshot.db"
    path.write_bytes(random.Random(size).randbytes(size))
    return path


async def send(sender: Node, path: Path, *, to: int = 1) -> int:
    """Send a file; answers from which offset on."""
    offsets: list[int] = []
    await sender.network.send_snapshot(to, offered(path), offsets.append)
    (offset,) = offsets
    return offset


async def through_a_proxy(nodes: World) -> tuple[Node, Node, Proxy]:
    """A receiver, a sender that reaches it through a proxy, and the proxy."""
    receiver = await nodes.node(1).start()
    proxy = await nodes.proxy(receiver.raft_address)
    sender = await nodes.node(2).start(proxy.address)
    await until(lambda: sender.links_to(1))
    assert sender.network._peers[1].address == proxy.address
    return receiver, sender, proxy


def failed(node: Node) -> int:
    return len(node.log.of("snapshot.receive_failed"))


@pytest.mark.parametrize("auth", ["secret", "tls"])
@pytest.mark.parametrize("size", [0, 1, SNAPSHOT_CHUNK_BYTES, 20 * MIB + 17], ids=["empty", "byte", "chunk", "20 MiB"])
async def test_whole(nodes: World, auth: str, size: int) -> None:
    receiver, sender = await nodes.pair(auth)
    path = content(nodes.directory, size)
    await send(sender, path)
    assert receiver.snapshots == [(META, path.read_bytes())]
    assert sorted(p.name for p in receiver.directory.glob("received*")) == ["received.db"]
    await until(lambda: receiver.log.of("snapshot.received") == [{"peer": 2, "index": META.index}])


async def test_cut_in_the_middle_and_resumed(nodes: World) -> None:
    receiver, sender, proxy = await through_a_proxy(nodes)
    path = content(nodes.directory, 20 * MIB)
    proxy.cut_after = 11 * MIB
    with pytest.raises(OSError, match="link was lost"):
        await send(sender, path)
    await until(lambda: failed(receiver) == 1)
    part = receiver.directory / "received.db.part"
    stood_at = part.stat().st_size
    assert 5 * MIB < stood_at < 11 * MIB
    assert path.read_bytes().startswith(part.read_bytes())
    proxy.cut_after = 20 * MIB - stood_at + MIB  # enough for the rest, not for the whole
    assert await send(sender, path) == stood_at
    assert receiver.offers == [20 * MIB, 20 * MIB - stood_at]
    assert receiver.snapshots == [(META, path.read_bytes())]
    assert not part.exists()


async def test_resumes_after_the_receiver_was_started_anew(nodes: World) -> None:
    receiver, sender, proxy = await through_a_proxy(nodes)
    path = content(nodes.directory, 4 * MIB)
    proxy.cut_after = 2 * MIB
    with pytest.raises(OSError, match="link was lost"):
        await send(sender, path)
    port = receiver.network.port
    await until(lambda: failed(receiver) == 1)  # everything that came is written
    await receiver.network.close()
    assert (receiver.directory / "received.db.part").stat().st_size > MIB
    fresh = await nodes.again(receiver, port).start()
    await until(lambda: sender.links_to(1))
    proxy.cut_after = 3 * MIB
    await send(sender, path)
    assert fresh.snapshots == [(META, path.read_bytes())]


async def test_another_file_starts_anew(nodes: World) -> None:
    receiver, sender, proxy = await through_a_proxy(nodes)
    path = content(nodes.directory, 4 * MIB)
    proxy.cut_after = 2 * MIB
    with pytest.raises(OSError, match="link was lost"):
        await send(sender, path)
    await until(lambda: failed(receiver) == 1)
    proxy.cut_after = None
    other = content(nodes.directory, 3 * MIB)
    assert await send(sender, other) == 0
    assert receiver.snapshots == [(META, other.read_bytes())]


async def test_damaged_chunk(nodes: World) -> None:
    receiver, sender, proxy = await through_a_proxy(nodes)
    path = nodes.directory / "snapshot.db"
    path.write_bytes(b"a" * 2 * MIB + b"precious" + b"b" * 2 * MIB)
    proxy.change = lambda data: data.replace(b"precious", b"precioux")
    with pytest.raises(OSError, match="damaged_chunk: the checksum of the chunk at 2097152"):
        await send(sender, path)
    await until(lambda: receiver.metrics.refused() == {"damaged_chunk": 1})
    assert not receiver.snapshots
    assert (receiver.directory / "received.db.part").stat().st_size == 2 * MIB
    proxy.change = bytes
    await send(sender, path)
    assert receiver.snapshots == [(META, path.read_bytes())]


async def test_a_part_that_was_damaged_on_disk_is_dropped_at_the_end(nodes: World) -> None:
    receiver, sender = await nodes.pair()
    path = content(nodes.directory, MIB)
    (receiver.directory / "received.db.part").write_bytes(b"x" * 1000)
    (receiver.directory / "received.db.part.sha256").write_text(hashlib.sha256(path.read_bytes()).hexdigest())
    with pytest.raises(OSError, match="digest of the whole file does not match"):
        await send(sender, path)
    assert not receiver.snapshots
    await send(sender, path)
    assert receiver.snapshots == [(META, path.read_bytes())]


async def test_one_at_a_time(nodes: World) -> None:
    receiver, sender = await nodes.pair()
    path = content(nodes.directory, MIB)
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        arrived.set()
        await go_on.wait()

    receiver.snapshot = hold
    first = asyncio.ensure_future(send(sender, path))
    await arrived.wait()
    with pytest.raises(OSError, match="another snapshot is being received"):
        await send(sender, path)
    go_on.set()
    await first
    assert len(receiver.snapshots) == 1


REFUSALS = {
    "refused": (ApplianceError("verification_failed", "the root does not match"), "the root does not match"),
    "full disk": (OSError(28, "No space left on device"), "No space left on device"),
}


@pytest.mark.parametrize(("error", "text"), REFUSALS.values(), ids=REFUSALS)
async def test_a_receiver_that_does_not_take_it(nodes: World, error: Exception, text: str) -> None:
    receiver, sender = await nodes.pair()

    async def refuse() -> None:
        raise error

    receiver.snapshot = refuse
    with pytest.raises(SnapshotRefused, match=text):
        await send(sender, content(nodes.directory, 100))
    await until(lambda: failed(receiver) == 1)


async def test_an_offer_that_does_not_fit_is_refused_before_anything_is_sent(nodes: World) -> None:
    receiver, sender = await nodes.pair()
    receiver.offer_error = DiskFull("it needs more than there is")
    path = content(nodes.directory, 4 * MIB)
    with pytest.raises(OSError, match="it needs more than there is") as caught:
        await send(sender, path)
    assert not isinstance(caught.value, SnapshotRefused), "it may be taken the next time"
    assert (receiver.directory / "received.db.part").stat().st_size == 0
    receiver.offer_error = None
    assert await send(sender, path) == 0
    assert receiver.offers == [4 * MIB, 4 * MIB]


async def test_nobody_there_and_no_file(nodes: World) -> None:
    receiver, sender = await nodes.pair()
    with pytest.raises(OSError, match="is not host:port"):
        await send(sender, content(nodes.directory, 1), to=7)
    file = offered(content(nodes.directory, 1))
    file.path.unlink()
    with pytest.raises(FileNotFoundError):
        await sender.network.send_snapshot(1, file, lambda offset: None)
    await until(lambda: failed(receiver) == 1)


async def test_the_log_goes_on_beside_it(nodes: World) -> None:
    receiver, sender = await nodes.pair(snapshot_bytes_per_s=16 * MIB)
    path = content(nodes.directory, 4 * MIB)
    sending = asyncio.ensure_future(send(sender, path))
    await until((receiver.directory / "received.db.part").exists)
    sender.network.send(heartbeat(2, 1))
    await until(lambda: receiver.received)
    assert not sending.done()
    await sending
    assert len(receiver.snapshots) == 1
