"""The leaf: canonical JSON after RFC 8785, and the hash of a value. Standard library only, as a verifier needs it.

RFC 8785 sorts names by their UTF-16 code units. The format version must come first, so its name starts
with an underscore and all others with a small letter. `docs/LEDGER-FORMAT.md` has the words and the vectors.
"""

from __future__ import annotations

import json
from hashlib import sha256
from json.encoder import encode_basestring
from typing import Final, NamedTuple

LEAF_FORMAT: Final = 1
SALT_BYTES: Final = 16
INTEGER_MAX: Final = 2**53 - 1  # RFC 8785 writes numbers as IEEE 754 doubles; beyond this they are not exact

_HEX_DIGITS: Final = frozenset("0123456789abcdef")


class LeafError(ValueError):
    """Bytes that are no leaf of this format, or fields that no leaf can have."""


class Leaf(NamedTuple):
    """What one operation left in the ledger. Its own leaf index is `batch_id + batch_position`.

    Attributes:
        batch_id: leaf index of the first leaf of the batch; a single operation is a batch of one.
        batch_position: place of this operation in its batch, from 0.
        batch_count: operations in the batch.
        op: "put" or "delete".
        key: the key; what makes a good one is checked at the gateway (`appliance.ledger.keys`).
        version: number of this operation among all on its key, deletes included, from 1.
        prev_leaf_index: leaf of the operation before it on the same key, None for the first.
        value_hash: `value_hash(salt, value)` for a put, None for a delete.
        value_size: length of the value in bytes, 0 for a delete.
        actor: name of the API key that asked for it.
        request_id: id of the HTTP request.
        timestamp_us: leader's stamp, Unix microseconds.
    """

    batch_id: int
    batch_position: int
    batch_count: int
    op: str
    key: str
    version: int
    prev_leaf_index: int | None
    value_hash: str | None
    value_size: int
    actor: str
    request_id: str
    timestamp_us: int

    @property
    def leaf_index(self) -> int:
        """Place of the leaf in the tree, from 0."""
        return self.batch_id + self.batch_position


_FIELD_NAMES: Final = frozenset({"_format", *Leaf._fields})


def value_hash(salt: bytes, value: bytes) -> str:
    """SHA-256 over salt and value, lower-case hex; the salt has `SALT_BYTES`, so the two cannot be shifted."""
    assert len(salt) == SALT_BYTES
    return sha256(salt + value).hexdigest()


def encode_leaf(leaf: Leaf) -> bytes:
    """Encode a leaf: its one and only canonical form.

    Raises:
        LeafError: the fields contradict each other or are out of bounds.
        UnicodeEncodeError: a string holds a lone surrogate.
    """
    (batch_id, position, count, op, _, version, prev, hash_hex, size, _, _, timestamp_us) = leaf
    if not (
        0 <= position < count
        and 0 <= batch_id <= INTEGER_MAX - count
        and 1 <= version <= INTEGER_MAX
        and (version == 1 if prev is None else version > 1 and 0 <= prev < batch_id + position)
        and 0 <= timestamp_us <= INTEGER_MAX
    ):
        raise LeafError("a leaf's numbers are out of bounds or contradict each other")
    if hash_hex is None:
        if op != "delete" or size != 0:
            raise LeafError("a leaf without a value hash must be a delete of size 0")
    elif op != "put" or not 0 <= size <= INTEGER_MAX or len(hash_hex) != 64 or not _HEX_DIGITS.issuperset(hash_hex):
        raise LeafError("a leaf with a value hash must be a put, the hash 64 lower-case hex digits")
    return write_leaf(*leaf)


def write_leaf(  # noqa: PLR0917 - a leaf's fields in their order; names would double the time of the call
    batch_id: int,
    position: int,
    count: int,
    op: str,
    key: str,
    version: int,
    prev_leaf_index: int | None,
    hash_hex: str | None,
    size: int,
    actor: str,
    request_id: str,
    timestamp_us: int,
) -> bytes:
    """The canonical form of a `Leaf` with these fields, which are trusted: who made them keeps `encode_leaf`'s rules.

    Raises:
        UnicodeEncodeError: a string holds a lone surrogate.
    """
    prev_text = "null" if prev_leaf_index is None else prev_leaf_index
    hash_text = "null" if hash_hex is None else f'"{hash_hex}"'
    return (
        f'{{"_format":1,"actor":{encode_basestring(actor)},"batch_count":{count},"batch_id":{batch_id}'
        f',"batch_position":{position},"key":{encode_basestring(key)},"op":"{op}","prev_leaf_index":{prev_text}'
        f',"request_id":{encode_basestring(request_id)},"timestamp_us":{timestamp_us},"value_hash":{hash_text}'
        f',"value_size":{size},"version":{version}}}'
    ).encode()


def decode_leaf(data: bytes) -> Leaf:
    """Read a leaf back.

    Raises:
        LeafError: the bytes are not exactly what `encode_leaf` makes of the fields in them.
    """
    try:
        fields = json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise LeafError("the leaf is not JSON in UTF-8") from error
    if not isinstance(fields, dict) or fields.keys() != _FIELD_NAMES:
        raise LeafError("the leaf does not have exactly the fields of the format")
    leaf_format = fields.pop("_format")
    if type(leaf_format) is not int or leaf_format != LEAF_FORMAT:
        raise LeafError(f"the leaf's format is {leaf_format!r:.40}, and only {LEAF_FORMAT} is known here")
    _check_types(fields)
    leaf = Leaf(**fields)
    try:
        canonical = encode_leaf(leaf)
    except UnicodeEncodeError as error:
        raise LeafError("a string of the leaf holds a lone surrogate") from error
    if canonical != data:
        raise LeafError("the leaf is not in its canonical form")
    return leaf


def _check_types(fields: dict[str, object]) -> None:
    for name in ("batch_id", "batch_position", "batch_count", "version", "value_size", "timestamp_us"):
        if type(fields[name]) is not int:
            raise LeafError(f"the leaf's {name} must be an integer")
    for name in ("op", "key", "actor", "request_id"):
        if type(fields[name]) is not str:
            raise LeafError(f"the leaf's {name} must be a string")
    if type(fields["prev_leaf_index"]) not in (int, type(None)):
        raise LeafError("the leaf's prev_leaf_index must be an integer or null")
    if type(fields["value_hash"]) not in (str, type(None)):
        raise LeafError("the leaf's value_hash must be a string or null")
