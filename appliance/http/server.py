"""The client port: uvicorn inside the node's own event loop."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import ssl
from collections.abc import Iterator
from typing import Any, cast

import uvicorn

from appliance.http.direct import DirectGateway, DirectProtocol
from appliance.http.front import AsgiApp
from appliance.http.limits import KEEP_ALIVE_S
from appliance.node.ports import Log
from appliance.tables.settings import TlsSettings

BACKLOG = 2048


class _QuietServer(uvicorn.Server):
    """A server that leaves signals to the process it lives in."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


class HttpServer:
    """Serves the client port on one address, with TLS when there is a certificate.

    Args:
        app: takes what is not hot.
        gateway: takes hot requests directly.
        host: name or address to listen on.
        port: 0 for any.
        tls: certificate and key.
        log: structured log.
    """

    def __init__(
        self, app: AsgiApp, gateway: DirectGateway, *, host: str, port: int, tls: TlsSettings, log: Log
    ) -> None:
        self._host = host
        self._port = port
        self._tls = tls
        self._log = log
        self._app = app
        self._gateway = gateway
        self._server: _QuietServer | None = None
        self._serving: asyncio.Task[None] | None = None
        self._bound: tuple[str, int] | None = None

    @property
    def port(self) -> int:
        """The port that is bound; the one that was asked for, before `start`."""
        return self._bound[1] if self._bound else self._port

    async def start(self) -> None:
        """Listen. Raises `OSError` when the address cannot be bound or the certificate cannot be read, and
        `ssl.SSLError` when certificate and key do not fit.
        """
        assert self._serving is None, "a server starts once"
        context = self._ssl_context()
        listener = _bind(self._host, self._port)
        self._bound = listener.getsockname()[:2]
        server = _QuietServer(self._config(context))
        self._server = server
        self._serving = asyncio.create_task(server.serve(sockets=[listener]), name="http")
        while not server.started:  # uvicorn tells by nothing else
            if self._serving.done():
                listener.close()
                await self._serving
                raise RuntimeError("the HTTP server ended before it had started")
            await asyncio.sleep(0.005)
        self._log.info("http.started", address=f"{self._host}:{self.port}", tls=context is not None)

    async def stop(self, grace_s: float) -> None:
        """Accept nothing more, give requests in flight `grace_s` to end, then cut them short, answered."""
        if self._server is None or self._serving is None:
            return
        self._server.config.timeout_graceful_shutdown = cast("Any", grace_s)  # asyncio takes fractions
        self._server.should_exit = True
        await self._serving
        for connection in tuple(self._server.server_state.connections):
            cast("DirectProtocol", connection).abort_if_deaf()
        await asyncio.gather(*self._server.server_state.tasks, return_exceptions=True)
        for connection in tuple(self._server.server_state.connections):
            cast("DirectProtocol", connection).cut_short()
        self._server = self._serving = None
        self._log.info("http.stopped", address=f"{self._host}:{self.port}")

    def _config(self, context: ssl.SSLContext | None) -> uvicorn.Config:
        return uvicorn.Config(
            cast("Any", self._app),
            http=cast("Any", functools.partial(DirectProtocol, gateway=self._gateway)),
            loop="none",  # the node's own loop is running
            ws="none",
            lifespan="on",
            interface="asgi3",
            log_config=None,  # the node configures logging
            log_level="error",  # below that, it has a line for every scrap that a port scanner sends
            access_log=False,  # metrics count every request; a line for each would cost more than serving it
            proxy_headers=False,  # nobody may claim another address and with it another rate limit
            server_header=False,
            date_header=True,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_S,
            ssl_context_factory=(lambda config, default: context) if context else None,
        )

    def _ssl_context(self) -> ssl.SSLContext | None:
        if not self._tls.cert_file:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self._tls.cert_file, self._tls.key_file or None)
        return context


def _bind(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener
