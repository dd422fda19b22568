"""The leader's rounds with witnesses: real ones, over HTTP, as far as they can be made to do what is asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from driver_rig import LEADER, TERM, WAIT_S, Peers, Rig, put, until

from appliance.adapters.ed25519 import SigningKey
from appliance.adapters.ed25519 import verify as ed25519_verify
from appliance.adapters.telemetry.metrics import Registry
from appliance.adapters.witness_address import WitnessAddress
from appliance.adapters.witness_client import WitnessClient
from appliance.adapters.witness_store import WitnessStore
from appliance.cli.witness_server import WitnessDesk, WitnessServer
from appliance.ledger.checkpoint import Checkpoint, sign_checkpoint
from appliance.ledger.commands import Op, Operation, WriteRequest, encode_checkpoint, encode_cosignatures
from appliance.ledger.cosignature import CosignatureVerifier, cosign
from appliance.ledger.note import SignatureType, format_note, format_signature, open_note, parse_note
from appliance.ledger.witnessing import (
    SIZE_CONTENT_TYPE,
    TEXT_CONTENT_TYPE,
    AddCheckpoint,
    Answer,
    format_request,
    parse_request,
)
from appliance.node.leadership import Leadership
from appliance.node.peer_ports import Hello
from appliance.node.ports import Identity
from appliance.node.reading import Reading
from appliance.node.witness_ports import Witness, WitnessUnreachable
from appliance.node.witnessing import BACKOFF_S_MAX, RENEW_S, Witnessing
from appliance.raft.messages import Configuration, EntryKind, make_entry

pytestmark = pytest.mark.anyio

SECOND_US = 1_000_000
TIMEOUT_S = 5.0
KEYS = [SigningKey(f"w{n}.example", SignatureType.COSIGNATURE_V1, bytes([n]) * 32) for n in range(3)]
VERIFIERS = [CosignatureVerifier(key.verifier_key, ed25519_verify) for key in KEYS]


class Place:
    """A witness's process, as far as one can be had in this one, and the client of it; it keeps what it was sent."""

    def __init__(self, rig: Rig, path: Path, key: SigningKey) -> None:
        self._rig, self._path, self._key = rig, path, key
        self.port = 0
        self.bodies: list[bytes] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def start(self) -> None:
        """Start, at the port where it was before."""
        self.desk = WitnessDesk(self._key, [self._rig.log_key.verifier_key], WitnessStore(self._path), print)
        self._server = WitnessServer(self.desk, "127.0.0.1", self.port, print)
        await self._server.start()
        if not self.port:
            self.port = self._server.port
            self._client = WitnessClient(WitnessAddress(f"http://127.0.0.1:{self.port}", self._key.verifier_key))

    async def stop(self) -> None:
        """Be gone; the state stays."""
        await self._server.stop()

    @property
    def verifier(self) -> CosignatureVerifier:
        return self._client.verifier

    @property
    def old_sizes(self) -> list[int]:
        """What it was thought to know, for each submission."""
        return [parse_request(body).old_size for body in self.bodies]

    async def submit(self, body: bytes) -> Answer:
        self.bodies.append(body)
        await self.gate.wait()
        return await self._client.submit(body)

    async def close(self) -> None:
        await self._client.close()


class Scripted:
    """A witness that answers what the test says."""

    def __init__(self, reply: Callable[[AddCheckpoint], Answer]) -> None:
        self.verifier = VERIFIERS[2]
        self.reply = reply
        self.asked = 0

    async def submit(self, body: bytes) -> Answer:
        self.asked += 1
        return self.reply(parse_request(body))

    async def close(self) -> None: ...


@asynccontextmanager
async def places(rig: Rig, directory: Path, count: int) -> AsyncIterator[list[Place]]:
    made = [Place(rig, directory / f"w{n}.state", KEYS[n]) for n in range(count)]
    for one in made:
        await one.start()
    try:
        yield made
    finally:
        for one in made:
            one.gate.set()
            await one.close()
            await one.stop()


@pytest.fixture
async def pair(rig: Rig, tmp_path: Path) -> AsyncIterator[list[Place]]:
    """Two witnesses."""
    async with places(rig, tmp_path, 2) as made:
        yield made


class Rounds:
    """The rounds of a rig's node, and what comes of them."""

    def __init__(self, rig: Rig, witnesses: list[Witness], timeout_s: float = TIMEOUT_S) -> None:
        self.rig = rig
        self.registry = Registry(1)
        self.witnessing = Witnessing(
            rig.driver,
            publishing=rig.publishing,
            reading=Reading(rig.driver, Leadership(rig.driver), TIMEOUT_S),
            witnesses=witnesses,
            timeout_s=timeout_s,
            instruments=self.registry,
            log=rig.log,
        )

    async def round(self) -> None:
        await asyncio.wait_for(self.witnessing.round(), WAIT_S)

    def cosigned(self) -> tuple[int, list[str]]:
        """What every node would show: the size, and who has cosigned it; each signature is verified."""
        machine = self.rig.driver.applier.machine
        if not machine.cosignatures:
            return 0, []
        text = checkpoint_of(self.rig, machine.cosigned.tree_size, machine.cosigned.root)
        lines = "".join(line + "\n" for line in machine.cosignatures)
        opened = open_note(f"{text}\n{lines}".encode(), VERIFIERS)
        assert len(opened.verified) == len(opened.note.signatures)
        return machine.cosigned.tree_size, sorted(one.name for one in opened.verified)

    def metric(self, name: str, witness: int = 0, **labels: str) -> float:
        text = ",".join(f'{k}="{v}"' for k, v in sorted({**labels, "witness": KEYS[witness].verifier_key.name}.items()))
        lines = self.registry.render("text/plain")[0].decode().splitlines()
        found = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}
        return next(value for series, value in found.items() if _sorted_labels(series) == f"{name}{{{text}}}")

    def failures(self, reason: str, witness: int = 0) -> float:
        return self.metric("scribe_witness_failures_total", witness, reason=reason)


def _sorted_labels(series: str) -> str:
    name, _, labels = series.partition("{")
    return f"{name}{{{','.join(sorted(labels.removesuffix('}').split(',')))}}}"


def checkpoint_of(rig: Rig, size: int, root: bytes) -> str:
    key = rig.log_key
    return sign_checkpoint(Checkpoint(key.verifier_key.name, size, root), key.verifier_key, key.sign).text


async def grow(rig: Rig, key: str = "k") -> int:
    """One more leaf, published; answers the size."""
    await rig.service.write(WriteRequest((Operation(Op.PUT, key, b"v"),), "tester", "r"))
    rig.clock.ahead_us += 2 * SECOND_US
    rig.publishing.publish_if_due()
    machine = rig.driver.applier.machine
    await until(lambda: machine.published.tree_size == machine.tree_size, "the tree to be published")
    return machine.tree_size


def last_index(rig: Rig) -> int:
    core = rig.driver.core
    assert core is not None
    return core.state.log.last_index


async def test_both_cosign_and_one_entry_says_so(rig: Rig, peers: Peers, pair: list[Place]) -> None:
    rounds = Rounds(rig, [*pair])
    await rounds.round()
    assert not pair[0].bodies, "nothing is published"
    await grow(rig)
    before, leaves = last_index(rig), rig.driver.applier.machine.tree_size
    await rounds.round()
    assert rounds.cosigned() == (1, ["w0.example", "w1.example"])
    assert (last_index(rig), rig.driver.applier.machine.tree_size) == (before + 1, leaves)
    answer = await asyncio.wait_for(rig.service.checkpoint(), WAIT_S)
    assert len(open_note(answer.note, VERIFIERS).verified) == 2
    await rounds.round()
    assert last_index(rig) == before + 1, "there is nothing to do"
    assert rounds.metric("scribe_witness_cosigned_size", 1) == 1
    assert 0 <= rig.clock.now_us() / SECOND_US - rounds.metric("scribe_witness_cosigned_time_seconds", 1) < WAIT_S


async def test_what_a_witness_knows_is_remembered_and_else_asked(rig: Rig, peers: Peers, pair: list[Place]) -> None:
    rounds = Rounds(rig, [*pair])
    for size in (1, 2, 3):
        assert await grow(rig) == size
        await rounds.round()
        assert rounds.cosigned()[0] == size
    assert pair[0].old_sizes == [0, 1, 2]
    await grow(rig)
    next_leaders = Rounds(rig, [*pair])
    await next_leaders.round()
    assert pair[0].old_sizes[3:] == [0, 3], "it says 409 and the size"
    assert next_leaders.cosigned() == (4, ["w0.example", "w1.example"])


async def test_a_witness_that_is_down_holds_up_nobody(
    rig: Rig, peers: Peers, pair: list[Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.node.witnessing.BACKOFF_S_MIN", 5.0)
    rounds = Rounds(rig, [*pair])
    await grow(rig)
    await pair[1].stop()
    await rounds.round()
    assert rounds.cosigned() == (1, ["w0.example"])
    assert rounds.failures("unreachable", 1) == 1
    assert rig.log.events.count("witness.failed") == 1
    await grow(rig)
    await rounds.round()
    assert (len(pair[1].bodies), rounds.cosigned()) == (1, (2, ["w0.example"])), "it is left alone for a while"
    for doubled in range(12):
        rig.clock.ahead_s += min(BACKOFF_S_MAX, 5.0 * 2.0**doubled)
        await rounds.round()
        assert rounds.failures("unreachable", 1) == doubled + 2, "and then for twice as long, up to a limit"
    assert rig.log.events.count("witness.failed") == 1, "it is said once"
    await pair[1].start()
    rig.clock.ahead_s += BACKOFF_S_MAX
    await rounds.round()
    assert rounds.cosigned() == (2, ["w0.example", "w1.example"]), "beside what the other one said before"
    assert rig.log.events.count("witness.cosigns") == 1


async def test_a_witness_may_take_longer_than_the_next_checkpoint(rig: Rig, peers: Peers, pair: list[Place]) -> None:
    rounds = Rounds(rig, [*pair])
    await grow(rig)
    pair[1].gate.clear()
    round_ = asyncio.create_task(rounds.round())
    await until(lambda: bool(pair[1].bodies), "it is asked")
    assert await grow(rig) == 2, "publishing goes on"
    pair[1].gate.set()
    await round_
    assert rounds.cosigned() == (1, ["w0.example", "w1.example"])
    await rounds.round()
    assert rounds.cosigned() == (2, ["w0.example", "w1.example"])


async def test_a_witness_that_hangs_is_given_up_in_time(rig: Rig, peers: Peers, pair: list[Place]) -> None:
    rounds = Rounds(rig, [*pair], timeout_s=2.0)
    await grow(rig)
    pair[1].gate.clear()
    await rounds.round()
    assert rounds.cosigned() == (1, ["w0.example"])
    assert rounds.failures("timeout", 1) == 1


async def test_a_tree_that_does_not_grow_is_cosigned_again(rig: Rig, peers: Peers, pair: list[Place]) -> None:
    rounds = Rounds(rig, [*pair])
    await grow(rig)
    await rounds.round()
    first = rig.driver.applier.machine.cosignatures
    rig.clock.ahead_s += RENEW_S - WAIT_S
    await rounds.round()
    assert len(pair[0].bodies) == 1
    await asyncio.sleep(1.0)  # the witness's clock is a real one, and counts seconds
    rig.clock.ahead_s += 2 * WAIT_S
    await rounds.round()
    assert pair[0].old_sizes == [0, 1]
    assert rounds.cosigned() == (1, ["w0.example", "w1.example"])
    assert rig.driver.applier.machine.cosignatures != first


async def test_only_a_leader_that_may_write_has_rounds(rig: Rig, peers: Peers, pair: list[Place]) -> None:
    rounds = Rounds(rig, [*pair])
    await grow(rig)
    old = Hello("0", 1, ("pauses",), Identity("0" * 32, LEADER, LEADER * 10), "", "", 0, Configuration())
    rig.driver.members.hellos[LEADER] = old
    await rounds.round()
    assert not pair[0].bodies, "an older member would stop at the entry"
    del rig.driver.members.hellos[LEADER]
    await asyncio.wait_for(rig.service.pause_writes(60.0, "carol", "p"), WAIT_S)
    await rounds.round()
    assert not pair[0].bodies, "the files rest"
    await asyncio.wait_for(rig.service.resume_writes("carol", "q"), WAIT_S)
    await rounds.round()
    assert rounds.cosigned() == (1, ["w0.example", "w1.example"])


async def test_what_comes_of_a_round_is_not_written_into_a_pause(rig: Rig, peers: Peers, pair: list[Place]) -> None:
    rounds = Rounds(rig, [*pair])
    await grow(rig)
    pair[1].gate.clear()
    round_ = asyncio.create_task(rounds.round())
    await until(lambda: bool(pair[1].bodies), "it is asked")
    await asyncio.wait_for(rig.service.pause_writes(60.0, "carol", "p"), WAIT_S)
    pair[1].gate.set()
    await round_
    assert rounds.cosigned() == (0, [])


async def test_a_follower_asks_nobody_and_knows_what_the_log_says(rig: Rig, pair: list[Place]) -> None:
    rounds = Rounds(rig, [*pair])
    rig.take([put(2), make_entry(TERM, 3, EntryKind.NORMAL, encode_checkpoint(3))], commit=3)
    await until(lambda: rig.driver.applier.applied_index == 3, "everything is applied")
    tree = rig.driver.applier.machine.published
    line = cosign(checkpoint_of(rig, 1, tree.root), 7, KEYS[0].verifier_key, KEYS[0].sign)
    stranger = cosign(checkpoint_of(rig, 1, tree.root), 7, KEYS[2].verifier_key, KEYS[2].sign)
    lines = [format_signature(one).strip() for one in (line, stranger)]
    rig.take([make_entry(TERM, 4, EntryKind.NORMAL, encode_cosignatures(4, tree, lines))], commit=4)
    await until(lambda: rig.driver.applier.applied_index == 4, "everything is applied")
    await rounds.round()
    assert not pair[0].bodies
    assert rounds.metric("scribe_witness_cosigned_size") == 1
    assert rounds.metric("scribe_witness_cosigned_time_seconds") == 7
    assert rounds.metric("scribe_witness_cosigned_size", 1) == 0


async def test_the_rounds_follow_what_is_published_by_themselves(rig: Rig, peers: Peers, pair: list[Place]) -> None:
    rounds = Rounds(rig, [*pair])
    running = asyncio.create_task(rounds.witnessing.run())
    for size in (1, 2):
        await grow(rig)
        await until(lambda size=size: rounds.cosigned()[0] == size, "it is cosigned")  # type: ignore[misc]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


# -- forks, and what only looks like one


def submit_fork(rig: Rig, place: Place, size: int) -> None:
    """Have a witness cosign another tree of the same log."""
    other = sign_checkpoint(
        Checkpoint(rig.log_key.verifier_key.name, size, bytes(range(32))), rig.log_key.verifier_key, rig.log_key.sign
    )
    assert place.desk.submit(format_request(AddCheckpoint(0, (), format_note(other)))).status == 200


@pytest.mark.parametrize(("size", "status"), [(3, "409"), (2, "422")])
async def test_a_fork_is_an_alarm(rig: Rig, peers: Peers, pair: list[Place], size: int, status: str) -> None:
    submit_fork(rig, pair[0], size)
    rounds = Rounds(rig, [*pair])
    for _ in range(3):
        await grow(rig)
    await rounds.round()
    assert rounds.cosigned() == (3, ["w1.example"]), "the other one has seen nothing wrong"
    assert rig.service.health().alarms == ("fork_seen",)
    assert status in rig.driver.findings.detail("fork_seen")  # type: ignore[arg-type]
    assert "ledger.integrity" in rig.log.events
    assert rounds.failures("fork") == 1
    await grow(rig)
    await rounds.round()
    assert rounds.failures("fork") == 1, "it is left alone for a minute"
    rig.clock.ahead_s += BACKOFF_S_MAX
    await rounds.round()
    assert rounds.failures("fork") == 2


async def test_the_alarm_ends_when_that_witness_cosigns_again(
    rig: Rig, peers: Peers, tmp_path_factory: pytest.TempPathFactory
) -> None:
    async with places(rig, tmp_path_factory.mktemp("first"), 1) as (place,):
        submit_fork(rig, place, 1)
        rounds = Rounds(rig, [place])
        await grow(rig)
        await rounds.round()
        assert rig.service.health().alarms == ("fork_seen",)
    async with places(rig, tmp_path_factory.mktemp("second"), 1) as (mended,):
        rounds.witnessing._seats[mended.verifier.key.name, mended.verifier.key.key_id].witness = mended
        rig.clock.ahead_s += BACKOFF_S_MAX
        await rounds.round()
        assert rounds.cosigned() == (1, ["w0.example"])
        assert rig.service.health().alarms == ()


async def test_a_log_that_was_set_back_is_an_alarm(rig: Rig, peers: Peers, pair: list[Place]) -> None:
    submit_fork(rig, pair[0], 7)
    rounds = Rounds(rig, [*pair])
    await grow(rig)
    await rounds.round()
    assert rounds.cosigned() == (1, ["w1.example"])
    assert rig.service.health().alarms == ("fork_seen",)
    assert "7 leaves, and the log published 1" in rig.driver.findings.detail("fork_seen")  # type: ignore[arg-type]


async def test_a_leader_that_was_only_behind_raises_none(rig: Rig, peers: Peers) -> None:
    """Another one has published and had cosigned what this one, deposed without knowing it, has not applied."""
    witness = Scripted(lambda request: Answer(409, SIZE_CONTENT_TYPE, b"2\n"))
    rounds = Rounds(rig, [witness])
    await grow(rig)

    async def linearize() -> None:
        await grow(rig)

    rounds.witnessing._reading.linearize = linearize  # type: ignore[method-assign]
    await rounds.round()
    assert rig.driver.applier.machine.published.tree_size == 2
    assert rig.service.health().alarms == ()
    assert rounds.failures("fork", 2) == 0


async def test_a_proof_that_this_node_gets_wrong_is_its_own_fault(
    rig: Rig, peers: Peers, pair: list[Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = Rounds(rig, [*pair])
    for _ in range(2):
        await grow(rig)
    await rounds.round()
    await grow(rig)
    monkeypatch.setattr(type(rig.ledger_store.tree), "consistency", lambda *sizes: [bytes(32), bytes(32)])
    await rounds.round()
    assert rig.service.health().alarms == ("proof_failed",)
    assert rounds.failures("fork") == 0


def cosigned_by(key: SigningKey, text: str | None = None) -> Callable[[AddCheckpoint], Answer]:
    def reply(request: AddCheckpoint) -> Answer:
        signature = cosign(text or parse_note(request.checkpoint).text, 9, key.verifier_key, key.sign)
        return Answer(200, TEXT_CONTENT_TYPE, format_signature(signature).encode())

    return reply


def unreachable(request: AddCheckpoint) -> Answer:
    raise WitnessUnreachable("nobody there")


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        pytest.param(cosigned_by(KEYS[1]), "unusable", id="by another key"),
        pytest.param(cosigned_by(KEYS[2], "a\n1\nAA==\n"), "unusable", id="over another text"),
        pytest.param(lambda _: Answer(200, TEXT_CONTENT_TYPE, b"thanks\n"), "unusable", id="no signature"),
        pytest.param(lambda _: Answer(409, SIZE_CONTENT_TYPE, b"0\n"), "unusable", id="the size that was given"),
        pytest.param(lambda r: Answer(409, SIZE_CONTENT_TYPE, b"%d\n" % (1 - r.old_size)), "unusable", id="any size"),
        pytest.param(lambda _: Answer(409, TEXT_CONTENT_TYPE, b"0\n"), "refused", id="409 without a size"),
        pytest.param(lambda _: Answer(422, TEXT_CONTENT_TYPE, b"no\n"), "refused", id="422 where nothing is proven"),
        pytest.param(lambda _: Answer(404, TEXT_CONTENT_TYPE, b"who?\n"), "refused", id="404"),
        pytest.param(lambda _: Answer(403, TEXT_CONTENT_TYPE, b"\xff\n"), "refused", id="403"),
        pytest.param(lambda _: Answer(500, TEXT_CONTENT_TYPE, b""), "refused", id="500"),
        pytest.param(unreachable, "unreachable", id="no answer"),
    ],
)
async def test_answers_without_a_cosignature(
    rig: Rig, peers: Peers, reply: Callable[[AddCheckpoint], Answer], reason: str
) -> None:
    witness = Scripted(reply)
    rounds = Rounds(rig, [witness])
    await grow(rig)
    await rounds.round()
    assert rounds.failures(reason, 2) == 1
    assert (rounds.cosigned(), rig.service.health().alarms) == ((0, []), ())
    assert witness.asked <= 2
    witness.reply = cosigned_by(KEYS[2])
    rig.clock.ahead_s += BACKOFF_S_MAX
    await rounds.round()
    assert rounds.cosigned() == (1, ["w2.example"])
