"""Accepts connections of peers, and holds those that have not proved themselves to a number and a time."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Final, Protocol

from appliance.adapters.config import ConfigError
from appliance.adapters.peer_address import is_loopback, join_address
from appliance.adapters.peer_auth import Refused, tls_reason
from appliance.adapters.peer_handshake import Handshaker, Opened
from appliance.adapters.peer_link import Link
from appliance.adapters.peer_refusals import Refusals
from appliance.adapters.peer_settings import PeerSettings
from appliance.node.ports import Log

BACKLOG: Final = 128
ACCEPT_RETRY_S: Final = 0.2  # after an error such as too many open files


class ListenerOwner(Protocol):
    """Whom a listener accepts for."""

    def new_link(self, idle_timeout_s: float) -> Link:
        """Make a link that the owner watches for silence."""
        ...

    def accepted(self, opened: Opened, link: Link) -> None:
        """A peer has connected and proved itself."""
        ...


class PeerListener:
    """The listening side.

    Connections are accepted one by one, not by `create_server`, because only so a failed TLS handshake can be counted.
    """

    def __init__(
        self, owner: ListenerOwner, handshaker: Handshaker, settings: PeerSettings, refusals: Refusals, log: Log
    ) -> None:
        self._owner = owner
        self._handshaker = handshaker
        self._settings = settings
        self._refusals = refusals
        self._log = log
        self._handshakes: set[asyncio.Task[None]] = set()
        self._socket: socket.socket | None = None
        self._task: asyncio.Task[None] | None = None
        self.port = 0

    async def open(self) -> None:
        """Bind and listen. Raises `OSError`, or `ConfigError` for a shared secret beyond loopback."""
        host, port = self._settings.host, self._settings.port
        if self._settings.auth == "secret" and not is_loopback(host):
            raise ConfigError([f'network.raft_host: {host!r} must be loopback, because network.peer_auth is "secret"'])
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        self._socket = socket.socket(family, kind, protocol)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.setblocking(False)
            self._socket.bind(address)
            self._socket.listen(BACKLOG)
        except OSError as error:
            self._socket.close()
            raise OSError(
                error.errno, f"cannot listen for peers at {join_address(host, port)}: {error.strerror}"
            ) from error
        self.port = self._socket.getsockname()[1]
        self._log.info("peer.listening", address=join_address(host, self.port), auth=self._settings.auth)
        self._task = loop.create_task(self._accept_all(self._socket))

    async def close(self) -> None:
        """Stop listening and drop handshakes under way."""
        tasks = [*self._handshakes, *([self._task] if self._task is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._socket is not None:
            self._socket.close()

    async def _accept_all(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, address = await loop.sock_accept(listening)
            except OSError as error:
                self._log.error("peer.accept_failed", reason=str(error))
                await asyncio.sleep(ACCEPT_RETRY_S)
                continue
            name = join_address(str(address[0]), int(address[1]))
            if len(self._handshakes) >= self._settings.handshakes_max:
                connection.close()
                self._refusals.note(str(address[0]), Refused("too_many"))
                continue
            task = loop.create_task(self._handshake(connection, name))
            self._handshakes.add(task)
            task.add_done_callback(self._handshakes.discard)

    async def _handshake(self, connection: socket.socket, address: str) -> None:
        """Let one connection prove itself; `address` loses its port where refusals are compared."""
        host = address.rpartition(":")[0]
        loop = asyncio.get_running_loop()
        link = self._owner.new_link(self._settings.idle_timeout_s)
        try:
            async with asyncio.timeout(self._settings.handshake_timeout_s):
                # The protocol that this answers is the link with asyncio, but not with uvloop and TLS.
                await loop.connect_accepted_socket(lambda: link, connection, ssl=self._handshaker.auth.server_context())
                opened = await self._handshaker.accept(link)
            self._owner.accepted(opened, link)
            return
        except Refused as error:
            self._refusals.note(host, error)
        except TimeoutError:
            self._refusals.note(host, Refused("handshake_timeout"))
        except ssl.SSLError as error:
            by_peer = "ALERT" in str(error).upper()
            self._refusals.note(host, Refused(tls_reason(error), str(error), by_peer=by_peer))
        except OSError as error:
            if self._handshaker.auth.server_context() is not None and not link.made:
                # One that does not trust this node's certificate ends TLS without a word.
                self._refusals.note(host, Refused("tls", "the other side ended the TLS handshake", by_peer=True))
            self._log.debug("peer.handshake_lost", address=address, reason=str(error))
        except Exception as error:  # a bug must neither end the listening nor stay unseen
            self._log.error("peer.accept_failed", reason=repr(error), error=error)
        finally:
            if not link.made:
                connection.close()
        link.close()
