"""POST /batch: several operations as one atomic entry group."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from appliance.http.exchange import Exchange
from appliance.http.limits import BATCH_BYTES_MAX
from appliance.http.receipts import Receipts
from appliance.http.wire import VERSION_MAX, rfc3339, safe_integer
from appliance.http.writes import WriteRoute, write_request
from appliance.ledger.commands import MUST_BE_ABSENT, Op, Operation, WriteRequest, WriteResult
from appliance.ledger.keys import check_key_text
from appliance.node.api import NodeService
from appliance.tables.errors import ApplianceError

_Version = Annotated[int, Meta(ge=0, le=VERSION_MAX)]


class BatchPut(Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", tag="put"):
    """A put of a batch: exactly one of `value` (text) and `value_base64`."""

    key: str
    value: str | UnsetType = UNSET
    value_base64: str | UnsetType = UNSET
    if_version: _Version | None = None


class BatchDelete(Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", tag="delete"):
    """A delete of a batch."""

    key: str
    if_version: _Version | None = None


class Batch(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of POST /batch."""

    operations: list[BatchPut | BatchDelete]


_decode = msgspec.json.Decoder(Batch).decode


class BatchRoute(WriteRoute):
    """POST /batch: all operations or none.

    Args:
        node: carries out.
        receipts: proves what was written.
        value_bytes_max: bound of one value.
        operations_max: bound of their number.
    """

    def __init__(self, node: NodeService, receipts: Receipts, *, value_bytes_max: int, operations_max: int) -> None:
        super().__init__(node, receipts, BATCH_BYTES_MAX, "bytes of a batch")
        self._value_bytes_max = value_bytes_max
        self._operations_max = operations_max

    def condition(self, exchange: Exchange) -> int | None:
        """None: the conditions of a batch stand in its operations."""
        for name in (b"if-match", b"if-none-match"):
            if name in exchange.head:
                raise ApplianceError(
                    "bad_request", f"A batch takes no {name.decode()}; put if_version into its operations."
                )
        return None

    def request(self, exchange: Exchange, if_version: int | None, body: bytes) -> WriteRequest:
        """Several operations."""
        return write_request(exchange, b"/batch", self._operations(body), body, batch=True)

    def content(self, request: WriteRequest, result: WriteResult) -> dict[str, Any]:
        """Where each operation went."""
        return _written(request.operations, result)

    def _operations(self, body: bytes) -> tuple[Operation, ...]:
        try:
            batch = _decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise ApplianceError("bad_request", f"The batch cannot be read: {error}.") from error
        if not batch.operations:
            raise ApplianceError("bad_request", "The batch has no operations; send at least one.")
        if len(batch.operations) > self._operations_max:
            raise ApplianceError(
                "too_large",
                f"The batch has {len(batch.operations)} operations, and {self._operations_max} is the most "
                "([performance] max_batch_operations); send several batches.",
            )
        return tuple(self._operation(place, asked) for place, asked in enumerate(batch.operations))

    def _operation(self, place: int, asked: BatchPut | BatchDelete) -> Operation:
        try:
            key = check_key_text(asked.key)
        except ApplianceError as error:
            raise ApplianceError(error.code, f"Operation {place}: {error.detail}") from error
        if isinstance(asked, BatchDelete):
            if asked.if_version == MUST_BE_ABSENT:
                raise ApplianceError(
                    "bad_request", f"Operation {place} deletes a key that must be absent; give a version from 1."
                )
            return Operation(Op.DELETE, key, b"", asked.if_version)
        value = _value(place, asked)
        if len(value) > self._value_bytes_max:
            raise ApplianceError(
                "too_large",
                f"The value of operation {place} has {len(value)} bytes, and {self._value_bytes_max} is the most "
                "([storage] max_value_size).",
            )
        return Operation(Op.PUT, key, value, asked.if_version)


def _value(place: int, asked: BatchPut) -> bytes:
    if isinstance(asked.value, str):
        if asked.value_base64 is UNSET:
            try:
                return asked.value.encode()
            except UnicodeEncodeError as error:
                raise ApplianceError(
                    "bad_request", f"The value of operation {place} holds half of a surrogate pair; use value_base64."
                ) from error
    elif isinstance(asked.value_base64, str):
        try:
            return base64.b64decode(asked.value_base64, validate=True)
        except (binascii.Error, ValueError) as error:
            raise ApplianceError(
                "bad_request", f"value_base64 of operation {place} is not Base64 with padding (RFC 4648, 4)."
            ) from error
    raise ApplianceError("bad_request", f"Operation {place} is a put: give it either value or value_base64.")


def _written(operations: tuple[Operation, ...], result: WriteResult) -> dict[str, Any]:
    return {
        "status": "ok",
        "index": safe_integer(result.raft_index),
        "term": safe_integer(result.raft_term),
        "timestamp": rfc3339(result.timestamp_us),
        "batch_id": safe_integer(result.results[0].leaf_index),
        "results": [
            {
                "op": operation.op.value,
                "key": done.key,
                "version": safe_integer(done.version),
                "leaf_index": safe_integer(done.leaf_index),
            }
            for operation, done in zip(operations, result.results, strict=True)
        ],
    }
