"""A running client port for tests: real uvicorn on loopback, and what `http_stubs` has behind it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import httpx
from http_stubs import AuditStub, Clock, LedgerNode, LogLines, TracerStub

from appliance.adapters.telemetry.metrics import Registry
from appliance.admission.keys import KeyRegistry
from appliance.admission.rate import RateLimiter
from appliance.http.app import create_app
from appliance.http.gateway import GatewayDeps
from appliance.http.route import Route
from appliance.http.server import HttpServer
from appliance.tables.roles import Role
from appliance.tables.settings import (
    LogSettings,
    NodeSettings,
    PerformanceSettings,
    SecuritySettings,
    Settings,
    StorageSettings,
    TlsSettings,
)

KEYS = {role.value: f"{role.value}-key" for role in Role}
GENEROUS = {"max_requests": 6_000_000, "window_secs": 60, "burst_size": 200_000}


EXAMPLES = {"{key}": "a", "{level}": "0", "{index}": "000.p/1"}  # for what a path leaves open


def path_of(route: Route) -> str:
    """A path of a route that answers 200 once the key `a` has been written, with what its query needs."""
    path = route.path
    for name, example in EXAMPLES.items():
        path = path.replace(name, example)
    return path + ("?" + "&".join(f"{name}=0" for name in route.needed) if route.needed else "")


def keys_file(keys: dict[str, str] | None = None) -> bytes:
    """An API keys file: for each name a role, the key being `<name>-key`."""
    roles = keys or {role.value: role.value for role in Role}
    rows = [
        {"name": name, "role": role, "sha256": sha256(f"{name}-key".encode()).hexdigest()}
        for name, role in roles.items()
    ]
    return json.dumps({"format": 1, "keys": rows}).encode()


@dataclass
class Reply:
    """A parsed HTTP/1.1 response; header names are lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Rig:
    """A client port and everything behind it."""

    server: HttpServer
    node: LedgerNode
    audit: AuditStub
    log: LogLines
    tracer: TracerStub
    clock: Clock
    metrics: Registry
    client: httpx.AsyncClient

    @property
    def port(self) -> int:
        return self.server.port

    async def call(self, method: str, path: str, key: str | None = "admin", **kwargs: Any) -> httpx.Response:
        """A request through httpx, with the API key of a role."""
        headers = {**({"x-api-key": f"{key}-key"} if key else {}), **kwargs.pop("headers", {})}
        return await self.client.request(method, path, headers=headers, **kwargs)

    async def raw(
        self, method: bytes, target: bytes, headers: tuple[bytes, ...] = (), body: bytes = b"", key: bytes = b"admin"
    ) -> Reply:
        """A request whose target goes out byte for byte."""
        head = [method + b" " + target + b" HTTP/1.1", b"host: x", b"x-api-key: " + key + b"-key", *headers]
        if body:
            head.append(b"content-length: %d" % len(body))
        (reply,) = await self.bytes(b"\r\n".join(head) + b"\r\n\r\n" + body, replies=1)
        return reply

    async def bytes(self, data: bytes, replies: int) -> list[Reply]:
        """Send bytes on one connection and read that many responses."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(data)
            return [await read_reply(reader) for _ in range(replies)]
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def metric(self, line: str) -> float:
        """The value of a sample, named as in the exposition; 0 when it is not there."""
        for found in self.metrics.render("text/plain")[0].decode().splitlines():
            name, _, value = found.rpartition(" ")
            if name == line:
                return float(value)
        return 0.0


async def read_reply(reader: asyncio.StreamReader) -> Reply:
    """Read one response with a Content-Length."""
    head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)).decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:-2])}
    body = await asyncio.wait_for(reader.readexactly(int(headers.get("content-length", 0))), 10)
    return Reply(int(head[0].split()[1]), headers, body)


class Port:
    """An open client port whose application can be exchanged: a stop takes uvicorn a third of a second."""

    def __init__(self, tls: TlsSettings | None = None) -> None:
        self.app: Any = None
        self.log = LogLines()
        self.server = HttpServer(self._serve, self, host="127.0.0.1", port=0, tls=tls or TlsSettings(), log=self.log)

    def __getattr__(self, name: str) -> Any:  # hot, begin, admit, end: of whichever application is behind the port
        return getattr(self.app.gateway, name)

    async def _serve(self, scope: Any, receive: Any, send: Any) -> None:
        await self.app(scope, receive, send)


@contextlib.asynccontextmanager
async def opened(tls: TlsSettings | None = None) -> AsyncIterator[Port]:
    """Open a client port, with an application that knows nothing, and close it again."""
    port = Port(tls)
    port.app = _application(port.log)[0]
    await port.server.start()
    try:
        yield port
    finally:
        await port.server.stop(5.0)


@contextlib.asynccontextmanager
async def running(tls: TlsSettings | None = None, verify: Any = True, **settings: Any) -> AsyncIterator[Rig]:
    """Start a client port and stop it again."""
    async with opened(tls) as port, furnished(port, "https" if tls else "http", verify, **settings) as rig:
        yield rig


@contextlib.asynccontextmanager
async def furnished(port: Port, scheme: str = "http", verify: Any = True, **settings: Any) -> AsyncIterator[Rig]:
    """Put a new application behind an open port."""
    port.app, deps = _application(port.log, **settings)
    port.log.lines = [line for line in port.log.lines if line[1] == "http.started"]
    url = f"{scheme}://127.0.0.1:{port.server.port}"
    async with httpx.AsyncClient(base_url=url, verify=verify) as client:
        yield Rig(port.server, *deps, client)


def _application(
    log: LogLines,
    *,
    limits: dict[str, int] | None = None,
    frozen: bool = False,
    metrics_access: str = "nobody",
    public: bool = False,
    value_bytes_max: int = 4096,
    operations_max: int = 5,
    answers_max: int = 100,
) -> tuple[Any, tuple[LedgerNode, AuditStub, LogLines, TracerStub, Clock, Registry]]:
    """An application, and what stands behind it."""
    node, audit, tracer = LedgerNode(answers_max), AuditStub(), TracerStub()
    clock, metrics = Clock(frozen=frozen), Registry(1)
    settings = Settings(
        node=NodeSettings(id=1),
        storage=StorageSettings(max_value_size=value_bytes_max),
        performance=PerformanceSettings(max_batch_operations=operations_max),
        security=SecuritySettings(metrics_access=metrics_access),
        log=LogSettings(public=public),
    )
    deps = GatewayDeps(
        node=node,
        audit=audit,
        keys=KeyRegistry.parse(keys_file()),
        limiter=RateLimiter(**(limits or GENEROUS)),
        settings=settings,
        instruments=metrics,
        tracer=tracer,
        log=log,
        clock=clock,
        render_metrics=metrics.render,
        version="0.1.0",
    )
    return create_app(deps), (node, audit, log, tracer, clock, metrics)


async def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds, five seconds at most."""
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("the condition did not come to hold")


_numbers = itertools.count()


def fresh_key() -> str:
    """A key that no other test uses."""
    return f"k{next(_numbers)}"


PROBLEM_MEMBERS = {"type", "title", "status", "detail", "code", "retryable", "request_id", "error"}


def assert_problem(reply: httpx.Response | Reply, status: int, code: str) -> dict[str, Any]:
    """Hold a response to the one error shape, and answer the document."""
    assert reply.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = reply.json()
    assert document.keys() >= PROBLEM_MEMBERS
    assert (document["status"], document["code"]) == (status, code), document
    status_line = reply.status if isinstance(reply, Reply) else reply.status_code
    assert status_line == status
    assert document["error"] == document["detail"] != ""
    return document
