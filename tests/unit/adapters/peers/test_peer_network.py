"""Links between nodes over real sockets: who gets in, what passes, what happens when a link goes."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest
from peer_harness import CLUSTER, World, heartbeat, until

from appliance.adapters.config import ConfigError
from appliance.adapters.peer_network import TcpPeerNetwork
from appliance.adapters.peer_protocol import PEER_FEATURES, PEER_PROTOCOL, Kind, Open, encode_frame
from appliance.raft.messages import AppendRequest, make_entry

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("auth", ["secret", "tls"])
async def test_hello_messages_and_traces(nodes: World, auth: str) -> None:
    one, two = await nodes.pair(auth)
    met = one.hellos[0]
    assert (met.identity, met.raft_address) == (two.identity, two.raft_address)
    assert (met.protocol, met.features, met.version) == (PEER_PROTOCOL, PEER_FEATURES, "test-version")
    append = AppendRequest(
        sender=1,
        sender_incarnation=1,
        to=2,
        term=1,
        prev_index=0,
        prev_term=0,
        entries=(make_entry(1, 1, 0, b"x" * 100_000),),
        commit_index=0,
    )
    one.network.send(heartbeat(1, 2, 1))
    one.network.send(append, traces=[(1, "00-aa-bb-01")])
    one.network.send(heartbeat(1, 2, 2))
    two.network.send(heartbeat(2, 1, 3))
    await until(lambda: len(two.received) == 4 and len(one.received) == 1)
    assert two.received == [heartbeat(1, 2, 1), ((1, "00-aa-bb-01"),), append, heartbeat(1, 2, 2)]
    assert one.received == [heartbeat(2, 1, 3)]
    assert not one.metrics.refused()
    assert not two.metrics.refused()
    assert 0 <= one.network.connected()[2] < 5


async def test_a_peer_that_is_dialed_anew_says_hello_again(nodes: World) -> None:
    one, two = await nodes.pair("secret")
    hellos = len(one.hellos)
    one.network.redial(2)
    await until(lambda: len(one.hellos) > hellos and 2 in one.network.connected())
    assert one.hellos[-1].identity == two.identity
    one.network.redial(7)  # nobody knows it


async def test_three_nodes_that_are_each_others_seeds_and_their_own(nodes: World) -> None:
    made = [nodes.node(n) for n in (1, 2, 3)]
    for node in made:
        await node.start()
    addresses = {node.id: node.raft_address for node in made}
    for node in made:
        node.network._seeds = tuple(addresses.values())
        node.network.set_peers(addresses)
    await until(lambda: all(n.links_to(*({1, 2, 3} - {n.id})) for n in made))
    assert all(not n.metrics.refused() for n in made)
    assert all(n.id not in n.network.connected() for n in made)


async def test_a_node_that_meets_itself_stops_dialing(nodes: World) -> None:
    one = nodes.node(1)
    await one.start()
    proxy = await nodes.proxy(one.raft_address)
    one.network.set_peers({9: proxy.address})
    await until(lambda: all(task.done() for _, task in one.network._dialers.values()))
    assert one.network.connected() == {}
    assert not one.metrics.refused()


async def test_messages_keep_their_order_and_leave_at_once_with_what_waits(nodes: World) -> None:
    one, two = await nodes.pair()
    link = one.network.outgoing(2)
    assert link is not None
    before = link.written
    link.ping()
    link.ping()
    assert link.written == before  # they leave together at the end of the turn
    for round_ in range(1, 501):
        one.network.send(heartbeat(1, 2, round_))
        assert link.written == before + 2 + round_
    await until(lambda: len(two.received) == 500)
    assert [message.round for message in two.received] == list(range(1, 501))  # type: ignore[attr-defined]


REFUSED = {
    "wrong secret": ("secret", {"secret": "t" * 32}, "bad_secret"),
    "other cluster": ("secret", {"cluster_id": "d" * 32}, "other_cluster"),
    "our own id": ("secret", {"node_id": 1}, "id_clash"),
    "certificate of another node": ("tls", {"certificate_of": 3}, "bad_certificate"),
    "certificate of another cluster": ("tls", {"cluster_id": "d" * 32}, "other_cluster"),
    "no TLS where it is expected": ("tls", {"auth": "secret"}, "tls"),
}


@pytest.mark.parametrize("dialer", [1, 2], ids=["dials", "is dialed"])
@pytest.mark.parametrize(("auth", "change", "reason"), REFUSED.values(), ids=REFUSED)
async def test_refused(nodes: World, auth: str, change: dict[str, object], reason: str, dialer: int) -> None:
    timeout_s = 0.3 if reason == "tls" else 5.0  # without TLS the one waits for the other
    good = await nodes.node(1, auth, handshake_timeout_s=timeout_s).start()
    limits = {"node_id": 2, "auth": auth, "handshake_timeout_s": timeout_s, **change}
    bad = nodes.node(**limits)  # type: ignore[arg-type]
    await bad.start()
    first, second = (good, bad) if dialer == 1 else (bad, good)
    first.network.set_peers({9: second.raft_address})
    await until(lambda: reason in good.metrics.refused())
    if reason != "tls":  # the one without TLS only sees a connection that ends
        await until(lambda: reason in bad.metrics.refused())
        assert reason in {line["reason"] for line in bad.log.of("peer.refused")}
    assert reason in {line["reason"] for line in good.log.of("peer.refused")}
    assert not good.hellos
    assert not bad.hellos
    assert not good.network.connected()
    assert not bad.network.connected()


@pytest.mark.parametrize("good_dials", [True, False], ids=["dials", "is dialed"])
async def test_certificate_of_another_authority(nodes: World, good_dials: bool) -> None:
    good = await nodes.node(1, "tls").start()
    bad = await nodes.node(2, "tls", ca=CLUSTER + "-another").start()
    dialer, dialed = (good, bad) if good_dials else (bad, good)
    dialer.network.set_peers({9: dialed.raft_address})
    await until(lambda: good.metrics.refused() and bad.metrics.refused())
    assert set(dialer.metrics.refused()) == {"bad_certificate"}
    assert set(dialed.metrics.refused()) <= {"bad_certificate", "tls"}, "the dialer may end TLS without a word"
    assert not good.hellos
    assert not bad.hellos


@pytest.mark.parametrize("old_dials", [True, False], ids=["dials", "is dialed"])
async def test_certificate_that_has_ended(nodes: World, old_dials: bool) -> None:
    good = await nodes.node(1, "tls").start()
    old = await nodes.node(2, "tls", certificate_days=-1).start()
    dialer, dialed = (old, good) if old_dials else (good, old)
    dialer.network.set_peers({9: dialed.raft_address})
    await until(lambda: "bad_certificate" in good.metrics.refused())
    assert not good.hellos
    assert not old.hellos


async def test_two_nodes_that_claim_one_id(nodes: World) -> None:
    one, two = await nodes.pair()
    copy = await nodes.node(2).start(one.raft_address)
    await until(lambda: one.metrics.refused() and copy.metrics.refused())
    assert set(one.metrics.refused()) == set(copy.metrics.refused()) == {"id_clash"}
    one.network.send(heartbeat(1, 2))
    await until(lambda: two.received)
    assert not copy.received
    lost = one.unreachable[2]
    await two.network.close()
    await until(lambda: one.unreachable[2] > lost)
    await until(lambda: one.links_to(2))
    one.network.send(heartbeat(1, 2))
    await until(lambda: copy.received)


async def test_a_hello_that_was_altered_on_its_way(nodes: World) -> None:
    one = await nodes.node(1).start()
    proxy = await nodes.proxy(one.raft_address)
    proxy.change = lambda data: data.replace(b"test-version", b"evil-version")
    two = await nodes.node(2).start(proxy.address)
    await until(lambda: one.metrics.refused() or two.metrics.refused())
    assert set(one.metrics.refused()) | set(two.metrics.refused()) == {"bad_secret"}
    assert not one.hellos


NOT_A_PEER = {
    "garbage": (b"GET / HTTP/1.1\r\n\r\n", "bad_frame"),
    "oversized": (b"\x00\x05\x00\x00\x01", "bad_frame"),
    "unknown kind": (b"\x00\x00\x00\x02\x63\x90", "bad_frame"),
    "message before the handshake": (bytes(encode_frame(Kind.MESSAGE, heartbeat(2, 1))), "bad_frame"),
    "malformed opening": (bytes(encode_frame(Kind.OPEN, Open("raft", b"short", b"", b""))), "bad_frame"),
    "malformed hello": (bytes(encode_frame(Kind.OPEN, Open("raft", b"n" * 32, b"t" * 8, b"\xc1"))), "bad_frame"),
    "silence": (b"", "handshake_timeout"),
    "a byte and silence": (b"\x00", "handshake_timeout"),
}


@pytest.mark.parametrize(("sent", "reason"), NOT_A_PEER.values(), ids=NOT_A_PEER)
async def test_what_is_no_peer_is_shown_out(nodes: World, sent: bytes, reason: str) -> None:
    one = await nodes.node(1, handshake_timeout_s=0.2 if reason == "handshake_timeout" else 5.0).start()
    reader, writer = await asyncio.open_connection("127.0.0.1", one.network.port)
    writer.write(sent)
    async with asyncio.timeout(10):
        while await reader.read(1000):
            pass
    writer.close()
    await until(one.metrics.refused)
    assert one.metrics.refused() == {reason: 1}
    assert not one.received


async def test_connections_that_prove_nothing_are_bounded(nodes: World) -> None:
    one = await nodes.node(1, handshakes_max=2, handshake_timeout_s=2.0).start()
    held = [await asyncio.open_connection("127.0.0.1", one.network.port) for _ in range(3)]
    await until(lambda: "too_many" in one.metrics.refused())
    assert one.metrics.refused()["too_many"] == 1
    two = await nodes.node(2).start(one.raft_address)
    await until(lambda: one.links_to(2) and two.links_to(1))
    for _, writer in held:
        writer.close()


VIOLATIONS = {
    "oversized": (b"\x7f\xff\xff\xff\x12", "bad_frame"),
    "garbage": (b"\x00\x00\x00\x03\x12\xc1\xc1", "bad_frame"),
    "out of place": (bytes(encode_frame(Kind.OPEN, Open("raft", b"", b"", b""))), "bad_frame"),
    "another's message": (bytes(encode_frame(Kind.MESSAGE, heartbeat(3, 1))), "bad_frame"),
    "message for another": (bytes(encode_frame(Kind.MESSAGE, heartbeat(2, 3))), "bad_frame"),
}


@pytest.mark.parametrize(("sent", "reason"), VIOLATIONS.values(), ids=VIOLATIONS)
async def test_a_peer_that_breaks_the_protocol_is_cut_and_may_come_back(nodes: World, sent: bytes, reason: str) -> None:
    one, two = await nodes.pair()
    link = two.network.outgoing(1)
    assert link is not None
    link.send(sent)
    await until(link.closed.done)
    assert one.metrics.refused() == {reason: 1}
    assert two.unreachable[1] == 1
    assert not one.received
    await until(lambda: two.links_to(1))
    two.network.send(heartbeat(2, 1))
    await until(lambda: one.received == [heartbeat(2, 1)])


async def test_a_damaged_entry_cuts_the_link(nodes: World) -> None:
    one = await nodes.node(1).start()
    proxy = await nodes.proxy(one.raft_address)
    proxy.change = lambda data: data.replace(b"precious", b"precioux")
    two = await nodes.node(2).start(proxy.address)
    await until(lambda: two.links_to(1))
    entry = make_entry(1, 1, 0, b"precious")
    append = AppendRequest(
        sender=2, sender_incarnation=2, to=1, term=1, prev_index=0, prev_term=0, entries=(entry,), commit_index=0
    )
    two.network.send(append)
    await until(lambda: one.metrics.refused() == {"damaged_entry": 1})
    await until(lambda: two.unreachable[1] == 1)
    assert not one.received


@pytest.mark.parametrize("auth", ["secret", "tls"])
async def test_reconnects_after_the_other_side_was_gone(nodes: World, auth: str) -> None:
    one, two = await nodes.pair(auth)
    port = two.network.port
    one.network.set_peers({2: two.raft_address})
    await two.network.close()
    await until(lambda: one.unreachable[2] >= 2)  # the lost link, then a failed dial
    one.network.send(heartbeat(1, 2))
    assert one.metrics.value("scribe_peer_messages_dropped_total", "2") == 1
    assert one.network.connected() == {}
    fresh = await nodes.again(two, port).start(one.raft_address)
    await until(lambda: one.links_to(2) and fresh.links_to(1))
    one.network.send(heartbeat(1, 2))
    await until(lambda: fresh.received == [heartbeat(1, 2)])


async def test_who_shows_up_is_dialed_at_once_however_long_it_was_away(nodes: World) -> None:
    one = await nodes.node(1, dial_delay_s_min=1000.0, dial_delay_s_max=1000.0).start()
    two = await nodes.node(2).start(one.raft_address)
    await until(lambda: one.links_to(2) and two.links_to(1))
    port = two.network.port
    one.network.set_peers({2: two.raft_address})
    await two.network.close()
    await until(lambda: one.unreachable[2] >= 1)
    fresh = await nodes.again(two, port).start(one.raft_address)
    await until(lambda: one.links_to(2) and fresh.links_to(1))


async def test_a_link_that_falls_silent_counts_as_lost(nodes: World) -> None:
    one = await nodes.node(1, ping_interval_s=0.2, idle_timeout_s=1.0).start()
    proxy = await nodes.proxy(one.raft_address)
    two = await nodes.node(2, ping_interval_s=0.2, idle_timeout_s=1.0).start(proxy.address)
    await until(lambda: two.links_to(1) and one.links_to(2))
    link = two.network.outgoing(1)
    assert link is not None
    stands_until_s = asyncio.get_running_loop().time() + 2.0
    await until(lambda: asyncio.get_running_loop().time() > stands_until_s)
    assert link.alive, "pings keep a quiet link alive"
    proxy.flowing.clear()
    await until(link.closed.done)
    assert two.unreachable[1] >= 1


async def test_a_stall_of_this_process_cuts_no_link(nodes: World) -> None:
    one, two = await nodes.pair(ping_interval_s=0.2, idle_timeout_s=1.0)
    links = [one.network.outgoing(2), two.network.outgoing(1)]
    time.sleep(1.5)  # noqa: ASYNC251 - the stall is what is tested
    two.network.send(heartbeat(2, 1))
    await until(lambda: one.received)
    assert [one.network.outgoing(2), two.network.outgoing(1)] == links


async def test_what_waits_on_a_link_is_bounded(nodes: World) -> None:
    one = await nodes.node(1).start()
    proxy = await nodes.proxy(one.raft_address)
    two = await nodes.node(2, output_bytes_max=200_000).start(proxy.address)
    await until(lambda: two.links_to(1))
    proxy.flowing.clear()
    entry = make_entry(1, 1, 0, b"x" * 100_000)
    append = AppendRequest(
        sender=2, sender_incarnation=2, to=1, term=1, prev_index=0, prev_term=0, entries=(entry,), commit_index=0
    )
    for _ in range(400):
        two.network.send(append)
        await asyncio.sleep(0)
    dropped = two.metrics.value("scribe_peer_messages_dropped_total", "1")
    assert dropped > 0
    proxy.flowing.set()
    await until(lambda: len(one.received) == 400 - dropped)


async def test_a_peer_that_moved_is_found_by_its_hello(nodes: World) -> None:
    one, two = await nodes.pair()
    one.network.set_peers({2: two.raft_address})
    await two.network.close()
    moved = await nodes.again(two, 0).start(one.raft_address)
    assert moved.raft_address != two.raft_address
    await until(lambda: one.links_to(2) and moved.links_to(1))
    one.network.send(heartbeat(1, 2))
    await until(lambda: moved.received == [heartbeat(1, 2)])


async def test_a_peer_that_is_no_member_any_more_is_left(nodes: World) -> None:
    one, two = await nodes.node(1).start(), await nodes.node(2).start()
    one.network.set_peers({2: two.raft_address})
    await until(lambda: one.links_to(2) and two.links_to(1))
    two.network.set_peers({})
    one.network.set_peers({})
    await until(lambda: not one.network.connected() or not two.network.connected())


async def test_one_node_under_two_names_has_one_link(nodes: World) -> None:
    one = await nodes.node(1).start()
    port = one.network.port
    two = await nodes.node(2).start(f"127.0.0.1:{port}", f"localhost:{port}")
    await until(lambda: two.links_to(1) and one.links_to(2))
    await until(lambda: all(dialer.node_id == 1 for dialer, _ in two.network._dialers.values()))
    two.network.send(heartbeat(2, 1))
    await until(lambda: one.received)
    assert two.network.outgoing(1) is not None
    assert not two.metrics.refused()
    assert not one.metrics.refused()


async def test_a_secret_is_for_loopback_only(nodes: World) -> None:
    one = await nodes.node(1).start()
    one.network.set_peers({2: "192.0.2.1:9001"})
    await until(one.metrics.refused)
    assert set(one.metrics.refused()) == {"not_loopback"}


async def test_a_secret_is_not_served_beyond_loopback(nodes: World) -> None:
    node = nodes.node(1)
    settings = type(node.network._settings)(
        host="0.0.0.0", port=0, auth="secret", secret_file=node.network._settings.secret_file
    )
    with pytest.raises(ConfigError, match="must be loopback"):
        await TcpPeerNetwork(settings, node.metrics, node.log).start(node, [])


async def test_a_short_secret_and_a_taken_port(nodes: World) -> None:
    node = nodes.node(1, secret="short")
    with pytest.raises(ConfigError, match="needs at least 32 bytes"):
        await node.start()
    one = await nodes.node(1).start()
    with pytest.raises(OSError, match="cannot listen for peers"):
        await nodes.again(one, one.network.port).start()


async def test_certificates_are_read_again(nodes: World) -> None:
    one, two = await nodes.pair("tls")
    key = two.directory / "peer.key"
    kept = key.read_bytes()
    key.write_text("damaged")
    with pytest.raises(ConfigError, match="cannot be used together"):
        two.network.reload()
    key.write_bytes(kept)
    two.network.reload()
    two.network.send(heartbeat(2, 1))
    await until(lambda: one.received)


class StuckTransport:
    """A transport of a socket that is gone, which never says so."""

    def __init__(self) -> None:
        self.socket = socket.socket()
        self.socket.close()
        self.closing = False

    def get_extra_info(self, name: str) -> object:
        return self.socket if name == "socket" else None

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    abort = close


async def test_a_link_that_never_reports_its_end_does_not_keep_the_node_from_ending(nodes: World) -> None:
    one = await nodes.node(1).start()
    link = one.network.new_link(60.0)
    link.connection_made(StuckTransport())  # type: ignore[arg-type]
    assert link.made
    await asyncio.wait_for(one.network.close(), 10.0)
    assert not link.closed.done()
