"""The witness that ships with the program: what it answers to logs, and what it has kept before it does."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from appliance.adapters.ed25519 import SigningKey, verify
from appliance.adapters.witness_store import WitnessStore
from appliance.cli import witness_server
from appliance.cli.witness_server import WitnessDesk, WitnessServer
from appliance.ledger.checkpoint import Checkpoint, sign_checkpoint
from appliance.ledger.cosignature import CosignatureVerifier
from appliance.ledger.merkle import MerkleFrontier, consistency_proof, leaf_hash
from appliance.ledger.note import SignatureType, VerifierKeyError, format_note, format_verifier_key
from appliance.ledger.tiles import TileBuilder, TileNodes
from appliance.ledger.witnessing import REQUEST_BYTES_MAX, AddCheckpoint, format_request, parse_cosignatures
from appliance.node.ports import DiskFull, StorageFailed

pytestmark = pytest.mark.anyio

LOG = SigningKey("example.com/log", SignatureType.ED25519, bytes(range(32)))
OTHER = SigningKey("example.com/other", SignatureType.ED25519, bytes(range(1, 33)))
FORGER = SigningKey("example.com/log", SignatureType.ED25519, bytes(range(2, 34)))
WITNESS = SigningKey("w.example", SignatureType.COSIGNATURE_V1, bytes(32))
LEAVES = [f"leaf {n}".encode() for n in range(40)]
FORK = [*LEAVES[:5], b"another", *LEAVES[6:]]


class BrokenStore(WitnessStore):
    """A disk that fails as the test says, when what was kept is to be made durable."""

    error: Exception | None = None
    gate: threading.Event | None = None

    @contextmanager
    def submission(self) -> Iterator[None]:
        with super().submission():
            yield
            if self.gate is not None:
                assert self.gate.wait(10)
            if self.error is not None:
                raise self.error


class Rig:
    """A running witness, and what logs say to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.said: list[str] = []
        self.client = httpx.AsyncClient(timeout=10, trust_env=False)

    async def start(self) -> None:
        self.store = BrokenStore(self.path)
        desk = WitnessDesk(WITNESS, [LOG.verifier_key], self.store, self.said.append)
        self.server = WitnessServer(desk, "127.0.0.1", 0, self.said.append)
        await self.server.start()
        self.url = f"http://127.0.0.1:{self.server.port}"

    async def submit(self, body: bytes) -> httpx.Response:
        return await self.client.post(f"{self.url}/add-checkpoint", content=body)

    async def head(self) -> int:
        answer = await self.client.get(self.url)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
        (log,) = json.loads(answer.content)["logs"]
        assert log["origin"] == "example.com/log"
        return int(log["size"])


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(tmp_path / "witness.state")
    await rig.start()
    yield rig
    await rig.client.aclose()
    await rig.server.stop()


def submission(old_size: int, size: int, leaves: list[bytes] = LEAVES, key: SigningKey = LOG) -> bytes:
    builder = TileBuilder()
    store = {one.tile: one.data for leaf in leaves[:size] for one in builder.append(leaf_hash(leaf))}
    store |= {one.tile: one.data for one in builder.partial_tiles()}
    root = MerkleFrontier.from_frontier(builder.size, builder.frontier()).root()
    proof = consistency_proof(old_size, size, TileNodes(size, store.__getitem__)) if old_size <= size else []
    checkpoint = sign_checkpoint(Checkpoint(key.verifier_key.name, size, root), key.verifier_key, key.sign)
    return format_request(AddCheckpoint(old_size, tuple(proof), format_note(checkpoint)))


def text_of(body: bytes) -> str:
    """The text of a submission's checkpoint."""
    return body.decode().split("\n\n")[1] + "\n"


async def test_a_log_that_grows_is_cosigned(rig: Rig) -> None:
    for old_size, size in ((0, 3), (3, 40), (40, 40)):
        body = submission(old_size, size)
        answer = await rig.submit(body)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "text/plain; charset=utf-8")
        verifier = CosignatureVerifier(WITNESS.verifier_key, verify)
        assert len(parse_cosignatures(answer.content, text_of(body), [verifier])) == 1
        assert await rig.head() == size


@pytest.mark.parametrize(
    ("body", "status", "content_type"),
    [
        pytest.param(submission(0, 20), 409, "text/x.tlog.size", id="not from the last size"),
        pytest.param(submission(0, 2), 409, "text/x.tlog.size", id="a log that was set back"),
        pytest.param(submission(2, 2), 409, "text/x.tlog.size", id="set back, and sure of it"),
        pytest.param(submission(8, 8, FORK), 409, "text/plain; charset=utf-8", id="a fork of the same size"),
        pytest.param(submission(8, 20, FORK), 422, "text/plain; charset=utf-8", id="a fork that is larger"),
        pytest.param(submission(8, 3), 400, "text/plain; charset=utf-8", id="smaller than the old size"),
        pytest.param(b"hello", 400, "text/plain; charset=utf-8", id="nonsense"),
        pytest.param(submission(8, 9, key=FORGER), 403, "text/plain; charset=utf-8", id="signed by another key"),
        pytest.param(submission(0, 9, key=OTHER), 404, "text/plain; charset=utf-8", id="another log"),
        pytest.param(bytes(REQUEST_BYTES_MAX + 1), 413, "text/plain; charset=utf-8", id="too long"),
    ],
)
async def test_refusals(rig: Rig, body: bytes, status: int, content_type: str) -> None:
    assert (await rig.submit(submission(0, 8))).status_code == 200
    answer = await rig.submit(body)
    assert (answer.status_code, answer.headers["content-type"]) == (status, content_type)
    if content_type == "text/x.tlog.size":
        assert answer.content == b"8\n"
    assert await rig.head() == 8
    assert (await rig.submit(submission(8, 9))).status_code == 200, "it goes on"


async def test_a_fork_that_a_log_signed_is_kept(rig: Rig) -> None:
    await rig.submit(submission(0, 8))
    for leaves in (FORK, [*FORK[:7], b"a third"]):
        assert (await rig.submit(submission(8, 8, leaves))).status_code == 409
    (row,) = rig.store.rows()
    assert row.fork == submission(8, 8, FORK).partition(b"\n\n")[2]
    assert [line.split(" ")[0] for line in rig.said] == ["root_differs"] * 2
    assert (await rig.client.get(rig.url)).json()["logs"][0]["forked"] is True


async def test_other_paths_and_methods(rig: Rig) -> None:
    for method, path, status in (
        ("GET", "/add-checkpoint", 405),
        ("POST", "/", 405),
        ("HEAD", "/", 200),
        ("POST", "/add-checkpoint/", 404),
        ("GET", "/witness.state", 404),
    ):
        assert (await rig.client.request(method, rig.url + path)).status_code == status, (method, path)
    overview = (await rig.client.get(rig.url)).json()
    unseen = {"origin": "example.com/log", "size": 0, "root": None, "since_s": None, "forked": False}
    assert overview == {"verifier_key": format_verifier_key(WITNESS.verifier_key), "logs": [unseen]}


async def test_one_submission_at_a_time(rig: Rig) -> None:
    """Two histories at once from the same head: exactly one of them is cosigned."""
    assert (await rig.submit(submission(0, 4))).status_code == 200
    answers = await asyncio.gather(
        *(rig.submit(submission(4, size, leaves)) for size in (20, 30) for leaves in (LEAVES, FORK))
    )
    assert sorted(answer.status_code for answer in answers) == [200, 409, 409, 409]


async def test_the_answer_waits_for_the_disk(rig: Rig) -> None:
    rig.store.gate = threading.Event()
    asked = asyncio.create_task(rig.submit(submission(0, 4)))
    done, _ = await asyncio.wait({asked}, timeout=0.3)
    assert not done
    rig.store.gate.set()
    assert (await asked).status_code == 200


async def test_without_room_nothing_is_cosigned_and_it_goes_on(rig: Rig) -> None:
    rig.store.error = DiskFull("no room left")
    assert (await rig.submit(submission(0, 4))).status_code == 503
    rig.store.error = None
    assert await rig.head() == 0
    assert (await rig.submit(submission(0, 4))).status_code == 200
    assert not rig.server.failed.is_set()


async def test_a_disk_that_fails_ends_it(rig: Rig) -> None:
    rig.store.error = StorageFailed("the disk is gone")
    answer = await rig.submit(submission(0, 4))
    assert (answer.status_code, rig.server.failed.is_set()) == (500, True)
    assert rig.said == ["the disk is gone"]


async def test_a_restart_forgets_nothing(rig: Rig) -> None:
    assert (await rig.submit(submission(0, 8))).status_code == 200
    await rig.server.stop()
    await rig.start()
    assert (await rig.submit(submission(8, 20, FORK))).status_code == 422
    assert (await rig.submit(submission(8, 20))).status_code == 200


async def test_who_leaves_or_dawdles_holds_up_nobody(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(witness_server, "BODY_S", 0.2)
    head = b"POST /add-checkpoint HTTP/1.1\r\nHost: w\r\nContent-Length: 100\r\n\r\nold 0\n"
    _, left = await asyncio.open_connection("127.0.0.1", rig.server.port)
    left.write(head)
    await left.drain()
    left.close()
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.server.port)
    writer.write(head)
    assert (await asyncio.wait_for(reader.read(), 10)).startswith(b"HTTP/1.1 408 ")
    writer.close()
    assert (await rig.submit(submission(0, 4))).status_code == 200


async def test_only_keys_of_logs_are_taken_for_logs(tmp_path: Path) -> None:
    store = WitnessStore(tmp_path / "witness.state")
    with pytest.raises(VerifierKeyError):
        WitnessDesk(WITNESS, [WITNESS.verifier_key], store, print)
    store.close()
