"""A stand-in for nodes: a real HTTP server on loopback that can be told to fail in chosen ways at chosen requests.

It stands in for `scribe-node` because no real node can be made to cut a connection between commit and answer, or to
answer 503 at exactly the third request. Several of them share one `Ledger`, as the nodes of a cluster do. What the CLI
does against real nodes is tested in `tests/cluster`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from cluster_standin import Roster
from loopback import LoopbackServer

from appliance.tables.errors import ERRORS
from tests.ports import free_ports

API_KEY = "k" * 64
# What a node does with one request:
#   ok             carries it out and answers
#   cut-before     closes the connection without carrying it out
#   cut-after      carries it out and closes the connection without an answer
#   504            carries it out and answers 504 outcome_unknown
#   stranger-503   answers 503 without one of our codes (a gateway between)
#   CODE[:SECONDS] answers that error of the table without carrying it out, Retry-After as given


class Ledger:
    """What a cluster agrees on: applied operations in order, and first answers by idempotency key."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.leaves: list[tuple[str, bytes]] = []
        self.versions: dict[str, int] = {}
        self.answers: dict[str, tuple[str, dict[str, Any]]] = {}

    def apply(
        self, operations: list[tuple[str, bytes]], idempotency_key: str | None, request_hash: str
    ) -> tuple[dict[str, Any] | None, bool]:
        """Apply once for each idempotency key: the answer and whether it is a replay; None for another request."""
        with self.lock:
            if idempotency_key in self.answers:
                held, answer = self.answers[idempotency_key]
                return (answer, True) if held == request_hash else (None, False)
            results = []
            for key, value in operations:
                self.versions[key] = self.versions.get(key, 0) + 1
                results.append({"op": "put", "key": key, "version": self.versions[key], "leaf_index": len(self.leaves)})
                self.leaves.append((key, value))
            answer = {
                "status": "ok",
                "index": len(self.leaves),
                "term": 1,
                "timestamp": "2026-11-23T19:25:31.123456Z",
                "results": results,
            }
            if idempotency_key is not None:
                self.answers[idempotency_key] = (request_hash, answer)
            return answer, False

    def current(self) -> dict[str, bytes]:
        return dict(self.leaves)


class Node(LoopbackServer):
    """One stand-in node. `behaviours` are used up one a request, then it does what `always` says."""

    def __init__(
        self,
        ledger: Ledger,
        behaviours: Iterable[str] = (),
        *,
        always: str = "ok",
        choose: Callable[[], str] | None = None,
        value_bytes_max: int = 1024 * 1024,
        health: dict[str, Any] | None = None,
        figures: dict[str, Any] | None = None,
        roster: Roster | None = None,
    ) -> None:
        self.ledger = ledger
        self.requests: list[tuple[str, str]] = []
        self.value_bytes_max = value_bytes_max
        self.health = health
        self.figures = figures
        self.roster = roster
        self._behaviours = list(behaviours)
        self._always = always
        self._choose = choose
        self._lock = threading.Lock()
        node = self

        class Handler(_Handler):
            owner = node

        super().__init__(Handler)

    def next_behaviour(self) -> str:
        with self._lock:
            if self._behaviours:
                return self._behaviours.pop(0)
        return self._choose() if self._choose else self._always


def refused_url() -> str:
    """A URL on loopback at which nothing listens."""
    (port,) = free_ports(1)
    return f"http://127.0.0.1:{port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: Node

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_DELETE(self) -> None:
        self._serve()

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        self.owner.requests.append((self.command, self.path))
        path = urlsplit(self.path).path
        if path in ("/health", "/metrics"):
            self._look(path)
            return
        if path == "/cluster/nodes" and self.owner.roster is not None:
            self._answer(200, json.dumps({"nodes": self.owner.roster.look()}).encode(), {})
            return
        if path == "/cluster/info" and self.owner.roster is not None:
            self._answer(200, json.dumps(self.owner.roster.info()).encode(), {})
            return
        behaviour = self.owner.next_behaviour()
        if behaviour == "cut-before":
            self._cut()
        elif behaviour == "stranger-503":
            self._answer(503, b"upstream is away", {})
        elif behaviour in ("ok", "cut-after", "504"):
            if self.headers.get("x-api-key") != API_KEY:
                self._problem("unauthenticated")
                return
            status, answer, headers = self._carry_out(body)
            if behaviour == "cut-after":
                self._cut()
            elif behaviour == "504":
                self._problem("outcome_unknown")
            else:
                self._answer(status, answer, headers)
        else:
            code, _, seconds = behaviour.partition(":")
            self._problem(code, seconds)

    def _look(self, path: str) -> None:
        answer = self.owner.health if path == "/health" else self.owner.figures
        if answer is None:
            self._problem("unhealthy")
        else:
            self._answer(200 if answer.get("status", "ok") == "ok" else 503, json.dumps(answer).encode(), {})

    def _carry_out(self, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        parts = urlsplit(self.path)
        if self.owner.roster is not None and self.command == "POST":
            code, answer = self.owner.roster.change(parts.path, json.loads(body or b"{}"))
            return self._error(code) if code else (200, json.dumps(answer).encode(), {})
        if self.command == "GET":
            return self._read(parts.path, parse_qs(parts.query))
        if self.command == "PUT":
            operations = [(unquote(parts.path.removeprefix("/kv/")), body)]
        else:
            asked = json.loads(body)["operations"]
            operations = [(op["key"], self._value(op)) for op in asked]
        if any(len(value) > self.owner.value_bytes_max for _, value in operations):
            return self._error("too_large")
        request_hash = hashlib.sha256(self.command.encode() + self.path.encode() + body).hexdigest()
        answer, again = self.owner.ledger.apply(operations, self.headers.get("idempotency-key"), request_hash)
        if answer is None:
            return self._error("idempotency_mismatch")
        if self.command == "PUT":
            answer = {**answer, **answer["results"][0]}
            del answer["results"], answer["op"]
        return 200, json.dumps(answer).encode(), {"Idempotency-Replayed": "true"} if again else {}

    def _read(self, path: str, query: dict[str, list[str]]) -> tuple[int, bytes, dict[str, str]]:
        ledger = self.owner.ledger
        if path == "/kv":
            after, limit = query.get("after", [""])[0], int(query.get("limit", ["100"])[0])
            keys = [key for key in sorted(ledger.versions, key=str.encode) if key > after]
            items = [
                {"key": k, "version": 1, "leaf_index": 0, "size": 1, "timestamp": "2026-11-23T19:25:31.123456Z"}
                for k in keys[:limit]
            ]
            following = keys[limit - 1] if len(keys) > limit else None
            return 200, json.dumps({"items": items, "next": following}).encode(), {}
        key = unquote(path.removeprefix("/kv/"))
        current = ledger.current()
        if key not in current:
            return self._error("not_found")
        return 200, current[key], {"ETag": f'"{ledger.versions[key]}"', "Scribe-Leaf-Index": "0"}

    @staticmethod
    def _value(operation: dict[str, str]) -> bytes:
        if "value_base64" in operation:
            return base64.b64decode(operation["value_base64"])
        return operation["value"].encode()

    def _error(self, code: str, seconds: str = "") -> tuple[int, bytes, dict[str, str]]:
        row = ERRORS[code]
        wait = seconds or (str(row.retry_after_s) if row.retry_after_s is not None else "")
        body = {
            "code": code,
            "title": row.title,
            "detail": f"{row.title}.",
            "retryable": row.retryable,
            "status": row.status,
        }
        return row.status, json.dumps(body).encode(), {"Retry-After": wait} if wait else {}

    def _problem(self, code: str, seconds: str = "") -> None:
        self._answer(*self._error(code, seconds))

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _cut(self) -> None:
        """Reset the connection, so that the client gets no answer at all."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)
