"""Group `proofs`: what a proof costs at sizes of the ledger, and the way of a stranger who has nothing but a key."""

from __future__ import annotations

import http.client
import json
import random
import statistics
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from typing import Final
from urllib.parse import urlsplit

import apsw

from appliance.adapters.ed25519 import verify
from appliance.ledger.bundles import check_bundle
from appliance.ledger.checkpoint import Checkpoint, open_checkpoint
from appliance.ledger.merkle import (
    MerkleFrontier,
    inclusion_proof,
    leaf_hash,
    root_of,
    verify_consistency,
    verify_inclusion,
)
from appliance.ledger.note import Ed25519Verifier, parse_verifier_key
from appliance.ledger.tile_paths import TileId, bundles, format_path, tiles
from appliance.ledger.tiles import TileBuilder, TileNodes, check_tiles
from benchmarks.clusters import Ours, await_value
from benchmarks.fill import fill, key_at
from benchmarks.groups.base import CLUSTERS_S, FILL_PER_S, Group
from benchmarks.options import Options, short
from benchmarks.outcome import Outcome

LEVELS: Final = (10_000, 100_000, 1_000_000)
ASKED: Final = 1_000  # proofs at each level, one after the other over one connection
PAIRS: Final = 50  # of checkpoints in the stranger's cycle
APPENDED: Final = 1_000_000
APPEND_CHUNK: Final = 10_000


class Proofs(Group):
    """Values of 128 bytes; ours alone, for etcd proves nothing."""

    name = "proofs"

    def rows(self, options: Options) -> list[str]:
        """One for each size, the stranger's cycle at the largest, and the tree by itself."""
        levels = options.levels(LEVELS)
        return [
            *(f"proof at {short(level)} entries" for level in levels),
            f"a stranger's check of {short(levels[-1])} entries",
            "append to the tree",
        ]

    def seconds(self, options: Options) -> float:
        """Fills, and reading everything once."""
        highest = options.levels(LEVELS)[-1]
        return CLUSTERS_S + highest / FILL_PER_S + 30 + highest / 20_000

    def run(self, options: Options) -> Iterator[Outcome]:
        """One cluster that grows."""
        wanted = self.chosen(options)
        *rows, cycle, append = self.rows(options)
        levels = options.levels(LEVELS)
        if wanted != [append]:
            cluster = Ours("ours", options.directory / self.name / "ours")
            with cluster.running():
                checkpoints: list[Checkpoint] = []
                held = 0
                for level, row in zip(levels, rows, strict=True):
                    for upto in range(held + level // 20, level + 1, level // 20):  # checkpoints on the way
                        fill(cluster, upto, begin=held)
                        held = upto
                        checkpoints.append(_latest(cluster, held))
                    if row in wanted:
                        yield self._proofs(cluster, row, level)
                if cycle in wanted:
                    yield self._cycle(cluster, cycle, checkpoints)
        if append in wanted:
            yield self._append(append)

    def _proofs(self, cluster: Ours, row: str, level: int) -> Outcome:
        """GET /verify/{key} of keys at random."""
        cluster.settle()
        seconds: list[float] = []
        sizes: list[int] = []
        hashes: list[int] = []
        chance = random.Random(level)
        client = _Client(cluster)
        for _ in range(ASKED):
            began_s = time.perf_counter()
            body = client.get(f"/verify/{key_at(chance.randrange(level))}")
            seconds.append(time.perf_counter() - began_s)
            answer = json.loads(body)
            assert answer["verified"] is True
            hashes.append(len(answer["proof"]["siblings"]))
            sizes.append(len(client.get(f"/log/proof/file/{key_at(chance.randrange(level))}")))
        ordered = sorted(seconds)
        figures = {
            "verify_p50_ms": round(1000 * statistics.median(ordered), 3),
            "verify_p99_ms": round(1000 * ordered[len(ordered) * 99 // 100], 3),
            "siblings_max": float(max(hashes)),
            "proof_file_bytes_median": float(statistics.median(sizes)),
            "merkle_bytes_per_entry": round(_tile_bytes(cluster) / level, 2),
        }
        return Outcome(self.name, row, {"ours": {"asked": ASKED}}, figures=figures)

    def _cycle(self, cluster: Ours, row: str, checkpoints: list[Checkpoint]) -> Outcome:
        """Everything by HTTP, with nothing but the verifier key: the root from tiles, every entry against its tile,
        proofs of entries at random, and that pairs of checkpoints continue each other.
        """
        began_s = time.perf_counter()
        client = _Client(cluster)
        latest = client.checkpoint()
        size = latest.size
        held = {tile: client.get(f"/log/{format_path(tile)}") for tile in tiles(size)}
        read: Callable[[TileId], bytes] = held.__getitem__
        failures = [] if root_of(size, TileNodes(size, read)) == latest.root else ["the tiles lead to another root"]
        for _ in check_tiles(size, latest.root, read):
            pass
        frontier, entries = MerkleFrontier(), 0
        for bundle in bundles(size):
            data = client.get(f"/log/{format_path(bundle)}")
            for entry in check_bundle(bundle, data, read(TileId(0, bundle.index, bundle.width))):
                frontier.append(leaf_hash(entry))
                entries += 1
        if (entries, frontier.root()) != (size, latest.root):
            failures.append("the entries lead to another root")
        chance = random.Random(1)
        nodes = TileNodes(size, read)
        for _ in range(ASKED):
            at = chance.randrange(size)
            path = inclusion_proof(at, size, nodes)
            own = read(TileId(0, at // 256, min(256, size - at // 256 * 256)))[at % 256 * 32 : at % 256 * 32 + 32]
            told = json.loads(client.get(f"/log/proof/inclusion?leaf={at}&size={size}"))
            if not verify_inclusion(own, at, size, path, latest.root) or _told(told["siblings"]) != path:
                failures.append(f"leaf {at} is not included")
        for _ in range(PAIRS):
            first, second = sorted(chance.sample([*checkpoints, latest], 2), key=lambda one: one.size)
            told = json.loads(client.get(f"/log/proof/consistency?from={first.size}&to={second.size}"))
            if not verify_consistency(first.size, second.size, _told(told["path"]), first.root, second.root):
                failures.append(f"checkpoint {second.size} does not continue {first.size}")
        figures = {
            "entries": float(entries),
            "inclusions": float(ASKED),
            "consistencies": float(PAIRS),
            "bytes_fetched": float(client.bytes_fetched),
            "seconds": round(time.perf_counter() - began_s, 1),
        }
        return Outcome(self.name, row, {"ours": {}}, figures=figures, failures=failures)

    def _append(self, row: str) -> Outcome:
        """The tree alone, as a node keeps it: the frontier when an entry is applied, the tiles when it is stored."""
        hashes = [sha256(number.to_bytes(4)).digest() for number in range(APPEND_CHUNK)]
        frontier, builder = MerkleFrontier(), TileBuilder()
        took_s: list[float] = []
        for _ in range(APPENDED // APPEND_CHUNK):
            began_s = time.perf_counter()
            for one in hashes:
                frontier.append(one)
                builder.append(one)
            took_s.append(time.perf_counter() - began_s)
        figures = {
            "us_per_entry_median": round(1e6 * statistics.median(took_s) / APPEND_CHUNK, 3),
            "us_per_entry_worst_chunk": round(1e6 * max(took_s) / APPEND_CHUNK, 3),
        }
        return Outcome(self.name, row, {"ours": {}}, figures=figures)


class _Client:
    """A stranger: one connection, and the log's verifier key, which came by another way."""

    def __init__(self, cluster: Ours) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(cluster.urls[cluster.position("follower")]).netloc)
        self._headers = {"X-API-Key": cluster.token}
        self._key = Ed25519Verifier(parse_verifier_key(cluster.verifier_key), verify)
        self.bytes_fetched = 0

    def get(self, path: str) -> bytes:
        """The body of a 200. Raises `RuntimeError`."""
        self._connection.request("GET", path, headers=self._headers)
        answer = self._connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{path}: {answer.status} {body[:200]!r}")
        self.bytes_fetched += len(body)
        return body

    def checkpoint(self) -> Checkpoint:
        """The latest checkpoint, its signature verified."""
        return open_checkpoint(self.get("/log/checkpoint"), self._key).checkpoint


def _latest(cluster: Ours, size: int) -> Checkpoint:
    """The checkpoint that covers so many leaves, once it is there."""
    client = _Client(cluster)

    def read() -> Checkpoint | None:
        found = client.checkpoint()
        return found if found.size >= size else None

    return await_value(read, f"a checkpoint of {size} leaves")


def _told(hashes: list[str]) -> list[bytes]:
    """Hashes as they stand in JSON."""
    return [bytes.fromhex(one) for one in hashes]


def _tile_bytes(cluster: Ours) -> int:
    """What the table of tiles takes of the leader's file, free room in its pages included."""
    path = cluster.data[cluster.leader()] / "ledger.db"
    db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        row = db.execute("SELECT sum(pgsize) FROM dbstat WHERE name = 'tiles'").fetchone()
        assert row is not None
        return int(row[0] or 0)
    finally:
        db.close()


proofs: Final = Proofs()
