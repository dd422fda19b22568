"""Asks others who they are before a node takes part: its seeds, which cluster it is to join; or, for an operator, the
members, what they hold.

What is believed is what a seed says in a handshake in which both sides have proved themselves, by the certificates of
the cluster's authority or by its secret. Nobody else learns anything, and nobody can lead a node into another cluster.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from appliance.adapters.peer_auth import Refused, make_auth
from appliance.adapters.peer_dialer import dial
from appliance.adapters.peer_handshake import PURPOSE_MEET, Handshaker, Opened
from appliance.adapters.peer_link import Link
from appliance.adapters.peer_refusals import Refusals
from appliance.adapters.peer_settings import PeerSettings
from appliance.node.peer_ports import Hello
from appliance.node.ports import Identity, Instruments, Log
from appliance.raft.messages import Configuration

ROUND_S: Final = 1.0  # between two rounds in which no seed has told


async def seek_cluster(
    settings: PeerSettings,
    *,
    node_id: int,
    address: str,
    raft_address: str,
    version: str,
    seeds: Sequence[str],
    instruments: Instruments,
    log: Log,
) -> str:
    """Ask one seed after the other, round after round, until one tells; answers the cluster id.

    Refusals are counted and logged as those of any other connection.

    Args:
        settings: of the peer transport.
        node_id: of this node, as its proof says it, too.
        address: its client address.
        raft_address: its peer address.
        version: of the program.
        seeds: peer addresses, at least one.
        instruments: metrics.
        log: structured log.

    Raises:
        ConfigError: a key, certificate or secret cannot be used.
    """
    assert seeds, "somebody must be asked"
    hello = Hello(version, 0, (), Identity("", node_id, 0), address, raft_address, 0, Configuration(), 0)
    seeker = _Seeker(settings, hello)
    refusals = Refusals(instruments, log, asyncio.get_running_loop().time)
    log.info("cluster.seeking", seeds=", ".join(seeds))
    while True:
        for seed in seeds:
            try:
                found = (await seeker.ask(seed)).identity
            except Refused as error:
                refusals.note(seed, error)
            except OSError as error:
                refusals.note_unreachable(seed, 0, error)
            else:
                log.info("cluster.found", peer=found.node_id, cluster_id=found.cluster_id)
                return found.cluster_id
        await asyncio.sleep(ROUND_S)


async def ask_members(settings: PeerSettings, hello: Hello, addresses: Sequence[str]) -> list[Hello | Exception]:
    """Ask who is at each peer address, once, all at the same time; answers hellos, and why there is none, in their
    order.

    Args:
        settings: of the peer transport.
        hello: what the asking node says of itself.
        addresses: whom to ask.

    Raises:
        ConfigError: a key, certificate or secret cannot be used.
    """
    seeker = _Seeker(settings, hello)
    return await asyncio.gather(*(_ask(seeker, address) for address in addresses))


async def _ask(seeker: _Seeker, address: str) -> Hello | Exception:
    try:
        return await seeker.ask(address)
    except (Refused, OSError) as error:
        return error


class _Seeker:
    """The dialer's side of meetings: says who this node is, and lets the other side in whoever it is."""

    def __init__(self, settings: PeerSettings, hello: Hello) -> None:
        self._settings = settings
        self._hello = hello
        self._links: set[Link] = set()
        self._handshaker = Handshaker(make_auth(settings), self, self)

    async def ask(self, address: str) -> Hello:
        """Who is at an address. Raises `Refused` and `OSError`."""
        idle_timeout_s = self._settings.idle_timeout_s
        opened, link = await dial(
            self, self._handshaker, self._settings, address, purpose=PURPOSE_MEET, idle_timeout_s=idle_timeout_s
        )
        link.close()
        return opened.hello

    def hello(self) -> Hello:
        """What this node says of itself."""
        return self._hello

    def admit(self, opened: Opened, *, outgoing: bool) -> None:
        """Refuse who does not know its cluster either."""
        if not opened.hello.identity.cluster_id:
            raise Refused("other_cluster", "it does not know its cluster either")

    def settled(self, opened: Opened) -> None:
        """Nothing is kept of a meeting."""

    def new_link(self, idle_timeout_s: float) -> Link:
        """Make a link; the handshake has its own time-out."""
        return Link(self._settings.output_bytes_max, idle_timeout_s, self._links)
