"""A small real log, and nodes that serve it over HTTP and misbehave in one way each.

The log is built with the pure modules of the ledger, signed with real keys, and served by a real server on loopback.
What a node does wrong is a function over its right answer, so that a test's row says no more than what is wrong.
"""

from __future__ import annotations

import json
import time
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from hashlib import sha256
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, unquote, urlsplit

from loopback import LoopbackServer

from appliance.adapters.ed25519 import SigningKey
from appliance.cli.verify_checks import stamp_text
from appliance.ledger.bundles import encode_bundle
from appliance.ledger.checkpoint import Checkpoint, sign_checkpoint
from appliance.ledger.cosignature import cosign
from appliance.ledger.encoding import Leaf, decode_leaf, encode_leaf, value_hash
from appliance.ledger.merkle import consistency_proof, inclusion_proof, leaf_hash, root_of
from appliance.ledger.note import SignatureType, format_note, format_verifier_key, with_signatures
from appliance.ledger.proof_extra import ProofExtra, encode_extra
from appliance.ledger.proof_file import ProofFile, format_proof
from appliance.ledger.tile_paths import BundleId, TileId, parse_path
from appliance.ledger.tiles import TileBuilder, TileNodes
from appliance.tables.errors import ERRORS

API_KEY = "k" * 64
ORIGIN = "scribe-ledger/0123456789abcdef/1"
LOG = SigningKey(ORIGIN, SignatureType.ED25519, bytes(range(32)))
FORGER = SigningKey(ORIGIN, SignatureType.ED25519, bytes(range(1, 33)))
OTHER_LOG = SigningKey("scribe-ledger/fedcba9876543210/1", SignatureType.ED25519, bytes(range(2, 34)))
WITNESS = SigningKey("witness.example", SignatureType.COSIGNATURE_V1, bytes([7]) * 32)
VERIFIER_KEY = format_verifier_key(LOG.verifier_key)
START_US = 1_795_462_000_000_000


class SmallLog:
    """Leaves with their values, as a ledger has them, and its tree."""

    def __init__(self) -> None:
        self.leaves: list[bytes] = []
        self.values: list[bytes] = []
        self.heads: dict[str, Leaf] = {}
        self._tiles: dict[TileId, bytes] = {}
        self._builder = TileBuilder()

    def put(self, key: str, value: bytes) -> int:
        return self.batch([(key, value)])

    def delete(self, key: str) -> int:
        return self.batch([(key, None)])

    def batch(self, operations: list[tuple[str, bytes | None]]) -> int:
        """Add a batch; answers the index of its last leaf."""
        batch_id = len(self.leaves)
        for position, (key, value) in enumerate(operations):
            self.add(self.next_leaf(key, value, batch_id, position, len(operations)), value or b"")
        return len(self.leaves) - 1

    def next_leaf(
        self, key: str, value: bytes | None, batch_id: int | None = None, position: int = 0, count: int = 1
    ) -> Leaf:
        before = self.heads.get(key)
        batch_id = len(self.leaves) if batch_id is None else batch_id
        return Leaf(
            batch_id=batch_id,
            batch_position=position,
            batch_count=count,
            op="delete" if value is None else "put",
            key=key,
            version=before.version + 1 if before else 1,
            prev_leaf_index=before.leaf_index if before else None,
            value_hash=None if value is None else value_hash(salt_of(batch_id + position), value),
            value_size=len(value or b""),
            actor="alice",
            request_id=f"r{batch_id}",
            timestamp_us=START_US + batch_id,
        )

    def add(self, leaf: Leaf, value: bytes = b"") -> None:
        self.heads[leaf.key] = leaf
        self.add_bytes(encode_leaf(leaf), value)

    def add_bytes(self, leaf: bytes, value: bytes = b"") -> None:
        self.leaves.append(leaf)
        self.values.append(value)
        for whole in self._builder.append(leaf_hash(leaf)):
            self._tiles[whole.tile] = whole.data

    def head_at(self, key: str, size: int) -> Leaf | None:
        """The last leaf of a key among so many."""
        leaf = self.heads.get(key)
        while leaf is not None and leaf.leaf_index >= size:
            before = leaf.prev_leaf_index
            leaf = None if before is None else decode_leaf(self.leaves[before])
        return leaf

    def tile(self, tile: TileId) -> bytes:
        if replace(tile, width=256) in self._tiles:
            return self._tiles[replace(tile, width=256)][: tile.width * 32]
        edge = {one.tile.level: one for one in self._builder.partial_tiles()}[tile.level]
        assert edge.tile.index == tile.index
        return edge.data[: tile.width * 32]

    def nodes(self) -> TileNodes:
        return TileNodes(len(self.leaves), self.tile)

    def checkpoint(self, size: int, key: SigningKey = LOG, *, cosigned: bool = False) -> bytes:
        text = Checkpoint(key.verifier_key.name, size, root_of(size, self.nodes()))
        note = sign_checkpoint(text, key.verifier_key, key.sign)
        if cosigned:
            note = with_signatures(note, [cosign(note.text, 1_795_462_000, WITNESS.verifier_key, WITNESS.sign)])
        return format_note(note)

    def proof_file(self, leaf_index: int, size: int, checkpoint: bytes, leaf: bytes = b"") -> bytes:
        path = inclusion_proof(leaf_index, size, self.nodes())
        extra = ProofExtra(leaf or self.leaves[leaf_index], salt_of(leaf_index), (LOG.verifier_key,))
        return format_proof(ProofFile(leaf_index, tuple(path), checkpoint, encode_extra(extra)))


def salt_of(leaf_index: int) -> bytes:
    return sha256(f"salt {leaf_index}".encode()).digest()[:16]


def some_log(count: int = 700) -> SmallLog:
    """Puts of 150 keys over and over, some batches, a deleted key, and one that came back."""
    log = SmallLog()
    log.batch([("gone", b"1"), ("back", b"1"), ("kept/ü", b"1")])
    log.delete("gone")
    log.delete("back")
    log.put("back", b"2")
    while len(log.leaves) < count:
        number = len(log.leaves)
        log.put(f"key-{number * 7 % 150:03}", f"value {number}".encode())
    return log


@dataclass(frozen=True)
class Reply:
    """What a node answers: at once, after a while, or byte by byte."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    drip_s: float = 0.0


Fault = Callable[[str, Reply], Reply]


class LogNode(LoopbackServer):
    """A node that serves a log.

    Args:
        log: what it serves.
        size: how many entries it has published; all by default. The others it does not have yet.
        fault: what is wrong with it, as a function of path and right answer.
        applied: how many entries its values and list of keys show; all of the log by default.
    """

    def __init__(
        self,
        log: SmallLog,
        *,
        size: int | None = None,
        fault: Fault = lambda _path, reply: reply,
        applied: int | None = None,
        cosigned: bool = False,
    ) -> None:
        self.log = log
        self.size = len(log.leaves) if size is None else size
        self.applied = len(log.leaves) if applied is None else applied
        self.fault = fault
        self.cosigned = cosigned
        self.requests: list[str] = []
        self._present_at = -1
        self._present_heads: list[Leaf] = []
        node = self

        class Handler(_Handler):
            owner = node

        super().__init__(Handler)

    # -- right answers

    def answer(self, path: str, query: dict[str, str], api_key: str | None) -> Reply:
        if not path.startswith("/log/") and api_key != API_KEY:
            return problem("unauthenticated")
        match path.split("/")[1:]:
            case ["kv"]:
                return self._list(query.get("after", ""), int(query["limit"]))
            case ["kv", *segments]:
                return self._value(unquote("/".join(segments)), int(query.get("at_leaf", self.applied - 1)))
            case ["history", *segments]:
                return self._history(unquote("/".join(segments)))
            case ["log", "proof", "file", *segments]:
                return self._proof_file(unquote("/".join(segments)))
        return self._log(path.removeprefix("/log/"), query)

    def _log(self, path: str, query: dict[str, str]) -> Reply:
        if path == "checkpoint":
            return Reply(body=self.log.checkpoint(self.size, cosigned=self.cosigned))
        if path == "proof/consistency":
            return self._consistency(int(query["from"]), int(query["to"]) if "to" in query else None)
        return self._resource(parse_path(path))

    def _history(self, key: str) -> Reply:
        head = self.log.head_at(key, self.applied)
        return problem("not_found") if head is None else as_json({"versions": [{"leaf_index": head.leaf_index}]})

    def _proof_file(self, key: str) -> Reply:
        head = self.log.head_at(key, self.size)
        if head is None:
            return problem("not_found")
        checkpoint = self.log.checkpoint(self.size, cosigned=self.cosigned)
        return Reply(body=self.log.proof_file(head.leaf_index, self.size, checkpoint))

    def _list(self, after: str, limit: int) -> Reply:
        present = self._present()
        begin = bisect_right(present, after.encode(), key=lambda head: head.key.encode())
        limit = min(limit, len(present) // 3 + 1)  # so that a small list has pages, too
        rows = [
            {
                "key": head.key,
                "version": head.version,
                "leaf_index": head.leaf_index,
                "size": head.value_size,
                "timestamp": stamp_text(head.timestamp_us),
            }
            for head in present[begin : begin + limit]
        ]
        return as_json({"items": rows, "next": rows[-1]["key"] if begin + limit < len(present) else None})

    def _present(self) -> list[Leaf]:
        if self._present_at != self.applied:
            heads = [self.log.head_at(key, self.applied) for key in self.log.heads]
            present = [head for head in heads if head is not None and head.op == "put"]
            self._present_heads = sorted(present, key=lambda head: head.key.encode())
            self._present_at = self.applied
        return self._present_heads

    def _value(self, key: str, at_leaf: int) -> Reply:
        head = self.log.head_at(key, at_leaf + 1)
        if head is None or head.op == "delete":
            return problem("not_found")
        headers = {
            "ETag": f'"{head.version}"',
            "Scribe-Leaf-Index": str(head.leaf_index),
            "Scribe-Salt": salt_of(head.leaf_index).hex(),
        }
        return Reply(body=self.log.values[head.leaf_index], headers=headers)

    def _consistency(self, first: int, second: int | None) -> Reply:
        to = self.size if second is None else second
        if max(first, to) > self.size:
            return problem("not_published")
        path = consistency_proof(first, to, self.log.nodes())
        checkpoint = self.log.checkpoint(to).decode() if second is None else None
        return as_json({"from": first, "to": to, "path": [one.hex() for one in path], "checkpoint": checkpoint})

    def _resource(self, resource: TileId | BundleId) -> Reply:
        if isinstance(resource, TileId):
            if (resource.index * 256 + resource.width) << 8 * resource.level > self.size:
                return problem("not_published")
            return Reply(body=self.log.tile(resource))
        first = resource.index * 256
        if first + resource.width > self.size:
            return problem("not_published")
        return Reply(body=encode_bundle(self.log.leaves[first : first + resource.width]))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: LogNode

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        self.owner.requests.append(parts.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        reply = self.owner.answer(parts.path, query, self.headers.get("x-api-key"))
        reply = self.owner.fault(parts.path, reply)
        time.sleep(reply.delay_s)  # a slow node
        try:
            self._send(reply)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the client had enough

    def _send(self, reply: Reply) -> None:
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        if not reply.drip_s:
            self.wfile.write(reply.body)
            return
        for byte in reply.body:
            self.wfile.write(bytes([byte]))
            self.wfile.flush()
            time.sleep(reply.drip_s)


def problem(code: str) -> Reply:
    row = ERRORS[code]
    content = {"code": code, "title": row.title, "detail": f"{row.title}.", "retryable": row.retryable}
    headers = {} if row.retry_after_s is None else {"Retry-After": "0.1"}
    return Reply(row.status, json.dumps(content).encode(), headers)


def as_json(content: object) -> Reply:
    return Reply(body=json.dumps(content).encode())


def on(prefix: str, change: Callable[[Reply], Reply]) -> Fault:
    """A fault in the right answers to paths that begin like this."""

    def fault(path: str, reply: Reply) -> Reply:
        return change(reply) if path.startswith(prefix) and reply.status == 200 else reply

    return fault


def body(make: Callable[[bytes], bytes]) -> Callable[[Reply], Reply]:
    """A change of the body alone."""
    return lambda reply: replace(reply, body=make(reply.body))


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
