"""Make `ledger-vectors.json` out of nothing but docs/LEDGER-FORMAT.md: json, hashlib and arithmetic.

It must not import the appliance: what was decided for each entry is written down here by hand, and the bytes and
hashes follow from the document. Run it as `python tests/data/make_ledger_vectors.py`; a test fails when the file
is stale.
"""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

PATH = Path(__file__).with_name("ledger-vectors.json")
T0 = 1_795_462_000_000_000
ODD_ACTOR = 'night "shift"\\\t\x1f\x7f/é'

# One row an entry: its operations as (op, key, value, if_version), who asked, and what must come of it: for each
# operation that is carried out, (version, prev_leaf_index); else the outcome, position and version that refused it.
# A pause has `until` in their place, in microseconds behind T0.
ENTRIES: list[dict[str, Any]] = [
    {
        "about": "the first put of a key",
        "operations": [("put", "config/timeout", b'{"seconds":30}', None)],
        "places": [(1, None)],
    },
    {"about": "an entry without a command"},
    {
        "about": "a batch: an empty value under a key beyond ASCII, and a delete",
        "operations": [("put", "é/😀", b"", 0), ("delete", "config/timeout", b"", None)],
        "places": [(1, None), (2, 0)],
        "name": "retry-1",
        "request_hash": sha256(b"a request").digest(),
        "limit": 1000,
    },
    {
        "about": "the same request again: the first answer, and no leaf",
        "operations": [("put", "é/😀", b"", 0), ("delete", "config/timeout", b"", None)],
        "name": "retry-1",
        "request_hash": sha256(b"a request").digest(),
        "limit": 1000,
        "replayed": True,
    },
    {
        "about": "a delete of a key that is deleted",
        "operations": [("delete", "config/timeout", b"", None)],
        "refused": ("not_found", 0, 0),
    },
    {
        "about": "a put that goes on counting behind the delete, by an actor whose name JSON must escape",
        "operations": [("put", "config/timeout", bytes(range(256)), 0)],
        "places": [(3, 2)],
        "actor": ODD_ACTOR,
    },
    {
        "about": "a batch refused by its second operation",
        "operations": [("put", "a", b"1", None), ("put", "é/😀", b"2", 7)],
        "refused": ("condition_failed", 1, 1),
    },
    {"about": "a pause of writes until the stamp of entry 10", "until": T0 + 10},
    {
        "about": "a write while they are paused",
        "operations": [("put", "a", b"1", None)],
        "refused": ("writes_paused", -1, 0),
    },
    {
        "about": "a write with the stamp at which the pause ends",
        "operations": [("put", "a", b"1", None)],
        "places": [(1, None)],
    },
    {"about": "writes are taken again, which they were already", "until": 0},
]


def msgpack(value: Any) -> bytes:
    """The shortest MessagePack of the few kinds of values that a command has."""
    if value is None or isinstance(value, bool):
        return {None: b"\xc0", False: b"\xc2", True: b"\xc3"}[value]
    if isinstance(value, int):
        widths = ((1 << 7, b"", 1), (1 << 8, b"\xcc", 1), (1 << 16, b"\xcd", 2), (1 << 32, b"\xce", 4))
        head, width = next(((head, width) for limit, head, width in widths if value < limit), (b"\xcf", 8))
        return head + value.to_bytes(width)
    if isinstance(value, str):
        data = value.encode()
        return (bytes([0xA0 | len(data)]) if len(data) < 32 else bytes([0xD9, len(data)])) + data
    if isinstance(value, bytes):
        return (bytes([0xC4, len(value)]) if len(value) < 256 else b"\xc5" + len(value).to_bytes(2)) + value
    return bytes([0x90 | len(value)]) + b"".join(msgpack(one) for one in value)


def canonical(fields: dict[str, Any]) -> bytes:
    """RFC 8785, for objects with ASCII names, strings without lone surrogates, and integers below 2**53."""
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()


def root(leaves: list[bytes]) -> bytes:
    """The Merkle tree hash as RFC 9162, 2.1.1 defines it."""
    if len(leaves) < 2:
        return sha256(b"\x00" + leaves[0]).digest() if leaves else sha256(b"").digest()
    k = 1 << (len(leaves) - 1).bit_length() - 1
    return sha256(b"\x01" + root(leaves[:k]) + root(leaves[k:])).digest()


def salts_of(index: int, row: dict[str, Any]) -> list[bytes]:
    """A salt for each operation; a leader draws them, here they are made up."""
    return [sha256(f"salt {index}/{place}".encode()).digest()[:16] for place in range(len(row["operations"]))]


def command(index: int, row: dict[str, Any]) -> bytes:
    """The data of the entry."""
    if "until" in row:
        return msgpack(["pause", 1, T0 + index, row["until"], "admin", f"request-{index}"])
    head = ["write", 1, T0 + index, row["operations"], b"".join(salts_of(index, row))]
    who = [row.get("actor", "admin"), f"request-{index}", len(row["operations"]) > 1]
    return msgpack([*head, *who, row.get("name"), row.get("request_hash", b""), row.get("limit", 0)])


def leaves_of(index: int, row: dict[str, Any], tree_size: int) -> list[dict[str, Any]]:
    """The leaves that the entry adds, with what is stored beside them."""
    made = []
    for position, (version, prev_leaf_index) in enumerate(row.get("places", [])):
        op, key, value, _ = row["operations"][position]
        put = op == "put"
        salt = salts_of(index, row)[position] if put else b""
        fields = {
            "_format": 1,
            "actor": row.get("actor", "admin"),
            "batch_count": len(row["operations"]),
            "batch_id": tree_size,
            "batch_position": position,
            "key": key,
            "op": op,
            "prev_leaf_index": prev_leaf_index,
            "request_id": f"request-{index}",
            "timestamp_us": T0 + index,
            "value_hash": sha256(salt + value).hexdigest() if put else None,
            "value_size": len(value),
            "version": version,
        }
        leaf = canonical(fields)
        made.append(
            {
                "leaf_index": tree_size + position,
                "leaf": leaf.decode(),
                "leaf_hash": sha256(b"\x00" + leaf).hexdigest(),
                "salt": salt.hex(),
                "value": value.hex() if put else None,
            }
        )
    return made


def make() -> dict[str, Any]:
    """All vectors."""
    entries: list[dict[str, Any]] = []
    leaves: list[bytes] = []
    state = bytes(32)
    for index, row in enumerate(ENTRIES, start=1):
        if "operations" not in row and "until" not in row:
            state = sha256(state + index.to_bytes(8)).digest()
            entries.append({"about": row["about"], "data": None, "leaves": []} | after(leaves, state))
            continue
        data, made = command(index, row), leaves_of(index, row, len(leaves))
        leaves += [one["leaf"].encode() for one in made]
        outcome, failed_position, current_version = row.get("refused", ("ok", -1, 0))
        replayed = row.get("replayed", False)
        state = sha256(
            state
            + index.to_bytes(8)
            + sha256(data).digest()
            + failed_position.to_bytes(8, signed=True)
            + current_version.to_bytes(8)
            + bytes([replayed])
            + outcome.encode()
            + b"\x00"
            + b"".join(bytes.fromhex(one["leaf_hash"]) for one in made)
        ).digest()
        decided = {"outcome": outcome, "replayed": replayed}
        decided |= {"failed_position": failed_position, "current_version": current_version}
        entries.append({"about": row["about"], "data": data.hex(), "leaves": made} | decided | after(leaves, state))
    return {"made_by": "tests/data/make_ledger_vectors.py", "entries": entries}


def after(leaves: list[bytes], state: bytes) -> dict[str, Any]:
    """What stands behind an entry."""
    return {"tree_size": len(leaves), "root_hash": root(leaves).hex(), "state_hash": state.hex()}


def text() -> str:
    """The file's content."""
    return json.dumps(make(), indent=1, ensure_ascii=True) + "\n"


if __name__ == "__main__":
    PATH.write_text(text())
