"""What `verify` fetches from nodes that it does not trust: every answer has a bound, every fault a name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple, Self

import msgspec

from appliance.cli.client import TOO_LONG, Client
from appliance.cli.exits import CliError, Exit, finding
from appliance.cli.paths import key_path
from appliance.ledger.canonical import read_decimal
from appliance.ledger.encoding import INTEGER_MAX, SALT_BYTES
from appliance.ledger.merkle import HASH_BYTES
from appliance.ledger.note import NOTE_BYTES_MAX
from appliance.ledger.proof_file import PATH_LINES_MAX, PROOF_BYTES_MAX
from appliance.ledger.tile_paths import BundleId, TileId, format_path
from appliance.ledger.tiles import TILE_BYTES

if TYPE_CHECKING:
    from types import TracebackType

    from appliance.cli.failover import Answer
    from appliance.cli.session import Session

LEAF_BYTES_MAX: Final = 8192  # docs/LEDGER-FORMAT.md: a leaf has at most about 5 KB
CONSISTENCY_BYTES_MAX: Final = 64 * 1024  # 63 hashes in hex, and words
VALUE_BYTES_MAX: Final = 64 * 1024 * 1024  # the upper bound of [storage] max_value_size
HISTORY_BYTES_MAX: Final = 64 * 1024
PAGE_KEYS: Final = 1000
PAGE_BYTES_MAX: Final = PAGE_KEYS * (6 * 1024 + 256)  # keys of 1,024 bytes, all escaped

Count = Annotated[int, msgspec.Meta(ge=0, le=INTEGER_MAX)]

_CONSISTENCY: Final = "/log/proof/consistency"


class FetchedValue(NamedTuple):
    """A value as a node gave it; nothing of it is verified."""

    value: bytes
    salt: bytes
    leaf_index: int
    version: int
    url: str


class ListedKey(msgspec.Struct, frozen=True):
    """A row of GET /kv."""

    key: str
    version: Count
    leaf_index: Count
    size: Count
    timestamp: str


class KeyPage(msgspec.Struct, frozen=True):
    """An answer of GET /kv: `next` is the `after` of the next page, or None."""

    items: list[ListedKey]
    next: str | None


class _Consistency(msgspec.Struct, frozen=True):
    path: list[str]
    checkpoint: str | None = None


class _Newest(msgspec.Struct, frozen=True):
    leaf_index: Count


class _History(msgspec.Struct, frozen=True):
    versions: list[_Newest]


class LogSource:
    """A node, or several of which the first that answers will do, as the source of a log. A context manager.

    Args:
        session: where the nodes are, and who asks.
        url: the one node that is asked; by default all of the session's.
    """

    def __init__(self, session: Session, url: str = "") -> None:
        self._client: Final[Client] = (replace(session, urls=(url,)) if url else session).client()
        self.name: Final = url or ", ".join(session.urls)

    def __enter__(self) -> Self:
        self._client.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.__exit__(kind, error, trace)

    def checkpoint(self) -> Answer:
        """The latest checkpoint, as a note. Raises `CliError`, like all calls here."""
        return self._get("/log/checkpoint", NOTE_BYTES_MAX, "checkpoint_malformed")

    def checkpoint_beyond(self, size_min: int) -> bytes:
        """A checkpoint of so many entries at least; the node waits for it."""
        answer = self._get(_CONSISTENCY, 2 * NOTE_BYTES_MAX, "checkpoint_malformed", {"from": size_min})
        try:
            return (msgspec.json.decode(answer.body, type=_Consistency).checkpoint or "").encode()
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            return b""

    def proof_file(self, key: str) -> Answer:
        """A proof file of the latest operation on a key."""
        return self._get(key_path("/log/proof/file", key), PROOF_BYTES_MAX, "proof_malformed")

    def consistency(self, first_size: int, second_size: int) -> list[bytes] | None:
        """The hashes of a consistency proof, lowest first; None when what the node answers is none."""
        try:
            params = {"from": first_size, "to": second_size}
            answer = self._get(_CONSISTENCY, CONSISTENCY_BYTES_MAX, "no_consistency", params)
            hashes = [bytes.fromhex(text) for text in msgspec.json.decode(answer.body, type=_Consistency).path]
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return None
        fits = len(hashes) <= PATH_LINES_MAX + 1 and all(len(one) == HASH_BYTES for one in hashes)
        return hashes if fits else None

    def tile(self, tile: TileId) -> bytes:
        """The bytes of a tile; their number is for the caller to check."""
        return self._resource(tile, TILE_BYTES, "tile_truncated")

    def entries(self, bundle: BundleId) -> bytes:
        """The bytes of an entry bundle."""
        return self._resource(bundle, bundle.width * (2 + LEAF_BYTES_MAX), "bundle_truncated")

    def value(self, key: str, at_leaf: int | None = None) -> FetchedValue:
        """The value of a key, now or as it was behind a leaf."""
        params = {} if at_leaf is None else {"at_leaf": at_leaf}
        answer = self._get(key_path("/kv", key), VALUE_BYTES_MAX, "wrong_value", params)
        headers = answer.headers
        try:
            salt = bytes.fromhex(headers.get("scribe-salt", ""))
        except ValueError:
            salt = b""
        leaf_index = read_decimal(headers.get("scribe-leaf-index", ""))
        version = read_decimal(headers.get("etag", "").strip('"'))
        if leaf_index is None or version is None or len(salt) != SALT_BYTES:
            raise finding("wrong_value", f"{answer.url} answers a value without version, leaf index and salt")
        return FetchedValue(answer.body, salt, leaf_index, version, answer.url)

    def newest_leaf(self, key: str) -> int:
        """The leaf index of the last operation on a key, as the node's history of it says; -1 where it has none."""
        answer = self._get(key_path("/history", key), HISTORY_BYTES_MAX, "list_wrong", {"limit": 1})
        try:
            versions = msgspec.json.decode(answer.body, type=_History, strict=False).versions
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            versions = []
        return versions[0].leaf_index if versions else -1

    def keys(self, after: str) -> KeyPage:
        """A page of the present keys behind `after`."""
        params: dict[str, str | int] = {"limit": PAGE_KEYS, **({"after": after} if after else {})}
        answer = self._get("/kv", PAGE_BYTES_MAX, "list_wrong", params)
        try:
            return msgspec.json.decode(answer.body, type=KeyPage, strict=False)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise finding("list_wrong", f"{answer.url} lists its keys in a form that cannot be read: {error}") from None

    def _resource(self, resource: TileId | BundleId, bytes_max: int, too_long: str) -> bytes:
        path = f"/log/{format_path(resource)}"
        try:
            return self._get(path, bytes_max, too_long).body
        except CliError as error:
            if error.exit_code not in (Exit.NOT_FOUND, Exit.USAGE):
                raise
            text = f"{self.name} refuses {path}, which is part of the signed tree: {error.message}"
            raise finding("withheld", text, status=error.status) from None

    def _get(self, path: str, bytes_max: int, too_long: str, params: Mapping[str, Any] | None = None) -> Answer:
        try:
            return self._client.request("GET", path, params=params, bytes_max=bytes_max)
        except CliError as error:
            if error.code == TOO_LONG:
                raise finding(too_long, error.message) from None
            raise
