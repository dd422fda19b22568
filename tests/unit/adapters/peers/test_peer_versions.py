"""Versions of the peer protocol, and how a node learns which cluster it is to join; over real sockets."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from peer_harness import CLUSTER, Node, World, until

from appliance.adapters.peer_protocol import Kind, Open, encode_frame
from appliance.adapters.peer_seeking import seek_cluster
from tests.ports import free_ports

pytestmark = pytest.mark.anyio
OTHER = "f" * 32


@pytest.fixture
def anyio_backend() -> object:
    return ("asyncio", {"use_uvloop": True})


def refused_address() -> str:
    """An address at which nobody listens."""
    (port,) = free_ports(1)
    return f"127.0.0.1:{port}"


SPEECHES = {
    # what node 1 speaks and what node 2 does (from, to), and which of them has to be upgraded (0: neither)
    "the same": ((1, 1), (1, 1), 0),
    "later, and ours too": ((1, 1), (1, 2), 0),
    "overlapping": ((2, 4), (3, 5), 0),
    "later only": ((1, 1), (2, 2), 1),
    "from before our time": ((2, 3), (1, 1), 2),
}


@pytest.mark.parametrize("first_dials", [True, False], ids=["one dials", "two dials"])
@pytest.mark.parametrize(("one_speaks", "two_speaks", "older"), SPEECHES.values(), ids=SPEECHES)
async def test_protocols(
    nodes: World, one_speaks: tuple[int, int], two_speaks: tuple[int, int], older: int, first_dials: bool
) -> None:
    both = (await nodes.node(1).start(), await nodes.node(2).start())
    for node, (oldest, latest) in zip(both, (one_speaks, two_speaks), strict=True):
        node.version = f"v-of-{node.id}"
        node.network._handshaker.protocol_min, node.network._handshaker.protocol = oldest, latest
    dialer, dialed = both if first_dials else both[::-1]
    dialer.network.set_peers({dialed.id: dialed.raft_address})
    if not older:
        await until(lambda: dialer.links_to(dialed.id))
        assert not dialer.metrics.refused()
        return
    await until(lambda: both[0].metrics.refused() and both[1].metrics.refused())
    for node in both:
        assert set(node.metrics.refused()) == {"protocol"}
        assert not node.hellos
        (line,) = node.log.of("peer.refused")
        for text in ("v-of-1", "v-of-2", f"upgrade the node of version v-of-{older}"):
            assert text in str(line["detail"])
    assert [node.log.of("peer.refused")[0]["by_peer"] for node in (dialed, dialer)] == [False, True]


async def test_a_hello_of_another_form_is_refused_for_its_protocol(nodes: World) -> None:
    """A later protocol may change all of the hello but what is compared first."""
    one = await nodes.node(1).start()
    reader, writer = await asyncio.open_connection("127.0.0.1", one.network.port)
    hello = msgspec.msgpack.encode({"version": "9.9", "protocol": 9, "protocol_min": 8, "identity": "n1"})
    writer.write(encode_frame(Kind.OPEN, Open("raft", b"n" * 32, b"t" * 8, hello)))
    async with asyncio.timeout(5):
        answer = await reader.read()
    writer.close()
    assert b"version 9.9 speaks peer protocols 8 to 9, and version test-version speaks 1 to 1" in answer
    assert one.metrics.refused() == {"protocol": 1}


async def seek(node: Node, *seeds: str) -> str:
    """What a node learns that does not know its cluster, and is not started yet."""
    return await seek_cluster(
        node.network._settings,
        node_id=node.id,
        address="127.0.0.1:1",
        raft_address="127.0.0.1:2",
        version="test-version",
        seeds=seeds,
        instruments=node.metrics,
        log=node.log,
    )


@pytest.mark.parametrize("auth", ["secret", "tls"])
async def test_a_node_learns_its_cluster_from_the_first_seed_that_answers(nodes: World, auth: str) -> None:
    one, two = await nodes.pair(auth)
    joiner = nodes.node(4, auth)
    assert await seek(joiner, refused_address(), two.raft_address, one.raft_address) == CLUSTER
    assert joiner.log.of("cluster.found") == [{"peer": 2, "cluster_id": CLUSTER}]
    assert len(joiner.log.of("peer.unreachable")) == 1
    assert {hello.identity.node_id for node in (one, two) for hello in node.hellos} == {1, 2}, (
        "a meeting leaves nothing"
    )


@pytest.mark.parametrize(
    ("auth", "stranger"), [("secret", {"secret": "x" * 32}), ("tls", {"ca": OTHER})], ids=["secret", "tls"]
)
async def test_what_has_not_proved_itself_leads_nobody_into_its_cluster(
    nodes: World, auth: str, stranger: dict[str, str]
) -> None:
    wrong = await nodes.node(1, auth, cluster_id=OTHER, **stranger).start()
    right = await nodes.node(2, auth).start()
    joiner = nodes.node(4, auth)
    assert await seek(joiner, wrong.raft_address, right.raft_address) == CLUSTER
    assert set(joiner.metrics.refused()) <= {"bad_secret", "bad_certificate"}
    assert joiner.metrics.refused()


async def test_a_node_that_does_not_know_its_cluster_gets_no_link(nodes: World) -> None:
    one = await nodes.node(1).start()
    nobody = await nodes.node(4, cluster_id="").start(one.raft_address)
    await until(lambda: one.metrics.refused() and nobody.metrics.refused())
    assert set(one.metrics.refused()) == set(nobody.metrics.refused()) == {"other_cluster"}
    assert not one.hellos
    assert not nobody.hellos
