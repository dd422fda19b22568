"""The lines of an import: NDJSON read as a stream, cut into batches in the same way each time."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, Final

import msgspec

from appliance.ledger.keys import check_key_text
from appliance.tables.errors import ApplianceError

LINE_BYTES_MAX: Final = 96 * 1024 * 1024  # a value of 64 MiB, the most that a node can be set to take, in Base64
BATCH_BYTES_MAX: Final = 4 * 1024 * 1024  # a quarter of what POST /batch takes, so that escapes have room


@dataclass(frozen=True, slots=True)
class Record:
    """A line that can be written; `line` counts from 1."""

    line: int
    key: str
    value: bytes


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that cannot be written, and why."""

    line: int
    key: str | None
    code: str
    detail: str


@dataclass(slots=True)
class Batch:
    """Consecutive lines. `first` and `last` are line numbers; no key comes twice.

    `offset` is how many bytes of the source had been read behind the last line; `skipped` counts empty lines.
    """

    first: int
    last: int = 0
    offset: int = 0
    size_bytes: int = 0
    skipped: int = 0
    records: list[Record] = field(default_factory=list)
    bad: list[BadLine] = field(default_factory=list)


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    key: str
    value: msgspec.Raw = msgspec.Raw()  # empty when the member is missing; null is b"null"
    value_base64: str | None = None


def read_batches(source: BinaryIO, *, prefix: str, records_max: int) -> Iterator[Batch]:
    """Cut a stream of NDJSON into batches of at most `records_max` records and about `BATCH_BYTES_MAX` bytes.

    The same bytes with the same arguments give the same batches, so that a line range can name one.
    """
    batch = Batch(first=1)
    keys: set[str] = set()
    offset = number = 0
    while raw := source.readline(LINE_BYTES_MAX + 1):
        number += 1
        offset += len(raw)
        parsed = _too_long(source, raw, number) or parse_line(raw, number, prefix)
        if isinstance(parsed, Record):
            size_bytes = len(parsed.key) + len(parsed.value)
            full = len(batch.records) >= records_max or batch.size_bytes + size_bytes > BATCH_BYTES_MAX
            if batch.records and (full or parsed.key in keys):
                yield batch
                batch, keys = Batch(first=number), set()
            batch.records.append(parsed)
            batch.size_bytes += size_bytes
            keys.add(parsed.key)
        elif parsed is None:
            batch.skipped += 1
        else:
            batch.bad.append(parsed)
        batch.last, batch.offset = number, offset
    if batch.last:
        yield batch


def parse_line(raw: bytes, number: int, prefix: str) -> Record | BadLine | None:
    """Read one line: a record, what is wrong with it, or None when it is empty."""
    text = raw.strip()
    if not text:
        return None
    try:
        line = _decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        return BadLine(number, None, "bad_line", f"not {{'key','value'}} as JSON: {error}")
    key = prefix + line.key
    try:
        return Record(number, check_key_text(key), _value(line))
    except ApplianceError as error:
        return BadLine(number, key, error.code, error.detail)
    except (msgspec.MsgspecError, UnicodeError, binascii.Error, ValueError) as error:
        return BadLine(number, key, "bad_value", str(error))


_decode: Final = msgspec.json.Decoder(_Line).decode


def _value(line: _Line) -> bytes:
    """The bytes to store: a string's own, any other JSON compact but with its numbers as they were written."""
    if line.value_base64 is not None:
        if bytes(line.value):
            raise ValueError("there are both value and value_base64")
        return base64.b64decode(line.value_base64, validate=True)
    raw = bytes(line.value)
    if not raw:
        raise ValueError("there is neither value nor value_base64")
    if raw.startswith(b'"'):
        return msgspec.json.decode(raw, type=str).encode("utf-8")
    raw.decode("utf-8")
    return msgspec.json.format(raw, indent=-1)


def _too_long(source: BinaryIO, raw: bytes, number: int) -> BadLine | None:
    if len(raw) <= LINE_BYTES_MAX:
        return None
    while raw and not raw.endswith(b"\n"):
        raw = source.readline(LINE_BYTES_MAX)
    return BadLine(number, None, "too_large", f"the line is longer than {LINE_BYTES_MAX} bytes")
