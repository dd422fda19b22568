"""The server around the application: connections, pipelines, bounds, TLS, an orderly stop."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import socket
import ssl
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from http_rig import Rig, assert_problem, read_reply, running, until
from http_stubs import LogLines

from appliance.http.server import HttpServer
from appliance.tables.settings import TlsSettings

pytestmark = pytest.mark.anyio

HEALTH = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"


def _put(key: str, body: bytes) -> bytes:
    head = f"PUT /kv/{key} HTTP/1.1\r\nhost: x\r\nx-api-key: admin-key\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _get(key: str) -> bytes:
    return f"GET /kv/{key} HTTP/1.1\r\nhost: x\r\nx-api-key: admin-key\r\n\r\n".encode()


async def test_requests_in_a_pipeline_are_answered_in_their_order(rig: Rig) -> None:
    data = b"".join(_put(f"k{n}", b"%d" % n) + _get(f"k{n}") + HEALTH for n in range(20))
    replies = await rig.bytes(data, replies=60)
    assert [reply.json()["key"] for reply in replies[0::3]] == [f"k{n}" for n in range(20)]
    assert [reply.body for reply in replies[1::3]] == [b"%d" % n for n in range(20)]
    assert {reply.status for reply in replies} == {200}


async def test_a_connection_is_kept_and_a_request_may_come_byte_by_byte(rig: Rig) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
    for byte in _put("slow", b"value"):
        writer.write(bytes([byte]))
        await writer.drain()
    assert (await read_reply(reader)).json()["version"] == 1
    writer.write(_get("slow"))
    assert (await read_reply(reader)).body == b"value"
    writer.close()


async def test_connection_close_and_http_1_0_are_honoured(rig: Rig) -> None:
    for request in (b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", b"GET /health HTTP/1.0\r\n\r\n"):
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
        writer.write(request)
        assert (await read_reply(reader)).headers["connection"] == "close"
        assert await reader.read() == b""
        writer.close()


async def test_expect_100_continue_gets_it_only_when_the_body_is_wanted(rig: Rig) -> None:
    head = (
        b"PUT /kv/a HTTP/1.1\r\nhost: x\r\nx-api-key: admin-key\r\nexpect: 100-continue\r\ncontent-length: %d\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
    writer.write(head % 5)
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
    writer.write(b"value")
    assert (await read_reply(reader)).status == 200
    writer.close()
    (refused,) = await rig.bytes(head % 5000, replies=1)
    assert_problem(refused, 413, "too_large")


@pytest.mark.parametrize(
    "data",
    [
        b"nonsense\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /health HTTP/9.9\r\n\r\n",
        b"GET /health HTTP/1.1\r\nhost x\r\n\r\n",
        b"PUT /kv/a HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        b"PUT /kv/a HTTP/1.1\r\ncontent-length: 99999999999999999999999\r\n\r\n",
        b"PUT /kv/a HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\n\r\n",
        b"GET *kv HTTP/1.1\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\n\r\n",
        b"GET http:// HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
    ],
    ids=lambda data: repr(data[:24]),
)
async def test_what_is_no_http_gets_a_problem_document(shared: Rig, data: bytes) -> None:
    (reply,) = await shared.bytes(data, replies=1)
    assert_problem(reply, 400, "bad_request")


async def test_an_upgrade_is_not_followed(shared: Rig) -> None:
    upgrade = b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
    assert [reply.status for reply in await shared.bytes(upgrade, replies=1)] == [200]


async def test_a_head_without_end_is_refused(shared: Rig) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", shared.port)
    writer.write(b"GET /health HTTP/1.1\r\nx-long: ")
    reply = asyncio.ensure_future(read_reply(reader))
    for _ in range(80):
        if reply.done():
            break
        writer.write(b"x" * 1024)
        await asyncio.sleep(0.001)
    assert "65536" in assert_problem(await reply, 400, "bad_request")["detail"]
    writer.close()


async def test_a_head_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.http.protocol.HEAD_TIMEOUT_S", 0.05)
    async with running() as rig:
        for begun in (b"", b"GET /hea", HEALTH + b"GET /hea"):
            replies = await rig.bytes(begun, replies=2 if begun.startswith(HEALTH) else 1)
            assert_problem(replies[-1], 400, "bad_request")


async def test_connections_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.http.protocol.CONNECTIONS_MAX", 1)
    async with running() as rig:
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
        writer.write(HEALTH)
        assert (await read_reply(reader)).status == 200
        (refused,) = await rig.bytes(b"", replies=1)
        assert_problem(refused, 503, "overloaded")
        assert refused.headers["retry-after"] == "1"
        writer.write(HEALTH)
        assert (await read_reply(reader)).status == 200
        writer.close()
        await writer.wait_closed()


async def test_a_busy_port_is_an_os_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = HttpServer(_never, cast("Any", None), host="127.0.0.1", port=port, tls=TlsSettings(), log=LogLines())
        with pytest.raises(OSError, match="in use"):
            await server.start()
        await server.stop(1.0)


async def _never(*_: object) -> None:
    raise AssertionError("no request comes")


class TestStop:
    async def test_it_waits_for_requests_in_flight_and_takes_no_more(self) -> None:
        async with running() as rig:
            rig.node.hold = asyncio.Event()
            put = asyncio.ensure_future(rig.call("PUT", "/kv/a"))
            await until(lambda: bool(rig.node.requests))
            stopping = asyncio.ensure_future(rig.server.stop(5.0))
            await until(lambda: _refuses(rig.port))
            rig.node.hold.set()
            assert (await put).status_code == 200
            await stopping
            assert rig.log.of("http.stopped") == [{"address": f"127.0.0.1:{rig.port}"}]

    @pytest.mark.parametrize(
        ("method", "path", "status", "code"),
        [("PUT", "/kv/a", 504, "outcome_unknown"), ("POST", "/audit/query", 503, "shutting_down")],
    )
    async def test_what_outlasts_the_grace_is_answered_honestly(
        self, method: str, path: str, status: int, code: str
    ) -> None:
        async with running() as rig:
            rig.node.hold = rig.audit.hold = asyncio.Event()
            body = b'{"sql":"SELECT 1"}'
            late = asyncio.ensure_future(rig.call(method, path, content=body))
            await until(lambda: bool(rig.node.requests) or rig.audit.begun.is_set())
            await rig.server.stop(0.05)
            assert_problem(await late, status, code)

    async def test_an_idle_connection_does_not_hold_it_up(self) -> None:
        async with running() as rig:
            reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
            writer.write(HEALTH)
            await read_reply(reader)
            async with asyncio.timeout(2):
                await rig.server.stop(30.0)
            assert await reader.read() == b""
            writer.close()


def _refuses(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return True
    return False


def _certificate(directory: Path) -> TlsSettings:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = directory / "cert.pem", directory / "key.pem"
    cert_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return TlsSettings(cert_file=str(cert_file), key_file=str(key_file))


async def test_tls_when_there_is_a_certificate(tmp_path: Path) -> None:
    tls = _certificate(tmp_path)
    trust = ssl.create_default_context(cafile=tls.cert_file)
    async with running(tls=tls, verify=trust) as rig:
        assert rig.log.of("http.started") == [{"address": f"127.0.0.1:{rig.port}", "tls": True}]
        assert (await rig.call("PUT", "/kv/a", content=b"v" * 4096)).status_code == 200
        assert len((await rig.call("GET", "/kv/a")).content) == 4096
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await rig.bytes(HEALTH, replies=1)


async def test_a_certificate_that_is_not_there_stops_the_start(tmp_path: Path) -> None:
    tls = TlsSettings(cert_file=str(tmp_path / "none.pem"), key_file="")
    server = HttpServer(_never, cast("Any", None), host="127.0.0.1", port=0, tls=tls, log=LogLines())
    with pytest.raises(FileNotFoundError):
        await server.start()
