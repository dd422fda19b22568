"""The ledger as a transparency log: what c2sp.org/tlog-tiles asks for, byte for byte, and how caches may keep it."""

from __future__ import annotations

import asyncio
import gzip
import json
import random
from collections.abc import AsyncIterator, Iterator
from hashlib import sha256
from typing import Any

import httpx
import pytest
from http_log_stub import LOG_KEY
from http_rig import Rig, assert_problem, running
from http_strict import Answer, Asked, Wire, connected, watched

from appliance.adapters.ed25519 import verify as ed25519_verify
from appliance.ledger.bundles import decode_bundle
from appliance.ledger.encoding import decode_leaf, value_hash
from appliance.ledger.merkle import (
    HASH_BYTES,
    MerkleFrontier,
    leaf_hash,
    node_hash,
    verify_consistency,
    verify_inclusion,
)
from appliance.ledger.note import format_verifier_key
from appliance.ledger.proof_extra import decode_extra
from appliance.ledger.proof_file import parse_proof, verify_proof
from appliance.ledger.tile_paths import tile_width
from tests.log_client import LogClient

pytestmark = pytest.mark.anyio

SIZE = 70  # leaves: one partial tile and bundle
LARGE = 700  # leaves: whole tiles, and one level above them
VERIFIER_KEY = format_verifier_key(LOG_KEY.verifier_key)
A_YEAR = b"max-age=31536000, immutable"


async def grow(rig: Rig, leaves: int) -> None:
    """Write keys `k<n>` until there are so many leaves."""
    for begin in range(rig.node.machine.tree_size, leaves, 100):
        names = range(begin, min(begin + 100, leaves))
        operations = [{"op": "put", "key": f"k{n}", "value": f"v{n}"} for n in names]
        reply = await rig.call("POST", "/batch", content=json.dumps({"operations": operations}).encode())
        assert reply.status_code == 200, reply.text


@pytest.fixture(scope="module", params=[False, True], ids=["guarded", "public"])
async def log(anyio_backend: str, request: pytest.FixtureRequest) -> AsyncIterator[tuple[Rig, bool]]:
    """A log of `SIZE` leaves, for readers with a key or for everybody; nobody changes it."""
    async with running(public=request.param, operations_max=100) as rig:
        await grow(rig, SIZE)
        yield rig, request.param


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    with watched(monkeypatch) as wire:
        yield wire


async def ask(wire: Wire, rig: Rig, asked: Asked) -> Answer:
    async with connected(wire, rig.port) as client:
        await client.segment(asked.plain())
        answer = await client.answer(asked.method)
        await client.nothing_left()
        return answer


LASTING = (
    "/log/tile/0/000.p/70",
    "/log/tile/0/000.p/1",
    "/log/tile/entries/000.p/70",
    "/log/tile/entries/000.p/3",
    "/log/proof/inclusion?leaf=3&size=70",
    "/log/proof/consistency?from=3&to=70",
)
CHANGING = ("/log/checkpoint", "/log/proof/inclusion?leaf=3", "/log/proof/consistency?from=3")
TYPES = {
    "/log/checkpoint": b"text/plain; charset=utf-8",
    "/log/tile": b"application/octet-stream",
    "/log/proof": b"application/json",
}


@pytest.mark.parametrize("target", [*LASTING, *CHANGING])
async def test_every_header_of_an_answer_that_may_be_kept(wire: Wire, log: tuple[Rig, bool], target: str) -> None:
    rig, public = log
    key = None if public else "read"
    answer = await ask(wire, rig, Asked("GET", target, key=key))
    assert answer.status == 200
    headers = dict(answer.headers)
    assert headers.pop(b"content-type") == next(kind for begin, kind in TYPES.items() if target.startswith(begin))
    shared = b"public, " if public else b"private, "
    assert headers.pop(b"cache-control") == (shared + A_YEAR if target in LASTING else b"no-cache")
    tag = headers.pop(b"etag")
    assert tag == b'"%s"' % sha256(answer.body).hexdigest()[:32].encode(), "a strong tag, of the bytes alone"
    assert headers.pop(b"vary", b"") == (b"accept-encoding" if "entries" in target else b"")
    assert headers.pop(b"x-content-type-options") == b"nosniff"
    assert int(headers.pop(b"content-length")) == len(answer.body) > 0
    assert headers.keys() == {b"date", b"x-request-id"}

    head = await ask(wire, rig, Asked("HEAD", target, key=key))
    varying = {b"date", b"x-request-id"}
    assert {n: v for n, v in head.headers.items() if n not in varying} == {
        n: v for n, v in answer.headers.items() if n not in varying
    }
    known = await ask(wire, rig, Asked("GET", target, (f"If-None-Match: {tag.decode()}",), key=key))
    assert (known.status, known.body) == (304, b"")
    assert known.headers.keys() - varying == {b"cache-control", b"etag"} | ({b"vary"} & answer.headers.keys())
    assert {answer.headers[n] == v for n, v in known.headers.items() if n not in varying} == {True}


MATCHES = [
    ("{tag}", True),
    ("W/{tag}", True),
    ('"other", {tag}', True),
    ('"other",W/"x" ,{tag}', True),
    ("*", True),
    ('"other"', False),
    ("{bare}", False),
    ('"{bare}', False),
    ('"', False),
    ("", False),
]


@pytest.mark.parametrize(("value", "known"), MATCHES)
async def test_what_a_client_says_that_it_has(wire: Wire, log: tuple[Rig, bool], value: str, known: bool) -> None:
    for target in ("/log/tile/0/000.p/70", "/log/checkpoint"):
        tag = (await ask(wire, log[0], Asked("GET", target))).headers[b"etag"].decode()
        line = "If-None-Match: " + value.format(tag=tag, bare=tag.strip('"'))
        assert (await ask(wire, log[0], Asked("GET", target, (line,)))).status == (304 if known else 200)
        split = ('If-None-Match: "other"', line)
        if value != "*":
            assert (await ask(wire, log[0], Asked("GET", target, split))).status == (304 if known else 200)


async def test_what_a_client_has_is_counted_apart(rig: Rig) -> None:
    await rig.call("PUT", "/kv/a")
    tag = (await rig.call("GET", "/log/checkpoint")).headers["etag"]
    assert (await rig.call("GET", "/log/checkpoint", headers={"if-none-match": tag})).status_code == 304
    await rig.call("GET", "/verify/a")
    for op, status in (("log", "2xx"), ("log", "3xx"), ("verify", "2xx")):
        assert rig.metric(f'scribe_ops_total{{op="{op}",status="{status}"}}') == 1.0


async def test_a_checkpoint_that_has_changed_is_sent_again(rig: Rig) -> None:
    await rig.call("PUT", "/kv/a")
    tag = (await rig.call("GET", "/log/checkpoint")).headers["etag"]
    await rig.call("PUT", "/kv/a")
    again = await rig.call("GET", "/log/checkpoint", headers={"if-none-match": tag})
    assert again.status_code == 200
    assert again.headers["etag"] != tag


CODINGS = [
    (None, False),
    ("gzip", True),
    ("GZIP", True),
    ("deflate, gzip;q=0.5", True),
    ("gzip;q=0", False),
    ("gzip; q=0.000", False),
    ("*", True),
    ("*;q=0", False),
    ("gzip;q=0, *", False),
    ("identity", False),
    ("br", False),
    ("", False),
]


@pytest.mark.parametrize(("value", "compressed"), CODINGS)
async def test_bundles_are_compressed_for_who_takes_that(
    wire: Wire, log: tuple[Rig, bool], value: str | None, compressed: bool
) -> None:
    headers = () if value is None else (f"Accept-Encoding: {value}",)
    plain = await ask(wire, log[0], Asked("GET", "/log/tile/entries/000.p/70"))
    answer = await ask(wire, log[0], Asked("GET", "/log/tile/entries/000.p/70", headers))
    assert answer.headers.get(b"content-encoding") == (b"gzip" if compressed else None)
    assert (gzip.decompress(answer.body) if compressed else answer.body) == plain.body
    assert (answer.headers[b"etag"] == plain.headers[b"etag"]) is not compressed, "one tag, one row of bytes"
    assert len(decode_bundle(plain.body, 70)) == 70
    tag = answer.headers[b"etag"].decode()
    known = await ask(wire, log[0], Asked("GET", "/log/tile/entries/000.p/70", (*headers, f"If-None-Match: {tag}")))
    assert known.status == 304
    tile = await ask(wire, log[0], Asked("GET", "/log/tile/0/000.p/70", headers))
    assert b"content-encoding" not in tile.headers, "hashes do not get shorter"


MALFORMED = [
    "/log/tile/",
    "/log/tile/0",
    "/log/tile/0/",
    "/log/tile/0/0",
    "/log/tile/0/00",
    "/log/tile/0/0000",
    "/log/tile/00/000",
    "/log/tile/64/000",
    "/log/tile/-1/000",
    "/log/tile/0/000/",
    "/log/tile/0//000",
    "/log/tile/0/x000/000",
    "/log/tile/0/001/000",
    "/log/tile/0/x001/x000",
    "/log/tile/0/000.p",
    "/log/tile/0/000.p/",
    "/log/tile/0/000.p/0",
    "/log/tile/0/000.p/01",
    "/log/tile/0/000.p/256",
    "/log/tile/0/%30%30%30",
    "/log/tile/0/000%2Ep/1",
    "/log/tile/0/\u0660\u0660\u0660",
    "/log/tile/0/x999/x999/x999/x999/x999/x999/999",
    "/log/tile/0/x001/x001/x001/x001/x001/x001/x001/001",
    "/log/tile/data/000",
    "/log/tile/entries/0",
    "/log/tile/entries/",
    "/log/tile/entries/000.p/256",
    "/log/tile/entries/0/000",
    "/log/tile/../checkpoint",
]


@pytest.mark.parametrize("target", MALFORMED)
async def test_a_path_that_no_tile_can_have_is_refused(log: tuple[Rig, bool], target: str) -> None:
    refused = await log[0].raw(b"GET", target.encode())
    assert_problem(refused, 400, "bad_request")
    assert "cache-control" not in refused.headers


@pytest.mark.parametrize("target", ["/log/tile/0/000.p/1?x=1", "/log/tile/entries/000.p/1?x=1", "/log/checkpoint?x=1"])
async def test_a_query_that_means_nothing_is_refused(log: tuple[Rig, bool], target: str) -> None:
    assert_problem(await log[0].call("GET", target), 400, "bad_request")


NOT_THERE_YET = [
    "/log/tile/0/000",
    "/log/tile/0/000.p/71",
    "/log/tile/0/001.p/1",
    "/log/tile/1/000.p/1",
    "/log/tile/63/x001/000.p/255",
    "/log/tile/entries/000.p/71",
    "/log/tile/entries/x123/456",
    "/log/proof/inclusion?leaf=70",
    "/log/proof/inclusion?leaf=3&size=71",
    "/log/proof/consistency?from=71",
    "/log/proof/consistency?from=3&to=71",
]


@pytest.mark.parametrize("target", NOT_THERE_YET)
async def test_what_may_come_to_be_there_is_never_called_absent(log: tuple[Rig, bool], target: str) -> None:
    refused = await log[0].call("GET", target)
    assert assert_problem(refused, 503, "not_published")["retryable"] is True
    assert int(refused.headers["retry-after"]) >= 1
    assert "cache-control" not in refused.headers


NEVER = [
    ("/log/proof/inclusion?leaf=3&size=3", "leaf_out_of_range"),
    ("/log/proof/inclusion?leaf=0&size=0", "leaf_out_of_range"),
    ("/log/proof/consistency?from=4&to=3", "leaf_out_of_range"),
    ("/log/proof/inclusion", "bad_request"),
    ("/log/proof/inclusion?size=3", "bad_request"),
    ("/log/proof/inclusion?leaf=-1", "bad_request"),
    ("/log/proof/inclusion?leaf=1.0", "bad_request"),
    ("/log/proof/inclusion?leaf=9007199254740993", "bad_request"),
    ("/log/proof/inclusion?leaf=1&leaf=2", "bad_request"),
    ("/log/proof/consistency?to=3", "bad_request"),
    ("/log/proof/consistency?from=", "bad_request"),
]


@pytest.mark.parametrize(("target", "code"), NEVER)
async def test_a_proof_that_cannot_be_is_refused(log: tuple[Rig, bool], target: str, code: str) -> None:
    assert_problem(await log[0].call("GET", target), 400, code)


@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE", "PATCH"])
async def test_the_log_is_only_read(log: tuple[Rig, bool], method: str) -> None:
    for path in ("/log/tile/0/000.p/1", "/log/tile/entries/000.p/1", "/log/proof/file/k1", "/verify/k1"):
        refused = await log[0].call(method, path)
        assert_problem(refused, 405, "method_not_allowed")
        assert refused.headers["allow"] == "GET"


async def test_who_may_not_read_learns_nothing_of_paths(log: tuple[Rig, bool]) -> None:
    rig, public = log
    for path in ("/log/tile/0/0", "/log/tile/0/000", "/log/proof/file/none", "/log/checkpoint"):
        reply = await rig.call("GET", path, key="unknown")
        assert (reply.status_code == 401) is not public


async def test_a_tile_and_a_bundle_byte_for_byte(log: tuple[Rig, bool]) -> None:
    leaves = [stored.leaf for stored in log[0].node.store.leaves]
    tile = await log[0].call("GET", "/log/tile/0/000.p/70")
    assert tile.content == b"".join(sha256(b"\x00" + leaf).digest() for leaf in leaves)
    bundle = await log[0].call("GET", "/log/tile/entries/000.p/70")
    assert bundle.content == b"".join(len(leaf).to_bytes(2, "big") + leaf for leaf in leaves)
    note = (await log[0].call("GET", "/log/checkpoint")).text
    origin, size, root, empty, line = note.splitlines()
    assert (origin, size, empty) == (f"scribe-ledger/{'ab' * 16}/1", "70", "")
    assert line.startswith(f"\u2014 {origin} ")
    assert len(root) == 44


async def test_proofs_as_json_hold(log: tuple[Rig, bool]) -> None:
    rig, _ = log
    opened = LogClient(lambda path: b"", VERIFIER_KEY).opened
    inclusion = (await rig.call("GET", "/log/proof/inclusion?leaf=33")).json()
    checkpoint = opened(inclusion["checkpoint"].encode())
    assert (inclusion["leaf_index"], inclusion["tree_size"]) == (33, checkpoint.size)
    current = leaf_hash(rig.node.store.leaves[33].leaf)
    for sibling, side in zip(inclusion["siblings"], inclusion["directions"], strict=True):
        other = bytes.fromhex(sibling)
        current = node_hash(other, current) if side == "left" else node_hash(current, other)
    assert current == checkpoint.root, "by the sides alone, without RFC 9162"
    given = (await rig.call("GET", "/log/proof/inclusion?leaf=33&size=70")).json()
    assert given == {**inclusion, "checkpoint": None}

    consistency = (await rig.call("GET", "/log/proof/consistency?from=33")).json()
    assert opened(consistency["checkpoint"].encode()) == checkpoint
    assert (consistency["from"], consistency["to"]) == (33, 70)
    path = [bytes.fromhex(one) for one in consistency["path"]]
    first = MerkleFrontier()
    for stored in rig.node.store.leaves[:33]:
        first.append(leaf_hash(stored.leaf))
    assert verify_consistency(33, 70, path, first.root(), checkpoint.root)
    for same in ("from=70&to=70", "from=0&to=70"):
        assert (await rig.call("GET", f"/log/proof/consistency?{same}")).json()["path"] == []


async def test_tiles_and_bundles_rebuild_the_tree_for_who_holds_the_key_alone() -> None:
    async with running(public=True, operations_max=100, value_bytes_max=64) as large:
        await grow(large, LARGE)
        earlier = await _stranger(large, lambda client: client.checkpoint())
        assert earlier.size == LARGE
        await grow(large, LARGE + 130)

        def study(client: LogClient) -> None:
            checkpoint = client.checkpoint()
            assert checkpoint.size == LARGE + 130
            client.expect_continued(earlier, checkpoint)
            leaves = list(client.leaves(checkpoint))
            assert [decode_leaf(leaf).key for leaf in leaves] == [f"k{n}" for n in range(LARGE + 130)]
            chance = random.Random(5)
            for _ in range(100):
                leaf_index = chance.randrange(checkpoint.size)
                assert client.leaf(leaf_index, checkpoint) == leaves[leaf_index]
            for _ in range(50):
                client.expect_continued(client.checkpoint_of(chance.randrange(1, LARGE), checkpoint), earlier)

        await _stranger(large, study)


async def _stranger(rig: Rig, study: Any) -> Any:
    """Let somebody without a key look at the log, in a thread of his own."""

    def run() -> Any:
        with httpx.Client(base_url=f"http://127.0.0.1:{rig.port}/log/") as client:

            def fetch(path: str) -> bytes:
                reply = client.get(path)
                assert reply.status_code == 200, reply.text
                return reply.content

            return study(LogClient(fetch, VERIFIER_KEY))

    return await asyncio.to_thread(run)


class TestProofFile:
    @pytest.mark.parametrize("key", ["k7", "a/b c", "\u00e9\u2028", "..", "x" * 1000, 'quo"te'])
    async def test_it_is_checked_with_the_file_and_the_key_alone(self, rig: Rig, key: str) -> None:
        for n in range(20):
            await rig.call("PUT", f"/kv/k{n}", content=b"v%d" % n)
        path = b"".join(b"%%%02X" % byte for byte in key.encode()).decode()
        await rig.call("PUT", f"/kv/{path}", content=b"value")
        await rig.call("PUT", "/kv/behind", content=b"x")
        reply = await rig.call("GET", f"/log/proof/file/{path}", key="read")
        assert reply.status_code == 200
        assert reply.headers["content-type"] == "text/plain; charset=utf-8"
        assert reply.headers["cache-control"] == "no-store"
        disposition = reply.headers["content-disposition"]
        assert disposition.startswith('attachment; filename="')
        assert disposition.endswith('.tlog-proof"')
        name = disposition.removeprefix('attachment; filename="').removesuffix('"')
        assert name.isascii()
        assert not set(name) & set('/\\"% \r\n')
        assert len(name) <= 80
        extra = decode_extra(parse_proof(reply.content).extra)
        assert extra.key_history == (LOG_KEY.verifier_key,)
        report = verify_proof(reply.content, extra.leaf, LOG_KEY.verifier_key, ed25519_verify)
        assert report.holds, report
        leaf = decode_leaf(extra.leaf)
        assert leaf.key == key
        assert leaf.value_hash == value_hash(extra.salt, b"value")

    async def test_a_delete_is_proven_too(self, rig: Rig) -> None:
        await rig.call("PUT", "/kv/a")
        await rig.call("DELETE", "/kv/a")
        extra = decode_extra(parse_proof((await rig.call("GET", "/log/proof/file/a")).content).extra)
        assert (decode_leaf(extra.leaf).op, extra.salt) == ("delete", b"")
        assert_problem(await rig.call("GET", "/log/proof/file/never"), 404, "not_found")

    async def test_the_public_gets_no_salt_and_who_may_read_does(self) -> None:
        async with running(public=True) as rig:
            await rig.call("PUT", "/kv/a", content=b"guess me")
            for key, salted in ((None, False), ("unknown", False), ("audit", False), ("read", True), ("admin", True)):
                extra = decode_extra(parse_proof((await rig.call("GET", "/log/proof/file/a", key=key)).content).extra)
                assert bool(extra.salt) is salted, key


async def test_the_verifier_key_is_in_the_cluster_info(rig: Rig) -> None:
    assert (await rig.call("GET", "/cluster/info")).json()["verifier_key"] == VERIFIER_KEY


async def test_a_whole_tile_has_no_width_in_its_path() -> None:
    async with running(operations_max=100) as large:
        await grow(large, 300)
        whole = await large.call("GET", "/log/tile/0/000")
        assert len(whole.content) == 256 * HASH_BYTES
        part = await large.call("GET", "/log/tile/0/000.p/255")
        assert part.content == whole.content[: 255 * HASH_BYTES], "a partial tile stays for who saw that size"
        assert tile_width(1, 0, 300) == 1
        above = await large.call("GET", "/log/tile/1/000.p/1")
        assert len(above.content) == HASH_BYTES
        proof = (await large.call("GET", "/log/proof/inclusion?leaf=255&size=256")).json()
        siblings = [bytes.fromhex(one) for one in proof["siblings"]]
        last = large.node.store.leaves[255].leaf
        assert verify_inclusion(leaf_hash(last), 255, 256, siblings, above.content)
