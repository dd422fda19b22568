"""The shapes of what `appliance verify` answers; see `appliance.cli.shapes`."""

from __future__ import annotations

from appliance.cli.shape import Shape


class VerifyCheck(Shape, frozen=True):
    """One check of `verify`; `result` is passed, failed or not_checked, `reason` says why, for a person."""

    name: str
    result: str
    reason: str


class ProvenLeaf(Shape, frozen=True):
    """The entry of the ledger that a proof is about, as its leaf has it; `value_hash` is null for a delete."""

    leaf_index: int
    key: str
    op: str
    version: int
    timestamp: str
    actor: str
    request_id: str
    value_hash: str | None
    size: int


class Verified(Shape, frozen=True):
    """`verify KEY`, `verify proof`: every check in its order, and what the answer rests on.

    `leaf`, `tree_size`, `root_hash` and `checkpoint` (the signed note) are null where the proof does not give them;
    `remembered` is the checkpoint that this one was compared with. `key_history` are the log's verifier keys, the
    first one first, as the proof has them: nothing vouches for them.
    """

    verified: bool
    log: str
    leaf: ProvenLeaf | None
    tree_size: int | None
    root_hash: str | None
    checkpoint: str | None
    remembered: str | None
    checks: list[VerifyCheck]
    assumptions: list[str]
    key_history: list[str]


class NodeVerified(Shape, frozen=True):
    """One node of `verify log`.

    `result` is verified, failed or unavailable; then `code` and `detail` are those of the error, and `first_bad_entry`
    is the leaf index of the first entry that is wrong, where one can be named. `tree_size` is that of the node's own
    checkpoint; `entries` and `tiles` count what was downloaded and hashed, `listed` the rows of its key list that were
    compared with the entries.
    """

    url: str
    result: str
    code: str | None
    detail: str | None
    first_bad_entry: int | None
    tree_size: int | None
    entries: int
    tiles: int
    listed: int
    seconds: float


class LogVerified(Shape, frozen=True):
    """`verify log`: the tree that all nodes were compared with, checks of it, the nodes, and what was not checked."""

    verified: bool
    log: str
    tree_size: int | None
    root_hash: str | None
    checkpoint: str | None
    remembered: str | None
    keys: int | None
    checks: list[VerifyCheck]
    nodes: list[NodeVerified]
    not_checked: list[str]
    assumptions: list[str]
