"""One fixed sequence of entries, so that what a store must hold at any applied index can be computed from nothing."""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from pathlib import Path

import apsw
import msgspec

from appliance.adapters.ledger_rows import decode_summary
from appliance.ledger.commands import SALT_BYTES, Op, Operation, WriteRequest, encode_write
from appliance.ledger.machine import LedgerMachine
from appliance.ledger.memory import MemoryLedger
from appliance.ledger.tile_paths import TILE_WIDTH, TileId
from appliance.ledger.tiles import TILE_BYTES
from appliance.node.ports import LedgerStore
from appliance.raft.messages import Configuration, Entry, EntryKind, Member, MemberRole, SnapshotMeta, make_entry

from .memory_tree import MemoryTree, naive_root

CLUSTER_ID = "0123456789abcdef" * 2
START_US = 1_795_462_000_000_000
STEP_US = 15 * 60 * 1_000_000  # an idempotency key lives for 96 steps
ANSWERS_MAX = 60
NOOP_EVERY = 17

CONFIGURATION = Configuration((Member(1, 11, MemberRole.VOTER, "127.0.0.1:1", "127.0.0.1:2"),))


def term_of(index: int) -> int:
    return 1 + index // 50


@cache
def entry(index: int) -> Entry:
    """Entry `index` of the sequence: puts, deletes, batches, conditions that fail, idempotency keys used twice."""
    if index % NOOP_EVERY == 0:
        return make_entry(term_of(index), index, EntryKind.NOOP, b"")
    digest = sha256(index.to_bytes(8)).digest()
    key = f"k{digest[0] % 40:02}é"
    value = digest * (1 + 40 * (digest[1] % 8 == 0))
    operations = [Operation(Op.PUT, key, value, digest[3] if digest[2] % 9 == 0 else None)]
    if digest[2] % 5 == 0:
        operations = [Operation(Op.DELETE, key)]
    if digest[2] % 7 == 0:
        operations += [Operation(Op.PUT, f"{key}/{n}", digest[n:]) for n in range(digest[4] % 12)]
    name = f"once-{index % 30}" if digest[5] % 3 == 0 else None
    request = WriteRequest(
        tuple(operations), f"actor-{digest[6] % 3}", f"r{index}", len(operations) > 1, name, digest[:4] if name else b""
    )
    salts = b"".join(sha256(digest + bytes([n])).digest()[:SALT_BYTES] for n in range(len(operations)))
    data = encode_write(request, START_US + index * STEP_US, salts, ANSWERS_MAX)
    return make_entry(term_of(index), index, EntryKind.NORMAL, data)


def meta_at(index: int) -> bytes:
    return msgspec.msgpack.encode(SnapshotMeta(index, term_of(index), CONFIGURATION))


class Replica:
    """Applies the sequence to a store, as a driver does."""

    def __init__(self, store: LedgerStore | MemoryLedger) -> None:
        self.store = store
        self.machine = LedgerMachine(store, store.load()[0], ANSWERS_MAX)

    def apply_to(self, index: int) -> None:
        """Apply up to and including `index`; the machine reads through the store, so each entry is added at once."""
        while self.machine.applied_index < index:
            one = entry(self.machine.applied_index + 1)
            if one.kind == EntryKind.NORMAL:
                changes = self.machine.apply(one.index, one.term, one.data)
            else:
                changes = self.machine.advance(one.index, one.term)
            self.store.add((changes,), self.machine.summary(), meta_at(one.index))


@cache
def _model_until(index: int) -> bytes:
    """The model at `index`, grown from the last multiple of 50 before it."""
    base = (index - 1) // 50 * 50
    model = MemoryLedger.from_bytes(_model_until(base)) if index > 0 and base > 0 else MemoryLedger()
    Replica(model).apply_to(index)
    return model.to_bytes()


def model_at(index: int) -> MemoryLedger:
    """What a ledger holds that applied the sequence up to `index`."""
    return MemoryLedger.from_bytes(_model_until(index))


def model_content(model: MemoryLedger) -> dict[str, object]:
    """A model as plain values, in the shape of `file_content`."""
    summary, meta = model.load()
    return {
        "summary": summary,
        "meta": meta,
        "leaves": [msgspec.structs.astuple(leaf) for leaf in model.leaves],
        "tiles": model_tiles(model),
        "heads": sorted((key, *map(int, msgspec.structs.astuple(head))) for key, head in model.heads.items()),
        "refusals": sorted(
            tuple(str(v) if isinstance(v, str) else v for v in msgspec.structs.astuple(refusal))
            for refusal in model.refusals
        ),
        "answers": sorted(
            (a.actor, a.idempotency_key, a.request_hash, a.timestamp_us, msgspec.msgpack.encode(a.result))
            for a in model.answers.values()
        ),
    }


def model_tiles(model: MemoryLedger) -> list[tuple[int, bytes, bytes]]:
    """Place, root and hashes of the whole tiles of level 0; the sequence is too short for one of level 1."""
    tree = MemoryTree(lambda: model.leaves)
    tiles = [tree.tile(TileId(0, index)) for index in range(len(model.leaves) // TILE_WIDTH)]
    hashes = [[tile[at : at + 32] for at in range(0, TILE_BYTES, 32)] for tile in tiles]
    return [(index, naive_root(hashes[index]), tile) for index, tile in enumerate(tiles)]


def file_content(path: Path) -> dict[str, object]:
    """Everything in a ledger file, read past the store."""
    db = apsw.Connection(str(path))
    try:
        db.execute("BEGIN")
        meta = dict(db.execute("SELECT name, value FROM meta").fetchall())
        return {
            "summary": decode_summary(meta["summary"]),
            "meta": meta["snapshot_meta"],
            "leaves": db.execute("SELECT leaf_index, raft_index, leaf, salt, value FROM leaves ORDER BY 1").fetchall(),
            "tiles": db.execute("SELECT * FROM tiles ORDER BY place").fetchall(),
            "heads": db.execute("SELECT * FROM heads ORDER BY key").fetchall(),
            "refusals": db.execute("SELECT * FROM refusals ORDER BY 1, 2").fetchall(),
            "answers": db.execute("SELECT * FROM answers ORDER BY 1, 2").fetchall(),
        }
    finally:
        db.close(force=True)
