"""Checkpoints: when the leader publishes, what any node signs, and what it refuses to sign."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import apsw
import msgspec
import pytest
from driver_rig import LEADER, ME, TERM, WAIT_S, Peers, Rig, put, until

from appliance.adapters.ed25519 import verify as ed25519_verify
from appliance.ledger.checkpoint import open_checkpoint
from appliance.ledger.commands import Op, Operation, WriteRequest, encode_checkpoint, encode_cosignatures
from appliance.ledger.merkle import leaf_hash, verify_consistency, verify_inclusion
from appliance.ledger.note import Ed25519Verifier, format_verifier_key, parse_note
from appliance.ledger.tile_paths import BundleId, TileId
from appliance.node.api import CheckpointAnswer
from appliance.node.peer_ports import Hello
from appliance.node.ports import Identity
from appliance.node.publishing import Publishing
from appliance.raft.messages import Configuration, Entry, EntryKind, make_entry
from appliance.raft.state import encode_configuration
from appliance.tables.errors import ApplianceError

pytestmark = pytest.mark.anyio

SECOND_US = 1_000_000


def checkpoint_at(index: int, stamp_us: int) -> Entry:
    """The leader's entry that publishes."""
    return make_entry(TERM, index, EntryKind.NORMAL, encode_checkpoint(stamp_us))


async def error_of(work: Awaitable[object]) -> ApplianceError:
    with pytest.raises(ApplianceError) as caught:
        await asyncio.wait_for(work, WAIT_S)
    return caught.value


async def write(rig: Rig, key: str) -> int:
    request = WriteRequest((Operation(Op.PUT, key, b"v"),), "tester", "r")
    return (await rig.service.write(request)).results[0].leaf_index


def opened(rig: Rig, answer: CheckpointAnswer) -> None:
    """The note says what the answer says, and the log has signed it."""
    checkpoint = open_checkpoint(answer.note, Ed25519Verifier(rig.log_key.verifier_key, ed25519_verify)).checkpoint
    assert (checkpoint.size, checkpoint.root) == (answer.size, answer.root)


def edit(rig: Rig, statement: str) -> None:
    """Change what the ledger file holds."""
    db = apsw.Connection(str(rig.driver.settings.directory / "ledger.db"))
    db.set_busy_timeout(5000)  # the node writes to it, too
    db.execute(statement)
    db.close()


def published_size(rig: Rig) -> int:
    return rig.driver.applier.machine.published.tree_size


async def publish(rig: Rig) -> None:
    """Have the leader publish what it has, as if the interval were over."""
    rig.clock.ahead_us += 2 * SECOND_US
    size = rig.driver.applier.machine.tree_size
    rig.publishing.publish_if_due()
    await until(lambda: published_size(rig) == size, "the tree to be published")


async def test_the_leader_publishes_what_has_grown_once_an_interval(rig: Rig, peers: Peers) -> None:
    core = rig.driver.core
    assert core is not None
    last_index = core.state.log.last_index
    rig.publishing.publish_if_due()
    assert core.state.log.last_index == last_index, "nothing has been written"
    await write(rig, "a")
    await publish(rig)
    last_index = core.state.log.last_index
    rig.clock.ahead_us += 2 * SECOND_US
    rig.publishing.publish_if_due()
    assert core.state.log.last_index == last_index, "nothing has grown"
    rig.clock.ahead_us -= 2 * SECOND_US  # stamps never go back, so that a write at that time would end the interval
    await write(rig, "b")
    last_index = core.state.log.last_index
    Publishing(rig.driver, rig.log_key, 60.0, 5.0).publish_if_due()
    assert core.state.log.last_index == last_index, "the interval is not over"
    await publish(rig)
    assert published_size(rig) == 2


async def test_a_checkpoint_is_signed_once_the_file_holds_its_tree(rig: Rig, peers: Peers) -> None:
    leaf_index = await write(rig, "a")
    waiting = asyncio.create_task(rig.service.receipt(leaf_index, 1))
    await publish(rig)
    (receipt,) = await asyncio.wait_for(waiting, WAIT_S)
    opened(rig, receipt.checkpoint)
    assert verify_inclusion(leaf_hash(receipt.leaf), leaf_index, 1, receipt.path, receipt.checkpoint.root)
    first = await rig.service.checkpoint()
    assert first == receipt.checkpoint
    for key in "bcd":
        await write(rig, key)
    await publish(rig)
    second = await rig.service.checkpoint()
    opened(rig, second)
    receipts = await rig.service.receipt(1, 3)
    assert {one.checkpoint.note for one in receipts} == {second.note}
    for place, one in enumerate(receipts, start=1):
        assert verify_inclusion(leaf_hash(one.leaf), place, second.size, one.path, second.root)
    proof = await rig.service.consistency(first.size, second.size)
    assert verify_consistency(first.size, second.size, proof, first.root, second.root)
    assert await rig.service.inclusion(2, 4) == list((await rig.service.prove("c")).path)
    assert (await rig.service.tile(TileId(0, 0, 4)))[:32] == leaf_hash(receipt.leaf)
    assert (await rig.service.entries(BundleId(0, 4)))[0] == receipt.leaf


async def test_every_node_signs_the_same_bytes(rig: Rig) -> None:
    """Under the leader's entries a follower publishes the sizes that the leader published, and no others."""
    rig.take([put(2), checkpoint_at(3, 3), put(4)], commit=4)
    await until(lambda: rig.driver.applier.applied_index == 4, "everything is applied")
    rig.publishing.publish_if_due()
    answer = await asyncio.wait_for(rig.service.checkpoint(), WAIT_S)
    assert answer.size == 1
    opened(rig, answer)
    again = await asyncio.wait_for(Publishing(rig.driver, rig.log_key, 1.0, 5.0).latest(), WAIT_S)
    assert parse_note(answer.note) == again.note


async def test_who_asks_for_more_than_there_is_waits_and_is_told(rig: Rig) -> None:
    rig.take([put(2), checkpoint_at(3, 3)], commit=3)
    short = Publishing(rig.driver, rig.log_key, 1.0, 0.05)
    assert (await rig.publishing.latest(1)).tree.tree_size == 1
    error = await error_of(short.latest(2))
    assert (error.code, error.row.status, error.row.retryable) == ("not_published", 503, True)
    assert (await error_of(short.wait(2))).code == "not_published"
    waiting = asyncio.create_task(rig.service.tile(TileId(0, 0, 2)))
    rig.take([put(4), checkpoint_at(5, 5)], commit=5)
    assert len(await asyncio.wait_for(waiting, WAIT_S)) == 64


async def test_after_a_recovery_the_log_has_another_name_and_key(rig: Rig) -> None:
    """From when this node acts on it, not from when it is applied: what is applied meanwhile may contradict what the
    log of before has signed.
    """
    line = "\u2014 witness.example/w AAAAAAAA"
    rig.take([put(2), checkpoint_at(3, 3)], commit=3)
    before = await asyncio.wait_for(rig.service.checkpoint(), WAIT_S)
    opened(rig, before)
    cosigned = encode_cosignatures(4, rig.driver.applier.machine.published, [line])
    rig.take([make_entry(TERM, 4, EntryKind.NORMAL, cosigned)], commit=4)
    await until(lambda: rig.publishing.cosigned.tree.tree_size == 1, "it to be cosigned")
    assert line.encode() in (await rig.service.checkpoint()).note
    assert rig.service.cluster().key_history == (format_verifier_key(rig.log_key.verifier_key),)

    core = rig.driver.core
    assert core is not None
    configuration = msgspec.structs.replace(core.state.configuration, recoveries=(7,))
    renamed = rig.log_key.after((7,))
    recovery = make_entry(TERM, 5, EntryKind.CONFIGURATION, encode_configuration(configuration))
    rig.take([recovery], commit=4)
    await until(lambda: core.state.configuration.recoveries == (7,), "it to act on it")
    for index in (4, 5):
        await until(lambda index=index: rig.driver.applier.applied_index == index, "it to be applied")
        after = await asyncio.wait_for(rig.service.checkpoint(), WAIT_S)
        checkpoint = open_checkpoint(after.note, Ed25519Verifier(renamed.verifier_key, ed25519_verify)).checkpoint
        assert (checkpoint.size, checkpoint.root) == (before.size, before.root)
        assert len(parse_note(after.note).signatures) == 1, "what was cosigned is another log's"
        rig.take([put(6)], commit=5)
    keys = tuple(format_verifier_key(key.verifier_key) for key in (rig.log_key, renamed))
    assert (rig.service.cluster().key_history, rig.service.cluster().verifier_key) == (keys, keys[1])


async def test_on_the_way_to_a_recovery_nothing_is_signed(rig: Rig) -> None:
    """What this node holds until it comes there may contradict what the old key has signed elsewhere."""
    rig.take([put(2), checkpoint_at(3, 3)], commit=3)
    core = rig.driver.core
    assert core is not None
    recovered = msgspec.structs.replace(core.state.configuration, recoveries=(7,))
    hello = Hello("0", 1, (), Identity(rig.driver.identity.cluster_id, LEADER, 31), "a:1", "a:2", 9, recovered, 9)
    rig.driver.members.hellos[LEADER] = hello
    error = await error_of(rig.service.checkpoint())
    assert (error.code, error.row.status) == ("not_published", 503)
    assert "recovered" in error.detail


async def test_a_node_without_the_key_says_so(rig: Rig) -> None:
    rig.take([put(2), checkpoint_at(3, 3)], commit=3)
    assert (await error_of(Publishing(rig.driver, None, 1.0, 5.0).latest())).code == "no_log_key"


async def test_what_was_damaged_since_the_last_checkpoint_is_never_signed(rig: Rig) -> None:
    rig.take([put(2), checkpoint_at(3, 3)], commit=3)
    await asyncio.wait_for(rig.service.checkpoint(), WAIT_S)
    rig.take([put(4), checkpoint_at(5, 5)], commit=5)
    await until(lambda: rig.driver.applier.applied_index == 5, "everything is applied")
    await asyncio.wait_for(rig.service.settle(), WAIT_S)
    edit(rig, "UPDATE leaves SET leaf = CAST(replace(CAST(leaf AS TEXT), 'k4', 'k5') AS BLOB) WHERE leaf_index = 1")
    error = await error_of(rig.service.checkpoint())
    assert (error.code, error.row.status) == ("verification_failed", 500)
    assert rig.service.health().alarms == ("proof_failed",)
    assert "ledger.integrity" in rig.log.events
    rig.take([put(6), checkpoint_at(7, 7)], commit=7)
    await until(lambda: rig.driver.applier.applied_index == 7, "everything is applied")
    assert (await error_of(rig.service.checkpoint())).code == "verification_failed", "nor is what comes after it"


async def test_a_value_that_was_changed_is_not_proven(rig: Rig, peers: Peers) -> None:
    await write(rig, "a")
    await publish(rig)
    await asyncio.wait_for(rig.service.prove("a"), WAIT_S)
    edit(rig, "UPDATE leaves SET value = CAST('w' AS BLOB)")
    error = await error_of(rig.service.prove("a"))
    assert error.code == "verification_failed"
    assert "value of leaf 0" in error.detail


async def test_nothing_is_proven_from_a_truncated_tile(rig: Rig, peers: Peers) -> None:
    operations = tuple(Operation(Op.PUT, f"k{n}", b"v") for n in range(300))
    await rig.service.write(WriteRequest(operations, "tester", "r", batch=True))
    await publish(rig)
    receipts = await asyncio.wait_for(rig.service.receipt(0, 300), WAIT_S)
    assert all(
        verify_inclusion(leaf_hash(one.leaf), place, 300, one.path, one.checkpoint.root)
        for place, one in enumerate(receipts)
    )
    edit(rig, "UPDATE tiles SET hashes = substr(hashes, 1, 100)")
    for work in (rig.service.prove("k7"), rig.service.inclusion(7, 300), rig.service.consistency(7, 300)):
        assert (await error_of(work)).code == "verification_failed"
    assert rig.service.health().alarms == ("proof_failed",)


async def test_what_witnesses_say_is_shown_with_the_tree_that_they_saw(rig: Rig) -> None:
    line = "\u2014 witness.example/w AAAAAAAA"
    rig.take([put(2), checkpoint_at(3, 3)], commit=3)
    answer = await asyncio.wait_for(rig.service.checkpoint(), WAIT_S)
    cosigned = make_entry(
        TERM, 4, EntryKind.NORMAL, encode_cosignatures(4, rig.driver.applier.machine.published, [line])
    )
    rig.take([cosigned, put(5), checkpoint_at(6, 6)], commit=6)
    await until(lambda: rig.driver.applier.applied_index == 6, "everything is applied")
    later = await asyncio.wait_for(rig.service.checkpoint(), WAIT_S)
    assert later.note == answer.note + f"{line}\n".encode(), "it is not much older than the latest"
    assert (await asyncio.wait_for(rig.service.checkpoint(2), WAIT_S)).size == 2, "it is too small for who asks"
    much_later = 6 + 61 * SECOND_US
    rig.take([put(7), checkpoint_at(8, much_later)], commit=8)
    await until(lambda: rig.driver.applier.applied_index == 8, "everything is applied")
    newest = await asyncio.wait_for(rig.service.checkpoint(), WAIT_S)
    assert newest.size == 3
    assert len(parse_note(newest.note).signatures) == 1


async def test_a_pause_publishes_what_is_about_to_rest(rig: Rig, peers: Peers) -> None:
    leaf_index = await write(rig, "a")
    await asyncio.wait_for(rig.service.pause_writes(60.0, "carol", "p"), WAIT_S)
    assert published_size(rig) == 1
    await asyncio.wait_for(rig.service.receipt(leaf_index, 1), WAIT_S)
    core = rig.driver.core
    assert core is not None
    last_index = core.state.log.last_index
    rig.publishing.publish_if_due()
    assert core.state.log.last_index == last_index


async def test_nothing_is_published_beside_a_node_that_would_stop_at_it(rig: Rig, peers: Peers) -> None:
    await write(rig, "a")
    old = Hello("0", 1, ("pauses",), Identity("0" * 32, LEADER, LEADER * 10), "", "", 0, Configuration())
    rig.driver.members.hellos[LEADER] = old
    rig.clock.ahead_us += 2 * SECOND_US
    rig.publishing.publish_if_due()
    await write(rig, "b")
    assert published_size(rig) == 0
    assert ME != LEADER
