"""Keeps one outgoing connection to one address, with capped and jittered back-off."""

from __future__ import annotations

import asyncio
import contextlib
import random
import ssl
from typing import Final, Protocol

from appliance.adapters.peer_address import is_loopback, split_address
from appliance.adapters.peer_auth import Refused, tls_reason
from appliance.adapters.peer_handshake import PURPOSE_RAFT, Handshaker, Opened
from appliance.adapters.peer_link import Link
from appliance.adapters.peer_settings import PeerSettings

DOUBLINGS_MAX: Final = 16  # beyond it the longest delay holds anyway


class LinkMaker(Protocol):
    """Who makes links, and so knows which there are."""

    def new_link(self, idle_timeout_s: float) -> Link:
        """Make a link that the owner watches for silence."""
        ...


class DialerOwner(LinkMaker, Protocol):
    """What a dialer tells, and asks, whom it dials for."""

    def dialed(self, opened: Opened, link: Link, address: str) -> None:
        """A connection for Raft stands, made to this address."""
        ...

    def dial_failed(self, address: str, node_id: int, error: Exception) -> None:
        """It could not be made; `node_id` is 0 when nobody was met at this address yet."""
        ...

    def outgoing(self, node_id: int) -> Link | None:
        """The connection to a node that stands, whatever address it was dialed at."""
        ...


async def dial(
    owner: LinkMaker,
    handshaker: Handshaker,
    settings: PeerSettings,
    address: str,
    *,
    purpose: str,
    idle_timeout_s: float,
) -> tuple[Opened, Link]:
    """Connect to an address and carry out the handshake.

    Raises:
        Refused: by either side.
        OSError: nobody answered, or the link was lost; `TimeoutError` (an OSError) after `handshake_timeout_s`.
    """
    try:
        host, port = split_address(address)
    except ValueError as error:
        raise OSError(str(error)) from error
    if settings.auth == "secret" and not is_loopback(host):
        raise Refused("not_loopback", f"{host} is not loopback, and a shared secret is for loopback only")
    loop = asyncio.get_running_loop()
    link = owner.new_link(idle_timeout_s)
    try:
        async with asyncio.timeout(settings.handshake_timeout_s):
            await loop.create_connection(lambda: link, host, port, ssl=handshaker.auth.client_context())
            return await handshaker.dial(link, purpose), link
    except BaseException as error:
        if not isinstance(error, Refused):
            link.abort()
        if isinstance(error, ssl.SSLError):
            raise Refused(tls_reason(error), str(error), by_peer="ALERT" in str(error).upper()) from error
        raise


class Dialer:
    """Dials one address for as long as its task runs.

    Args:
        owner: told about every success and failure.
        handshaker: this node's part in a handshake.
        settings: delays and time-outs.
        address: host:port.
        node_id: who is expected there, or 0.
    """

    def __init__(
        self, owner: DialerOwner, handshaker: Handshaker, settings: PeerSettings, address: str, node_id: int
    ) -> None:
        self.address = address
        self.node_id = node_id
        self._owner = owner
        self._handshaker = handshaker
        self._settings = settings
        self._random = random.Random()  # noqa: S311 - spreads retries, guards nothing
        self._failures = 0
        self._wanted = asyncio.Event()

    def hurry(self) -> None:
        """The node at this address has shown up: do not wait for the end of the delay."""
        self._failures = 0
        self._wanted.set()

    async def run(self) -> None:
        """Connect, wait for the end of the connection, and again. Returns when the address is this node's own."""
        loop = asyncio.get_running_loop()
        while True:
            start_s = loop.time()
            self._wanted.clear()
            link = self._owner.outgoing(self.node_id)
            if link is None:
                try:
                    link = await self._connect()
                except Refused as error:
                    if error.reason == "self":
                        return
                    self._failed(error)
                except Exception as error:  # an error of who hears of the link must not end the dialing
                    self._failed(error)
            if link is not None:
                await asyncio.wait([link.closed])
                if loop.time() - start_s > self._settings.dial_delay_s_max:
                    self._failures = 0
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._delay_s()):
                    await self._wanted.wait()

    async def _connect(self) -> Link:
        opened, link = await dial(
            self._owner,
            self._handshaker,
            self._settings,
            self.address,
            purpose=PURPOSE_RAFT,
            idle_timeout_s=self._settings.idle_timeout_s,
        )
        self.node_id = opened.hello.identity.node_id
        self._owner.dialed(opened, link, self.address)
        return link

    def _failed(self, error: Exception) -> None:
        if isinstance(error, Refused) and error.reason == "duplicate":
            self.node_id = error.node_id  # connected by another name of the same node: wait for that link's end
        else:
            self._owner.dial_failed(self.address, self.node_id, error)

    def _delay_s(self) -> float:
        ceiling = min(self._settings.dial_delay_s_min * (1 << self._failures), self._settings.dial_delay_s_max)
        self._failures = min(self._failures + 1, DOUBLINGS_MAX)
        return ceiling * self._random.uniform(0.5, 1.0)
