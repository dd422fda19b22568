"""A ledger store in memory: for tests, the simulator and the contract suite, and the plainest statement of what a
store has to do.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import Struct

from appliance.ledger.state import Changes, Head, NewLeaf, Refusal, StoredAnswer, Summary


class _Image(Struct, frozen=True):
    """Everything a store holds, for `to_bytes`."""

    summary: Summary
    meta: bytes
    leaves: list[NewLeaf]
    heads: dict[str, Head]
    refusals: list[Refusal]
    answers: list[StoredAnswer]


class MemoryLedger:
    """A `StateView` over dictionaries, and the history of the changes it took.

    Attributes:
        leaves: by leaf index.
        heads: by key, deleted ones included.
        refusals: in the order in which they were decided.
        answers: by actor and idempotency key.
    """

    def __init__(self) -> None:
        self.leaves: list[NewLeaf] = []
        self.heads: dict[str, Head] = {}
        self.refusals: list[Refusal] = []
        self.answers: dict[tuple[str, str], StoredAnswer] = {}
        self._summary = Summary()
        self._meta = b""

    def load(self) -> tuple[Summary, bytes]:
        """The summary and snapshot metadata of the last `add`."""
        return self._summary, self._meta

    def add(self, changes: Sequence[Changes], summary: Summary, meta: bytes) -> None:
        """Take changes in; all reads see them from now on."""
        for change in changes:
            self.take(change)
        self._summary = summary
        self._meta = meta

    def take(self, changes: Changes) -> None:
        """Take one entry's changes in; all reads see them from now on. The summary follows with the next `add`."""
        for leaf in changes.leaves:
            assert leaf.leaf_index == len(self.leaves)
            self.leaves.append(leaf)
        self.heads.update(changes.heads)
        self.refusals.extend(changes.refusals)
        if changes.forget_answers_before_us:
            self._forget_answers(changes.forget_answers_before_us)
        if changes.answer is not None:
            self.answers[changes.answer.actor, changes.answer.idempotency_key] = changes.answer

    def head(self, key: str) -> Head | None:
        """The head of a key, or None if it was never written."""
        return self.heads.get(key)

    def answer(self, actor: str, idempotency_key: str) -> StoredAnswer | None:
        """The stored first answer to an idempotency key, or None."""
        return self.answers.get((actor, idempotency_key))

    def answers_before(self, timestamp_us: int) -> int:
        """How many stored answers have a stamp earlier than this."""
        return sum(answer.timestamp_us < timestamp_us for answer in self.answers.values())

    def leaf(self, leaf_index: int) -> NewLeaf | None:
        """A stored leaf with salt and value, or None beyond the tree."""
        return self.leaves[leaf_index] if 0 <= leaf_index < len(self.leaves) else None

    def scan(self, prefix: str, after: str, limit: int) -> list[tuple[str, Head]]:
        """Present keys with this prefix that come behind `after`, in the order of their UTF-8 bytes."""
        after_bytes = after.encode()
        found = [
            (key, head)
            for key, head in self.heads.items()
            if not head.deleted and key.startswith(prefix) and key.encode() > after_bytes
        ]
        found.sort(key=lambda item: item[0].encode())
        return found[:limit]

    def to_bytes(self) -> bytes:
        """Everything in here as one snapshot."""
        return msgspec.msgpack.encode(
            _Image(self._summary, self._meta, self.leaves, self.heads, self.refusals, list(self.answers.values()))
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> MemoryLedger:
        """A store with what `to_bytes` gave. Raises `msgspec.DecodeError` when it is no such snapshot."""
        image = msgspec.msgpack.decode(data, type=_Image)
        ledger = cls()
        ledger.leaves, ledger.heads, ledger.refusals = image.leaves, image.heads, image.refusals
        ledger.answers = {(answer.actor, answer.idempotency_key): answer for answer in image.answers}
        ledger._summary, ledger._meta = image.summary, image.meta
        return ledger

    def _forget_answers(self, before_us: int) -> None:
        self.answers = {name: answer for name, answer in self.answers.items() if answer.timestamp_us >= before_us}
