"""The memory in front of `ledger.db`: changes that are not yet in the file, and a bounded cache of what is.

Everything here belongs to the event loop's thread alone; nothing is locked. A batch is gathered here, sealed, and from
then on immutable: the worker only reads it.

Heads lag. In a large ledger neighbouring writes are far apart in the order of keys, so that each head would cost a
page of its own. Changed heads therefore wait here, and are written in passes over all of them in the order of their
keys, a slice with each batch, so that heads on one page are written together, and a key that is written again and
again is written there once. A pass that is over has written the head of every leaf before the size that the tree had
when it began: that size is stored as `heads_leaf_next`. Whoever needs what the file lacks finds it in the leaves behind
that mark: `restore` at start, the view `heads` for everybody else.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

from appliance.adapters.ledger_cache import HeadCache, LeafCache, head_bytes, leaf_bytes
from appliance.adapters.ledger_order import SortedKeys
from appliance.adapters.ledger_rows import Batch
from appliance.ledger.state import Changes, Head, NewLeaf, StoredAnswer, Summary

HEADS_LAG_LEAVES_MAX: Final = 131_072  # from the beginning of a pass to that of the next, if each has another key
HEADS_LAG_FACTOR_MAX: Final = 4  # so many times that when the same keys are written again and again
HEADS_LAG_LEAVES_MIN: Final = 16
CACHE_BYTES_PER_LAG_LEAF: Final = 2_048  # a small cache means a short lag
SLICE_HEADS_MIN: Final = 32
SLICE_HEADS_PER_LEAF_MIN: Final = 1.5  # so that a pass is over well before the next is due
RETIRED_ROWS_PER_CALL_MAX: Final = 1_024  # more than one call brings, and under a millisecond of the loop's time
LOADED_HEADS_MAX: Final = 512
_CHANGES_BYTES: Final = 100


class LedgerMemory:
    """What is known of the ledger without asking the file.

    Args:
        bytes_max: bound on the estimated memory of what is in the file, too.
        heads_leaf_next: the file's mark; see above.

    Attributes:
        changed: heads that no batch has taken along yet; what a key's head is, is looked up here first,
        heads: then here, among those that stand so in the file,
        writing: then here, among those in batches that are not known to be in the file,
        loaded: then here, among those that were read from the file and are not cached yet.
        answers: stored answers that are not known to be in the file.
        fresh: leaves in batches that are not known to be in the file, by their index.
        leaves: others.
        leaves_expected: about how many more come in a moment, as far as is known. A pass would be outdated by them.
    """

    def __init__(self, bytes_max: int, heads_leaf_next: int = 0) -> None:
        self._bytes_max = bytes_max
        self._lag_leaves = max(HEADS_LAG_LEAVES_MIN, min(HEADS_LAG_LEAVES_MAX, bytes_max // CACHE_BYTES_PER_LAG_LEAF))
        self.changed: dict[str, Head] = {}
        self.writing: dict[str, Head] = {}
        self.loaded: dict[str, Head] = {}
        self.answers: dict[tuple[str, str], StoredAnswer] = {}
        self.fresh: dict[int, NewLeaf] = {}
        self.heads = HeadCache()
        self.leaves = LeafCache()
        self._order = SortedKeys()  # of `changed`
        self._changed_bytes = 0  # of `changed` and `writing`
        self._pass_begin = heads_leaf_next  # tree size at the beginning of the last pass
        self._pass_heads_per_leaf = SLICE_HEADS_PER_LEAF_MIN
        self._pass_behind: str | None = None  # last key that the pass has taken along; None when there is none
        self._batch = Batch()
        self._batches: deque[Batch] = deque()
        self.leaves_expected = 0

    def size_bytes(self) -> int:
        """About the memory of all heads and leaves in here."""
        return self._changed_bytes + self.heads.size_bytes + self.leaves.size_bytes

    def restore(self, key: str, head: Head) -> None:
        """Take the head of a leaf behind the file's mark; to be called for all of them, in their order."""
        if key not in self.changed:
            self._order.add(key)
            self._changed_bytes += head_bytes(key)
        self.changed[key] = head

    def take(self, changes: Changes) -> None:
        """Lay an entry's changes over everything before them."""
        batch, changed = self._batch, self.changed
        size_bytes = _CHANGES_BYTES
        for leaf in changes.leaves:
            self.fresh[leaf.leaf_index] = leaf
            size_bytes += leaf_bytes(leaf)
            batch.leaf_values += (leaf.leaf_index, leaf.raft_index, leaf.leaf, leaf.salt, leaf.value)
        batch.leaf_hashes += changes.leaf_hashes
        for key, head in changes.heads:
            old = changed.get(key)
            if old is None:
                old = self.loaded.pop(key, None) or self.heads.pop(key)
                self._order.add(key)
                self._changed_bytes += head_bytes(key)
            changed[key] = head
            if old is not None and self.leaves.size_bytes:
                self.leaves.pop(old.leaf_index)
        if changes.refusals or changes.answer is not None or changes.forget_answers_before_us:
            self._take_rest(changes)
        batch.size_bytes += size_bytes

    def _take_rest(self, changes: Changes) -> None:
        batch, answer = self._batch, changes.answer
        batch.refusals += changes.refusals
        if answer is not None:
            batch.answers.append(answer)
            self.answers[answer.actor, answer.idempotency_key] = answer
        batch.forget_before_us = max(batch.forget_before_us, changes.forget_answers_before_us)

    def seal(self, summary: Summary, meta: bytes) -> Batch:
        """End the batch of everything taken since the last call; heads that are due go along."""
        batch, self._batch = self._batch, Batch()
        batch.summary, batch.meta = summary, meta
        if self._pass_behind is None and self._is_pass_due(summary.tree_size):
            self._pass_begin, self._pass_behind = summary.tree_size, ""
            # After a start there may be more than one lag's worth: the pass ends before the next is due all the same.
            self._pass_heads_per_leaf = max(SLICE_HEADS_PER_LEAF_MIN, 1.25 * len(self.changed) / self._lag_leaves)
        if self._pass_behind is not None:
            self._take_along(batch)
        self._batches.append(batch)
        return batch

    def _is_pass_due(self, tree_size: int) -> bool:
        lag_leaves = tree_size - self._pass_begin
        if lag_leaves < self._lag_leaves:
            return False
        if len(self.changed) >= self._lag_leaves:
            return True
        return lag_leaves >= HEADS_LAG_FACTOR_MAX * self._lag_leaves and self.leaves_expected < self._lag_leaves

    def _take_along(self, batch: Batch) -> None:
        left = max(SLICE_HEADS_MIN, int(batch.leaf_count() * self._pass_heads_per_leaf))
        while left > 0 and self._pass_behind is not None:
            keys = self._order.take(self._pass_behind, left)
            if not keys:
                batch.heads_leaf_next = self._pass_begin
                self._pass_behind = None
                return
            for key in keys:
                batch.heads[key] = self.writing[key] = self.changed.pop(key)
            self._pass_behind = keys[-1]
            left -= len(keys)

    def retire(self, file_index: int) -> None:
        """The file holds all batches up to this applied index: let go of some, and of what there is no room for."""
        batches, rows_left = self._batches, RETIRED_ROWS_PER_CALL_MAX
        while batches and rows_left > 0 and batches[0].summary.applied_index <= file_index:
            batch = batches.popleft()
            leaf_count, tree_size = batch.leaf_count(), batch.summary.tree_size
            rows_left -= 1 + leaf_count + len(batch.heads) + len(batch.answers)
            for leaf_index in range(tree_size - leaf_count, tree_size):
                del self.fresh[leaf_index]
            for key, head in batch.heads.items():
                self._changed_bytes -= head_bytes(key)
                if self.writing[key] is head:
                    del self.writing[key]
                    if key not in self.changed:
                        self.heads.put(key, head)
            for answer in batch.answers:
                if self.answers.get((answer.actor, answer.idempotency_key)) is answer:
                    del self.answers[answer.actor, answer.idempotency_key]
        self.shrink()

    def shrink(self) -> None:
        """Keep to the bound."""
        self.heads.shrink(max(0, self._bytes_max // 2 - self._changed_bytes))
        self.leaves.shrink(max(0, self._bytes_max - self._changed_bytes - self.heads.size_bytes))

    def keep_leaf(self, leaf: NewLeaf) -> None:
        """Cache a leaf that was read from the file."""
        self.leaves.put(leaf)
        self.shrink()

    def keep_head(self, key: str, head: Head) -> None:
        """Cache a head that was read from the file. If it was read for a write, it is superseded in a moment."""
        self.loaded[key] = head
        if len(self.loaded) >= LOADED_HEADS_MAX:
            self._cache_loaded()

    def _cache_loaded(self) -> None:
        for key, head in self.loaded.items():
            self.heads.put(key, head)
        self.loaded.clear()
        self.shrink()

    def unknown(self, keys: Iterable[str]) -> list[str]:
        """Those of the keys whose heads only the file knows, if anybody."""
        changed, heads, writing, loaded = self.changed, self.heads, self.writing, self.loaded
        return [
            key
            for key in keys
            if key not in changed and heads.get(key) is None and key not in writing and key not in loaded
        ]

    def is_newer(self, key: str) -> bool:
        """Whether the file may hold an older head of this key than is known here."""
        return key in self.changed or key in self.writing

    def scan(self, prefix: str, after: str, limit: int) -> list[tuple[str, Head]]:
        """Of the keys that `is_newer` names, the present ones with this prefix behind `after`, in any order: at least
        the first `limit` of them.
        """
        found: list[tuple[str, Head]] = []
        for key in self._order.walk(max(prefix, after)):
            if not key.startswith(prefix) or len(found) == limit:
                break
            head = self.changed[key]
            if key != after and not head.deleted:
                found.append((key, head))
        found += (
            (key, head)
            for key, head in self.writing.items()
            if key > after and key.startswith(prefix) and not head.deleted and key not in self.changed
        )
        return found
