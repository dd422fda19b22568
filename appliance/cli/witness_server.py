"""A small independent witness (c2sp.org/tlog-witness): decides about checkpoints that logs submit, and cosigns them.

It knows nothing of nodes and clusters: only the keys of the logs that it was told of, and what it has cosigned.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Awaitable, Callable, Iterator, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, cast

import msgspec
import uvicorn

from appliance.adapters.ed25519 import SigningKey, verify
from appliance.adapters.witness_store import LogRow, WitnessStore
from appliance.ledger.cosignature import cosign
from appliance.ledger.note import Ed25519Verifier, VerifierKey, format_verifier_key
from appliance.ledger.witnessing import (
    REQUEST_BYTES_MAX,
    TEXT_CONTENT_TYPE,
    Answer,
    TreeHead,
    Verdict,
    answer,
    decide,
    parse_request,
)
from appliance.node.ports import DiskFull, StorageError

BODY_S: Final = 10.0  # within which a request's body has to come
CONNECTIONS_MAX: Final = 64  # beyond it 503; each may hold one request of `REQUEST_BYTES_MAX`
KEEP_ALIVE_S: Final = 75
STOP_GRACE_S: Final = 5
BACKLOG: Final = 64

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class WitnessDesk:
    """Takes submissions, one at a time. All of it blocks, and is called on one thread.

    Args:
        key: the witness's own, of type 0x04.
        logs: keys of the logs that it knows, of type 0x01; several of one name are several keys of one log. Raises
            `VerifierKeyError` when one is of another type.
        store: what it has cosigned.
        tell: is told what was refused, a line each.
    """

    def __init__(
        self, key: SigningKey, logs: Sequence[VerifierKey], store: WitnessStore, tell: Callable[[str], None]
    ) -> None:
        self._key = key
        self._store = store
        self._tell = tell
        self._logs: dict[str, list[Ed25519Verifier]] = {}
        for log in logs:
            self._logs.setdefault(log.name, []).append(Ed25519Verifier(log, verify))

    def submit(self, body: bytes) -> Answer:
        """Decide about an add-checkpoint request; what is cosigned is durable before the answer is made. Raises
        `StorageError`.
        """
        now_s = int(time.time())
        with self._store.submission():
            decision = decide(body, self._logs, self._store.head)
            checkpoint = decision.checkpoint
            if decision.verdict is Verdict.COSIGN:
                assert checkpoint is not None
                head = TreeHead(checkpoint.size, checkpoint.root)
                self._store.keep(checkpoint.origin, head, parse_request(body).checkpoint, now_s)
            elif decision.verdict is Verdict.ROOT_DIFFERS:
                assert checkpoint is not None
                self._store.keep_fork(checkpoint.origin, parse_request(body).checkpoint, now_s)
        if decision.verdict is Verdict.COSIGN:
            return answer(decision, [cosign(decision.text, now_s, self._key.verifier_key, self._key.sign)])
        if decision.verdict is not Verdict.SIZE_STALE:  # which is how a log asks for the size
            origin = checkpoint.origin if checkpoint is not None else "-"
            self._tell(f"{decision.verdict} {origin!r:.100}: {decision.reason}")
        return answer(decision)

    def overview(self) -> bytes:
        """What it knows of each log, as JSON for people. Raises `StorageError`."""
        rows = {row.origin: row for row in self._store.rows()}
        logs = [_overview(origin, rows.get(origin)) for origin in sorted(rows.keys() | self._logs.keys())]
        return msgspec.json.encode({"verifier_key": format_verifier_key(self._key.verifier_key), "logs": logs})

    def close(self) -> None:
        """Close the state."""
        self._store.close()


def _overview(origin: str, row: LogRow | None) -> dict[str, object]:
    if row is None:
        return {"origin": origin, "size": 0, "root": None, "since_s": None, "forked": False}
    root = row.head.root.hex()
    return {"origin": origin, "size": row.head.size, "root": root, "since_s": row.since_s, "forked": bool(row.fork)}


class WitnessServer:
    """Serves a witness's desk by HTTP: `POST /add-checkpoint`, and `GET /` for people.

    Args:
        desk: decides.
        host: name or address to listen on.
        port: 0 for any.
        tell: is told why it cannot go on.
    """

    def __init__(self, desk: WitnessDesk, host: str, port: int, tell: Callable[[str], None]) -> None:
        self._desk = desk
        self._host = host
        self.port = port
        self._tell = tell
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="witness-desk")  # one submission at a time
        self.failed = asyncio.Event()  # what it has cosigned cannot be kept any more: it has to be started anew
        self._server: _QuietServer | None = None
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen. Raises `OSError`."""
        family, kind, protocol, _, place = socket.getaddrinfo(self._host, self.port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(place)
            listener.setblocking(False)
            listener.listen(BACKLOG)  # from here on connections wait, until they are taken
        except OSError:
            listener.close()
            raise
        self.port = listener.getsockname()[1]
        self._server = _QuietServer(self._config())
        self._serving = asyncio.create_task(self._server.serve(sockets=[listener]), name="witness-http")

    def _config(self) -> uvicorn.Config:
        return uvicorn.Config(
            cast("Any", self._respond),
            http="httptools",
            loop="none",
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            log_level="error",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            limit_concurrency=CONNECTIONS_MAX,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=STOP_GRACE_S,
            backlog=BACKLOG,
        )

    async def stop(self) -> None:
        """Take no more, end what is under way, and close the state."""
        if self._server is not None and self._serving is not None:
            self._server.should_exit = True
            await self._serving
        await asyncio.get_running_loop().run_in_executor(self._thread, self._desk.close)
        self._thread.shutdown()

    async def _respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        reply = await self._reply(scope["method"], scope["path"], receive)
        if reply is None:
            return
        headers = [
            (b"content-type", reply.content_type.encode()),
            (b"content-length", str(len(reply.body)).encode()),
        ]
        if reply.status in (408, 413):  # the rest of the body is not read
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": reply.body})

    async def _reply(self, method: str, path: str, receive: Receive) -> Answer | None:
        """The answer; None when who asked has left."""
        routes = {"/add-checkpoint": ("POST",), "/": ("GET", "HEAD")}
        if path not in routes:
            return _text(404, "there is nothing here; submit to /add-checkpoint")
        if method not in routes[path]:
            return _text(405, f"it takes {' and '.join(routes[path])}")
        if path == "/":
            return await self._on_thread(lambda: Answer(200, "application/json", self._desk.overview()))
        return await self._take(receive)

    async def _take(self, receive: Receive) -> Answer | None:
        """Take a submission; None when who asked has left."""
        try:
            async with asyncio.timeout(BODY_S):
                body = await _read_body(receive)
        except TimeoutError:
            return _text(408, f"the body did not come within {BODY_S:g} s")
        except ConnectionError:
            return None
        if body is None:
            return _text(413, f"a request has at most {REQUEST_BYTES_MAX} bytes")
        return await self._on_thread(lambda: self._desk.submit(body))

    async def _on_thread(self, work: Callable[[], Answer]) -> Answer:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except DiskFull as error:
            self._tell(str(error))
            return _text(503, "there is no room for what would be cosigned")
        except StorageError as error:
            self._tell(str(error))
            self.failed.set()
            return _text(500, "what would be cosigned cannot be kept")


class _QuietServer(uvicorn.Server):
    """A server that leaves signals to the process that it lives in."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


async def _read_body(receive: Receive) -> bytes | None:
    """The body; None when it is too long. Raises `ConnectionError` when who asked has left."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise ConnectionError
        body += message.get("body", b"")
        if len(body) > REQUEST_BYTES_MAX:
            return None
        if not message.get("more_body", False):
            return bytes(body)


def _text(status: int, text: str) -> Answer:
    return Answer(status, TEXT_CONTENT_TYPE, f"{text}\n".encode())
