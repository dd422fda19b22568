"""The shapes of `--output json`: one struct a command; `docs/CLI.md` is rendered from them.

Fields are only ever added. Times are RFC 3339 UTC, hashes lower-case hex, ids beyond 2**53 strings.
"""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, UnsetType, field

from appliance.cli.proof_shapes import LogVerified, NodeVerified, ProvenLeaf, Verified, VerifyCheck
from appliance.cli.shape import Shape

PROOF_SHAPES = (LogVerified, NodeVerified, ProvenLeaf, Verified, VerifyCheck)  # they stand among these in docs/CLI.md


class Written(Shape, frozen=True):
    """`kv put`, `kv delete`: where the write went. `replayed`: an earlier request with this idempotency key did it."""

    status: str
    key: str
    version: int
    leaf_index: int
    index: int
    term: int
    timestamp: str
    replayed: bool
    idempotency_key: str | None
    node: str


class Value(Shape, frozen=True):
    """`kv get`: the value as `value` where it is UTF-8, else as `value_base64`; the other one is missing."""

    key: str
    version: int
    leaf_index: int | None
    size: int
    value: str | UnsetType = UNSET
    value_base64: str | UnsetType = UNSET


class KeyRow(Shape, frozen=True):
    """One key of `kv list`; `size` in bytes."""

    key: str
    version: int
    leaf_index: int
    size: int
    timestamp: str


class KeyList(Shape, frozen=True):
    """`kv list`: keys in the order of their UTF-8 bytes; `next` is the --after of the next page, or null."""

    items: list[KeyRow]
    next: str | None


class VersionRow(Shape, frozen=True):
    """One version of `kv history`; `op` is put or delete; `value_hash` and `size` are null for a delete."""

    version: int
    leaf_index: int
    timestamp: str
    actor: str
    op: str
    value_hash: str | None
    size: int | None


class History(Shape, frozen=True):
    """`kv history`: versions, newest first; `next` is the --from-leaf of the next page, or null."""

    key: str
    versions: list[VersionRow]
    next: int | None


class LineError(Shape, frozen=True):
    """A line of an import that was not written; `line` counts from 1."""

    line: int
    key: str | None
    code: str
    detail: str


class Imported(Shape, frozen=True):
    """`kv import`: counts of lines.

    `acknowledged` were written (`replayed` of them by an earlier run with the same import id), `failed` were refused,
    `unknown` may or may not be there, `skipped` were empty; `errors` has the first 100 of what failed.
    """

    import_id: str
    acknowledged: int
    replayed: int
    failed: int
    unknown: int
    skipped: int
    complete: bool
    seconds: float
    errors: list[LineError]
    errors_truncated: bool


class Exported(Shape, frozen=True):
    """`kv export` to a file."""

    file: str
    records: int
    bytes: int
    seconds: float


class Member(Shape, frozen=True):
    """A node of `cluster nodes`; `match_index`, `lag`, `last_contact_s` are null where the asked node cannot know."""

    node_id: int
    role: str
    is_leader: bool
    is_self: bool
    address: str
    raft_address: str
    connected: bool
    match_index: int | None
    lag: int | None
    last_contact_s: float | None
    version: str | None
    incarnation: str


class Members(Shape, frozen=True):
    """`cluster nodes`: the members as the asked node sees them."""

    nodes: list[Member]


class MemberChange(Shape, frozen=True):
    """`cluster add`, `cluster remove`: how the node stands now.

    `role` is voter, learner (not caught up yet; the leader promotes it once it is) or removed; `changed` is false when
    it stood so before; `index` is the Raft index of the configuration that this command made or found. `url` is where a
    node answers that `cluster add` runs here, else null; `stopped` tells that `cluster remove` stopped it.
    """

    status: str
    node_id: int
    role: str
    changed: bool
    index: int
    members: list[Member]
    url: str | None = None
    stopped: bool = False


class Replaced(Shape, frozen=True):
    """`cluster replace`: as `cluster add`; `removed` tells whether the old member had to be removed first."""

    status: str
    node_id: int
    role: str
    changed: bool
    removed: bool
    index: int
    members: list[Member]


class Transferred(Shape, frozen=True):
    """`cluster transfer`: who leads now; `changed` is false when that node led before."""

    status: str
    leader_id: int
    term: int
    changed: bool


class AskedMember(Shape, frozen=True):
    """What a member says to `cluster recover`.

    `state` is holds (a log), empty (none) or unreachable (`detail` says why); `remembers` tells whether it is the
    incarnation that the recovered node's configuration names.
    """

    node_id: int
    role: str
    raft_address: str
    state: str
    remembers: bool | None
    last_index: int | None
    last_term: int | None
    detail: str | None


class Recovered(Shape, frozen=True):
    """`cluster recover`: what the node holds, what the others say, what may be lost; `done` is false for a dry run.

    `applied_index` and `tree_size` are those of its ledger file, which the log brings up to `last_index`; `last_write`
    is the stamp of the last write that it holds. `from_ledger` tells that its log cannot be used. `may_take_effect` is
    what may come to count though a client was told otherwise. `recovery` is the number that tells the log from that of
    before, `kept` where a log is that cannot be used, `verifier_key` is the key that checkpoints are signed with from
    now on; all three are null in a dry run.
    """

    done: bool
    cluster_id: str
    node_id: int
    incarnation: str
    data_dir: str
    last_index: int
    last_term: int
    commit_index: int
    applied_index: int
    tree_size: int
    last_write: str | None
    from_ledger: bool
    members: list[AskedMember]
    may_be_lost: list[str]
    may_take_effect: str | None
    recovery: str | None
    kept: str | None
    verifier_key: str | None


class WritesPause(Shape, frozen=True):
    """`writes pause`, `writes resume`: how writes stand now.

    `paused_until` is when the pause ends by itself, null without one; `index` is the Raft index of the entry that
    decided it; `settled` are the nodes whose ledger file holds, synced, everything up to that entry, `unsettled` the
    other members.
    """

    status: str
    paused: bool
    paused_until: str | None
    index: int
    settled: list[int]
    unsettled: list[int]


class Compacted(Shape, frozen=True):
    """One node of `compact`; `error` says why it was not compacted, and the figures are null then."""

    url: str
    status: str
    error: str | None
    snapshot_index: int | None = None
    entries_dropped: int | None = None
    log_bytes_before: int | None = None
    log_bytes_after: int | None = None
    ledger_bytes_before: int | None = None
    ledger_bytes_after: int | None = None
    seconds: float | None = None


class Compaction(Shape, frozen=True):
    """`compact`: the nodes in the order in which they were compacted."""

    nodes: list[Compacted]


class Scrubbed(Shape, frozen=True):
    """One node of `scrub`: `status` is ok, or the code of the error that kept it from being read back; `details` are
    the first of its `findings`.
    """

    url: str
    status: str
    error: str | None
    findings: int | None = None
    details: list[str] = field(default_factory=list)
    bytes_read: int | None = None
    seconds: float | None = None


class Scrubs(Shape, frozen=True):
    """`scrub`: the nodes in the order in which they were read back."""

    nodes: list[Scrubbed]


class Resynced(Shape, frozen=True):
    """`cluster resync`: the node with its new incarnation. `changed` is false when it was being resynced already."""

    node_id: int
    url: str
    role: str
    changed: bool
    incarnation_before: str
    incarnation: str
    seconds: float


class NodeHealth(Shape, frozen=True):
    """One node of `health`; `reasons` say why it is not healthy; figures are null when it does not answer."""

    url: str
    healthy: bool
    status: str
    node_id: int | None
    role: str | None
    leader_id: int | None
    term: int | None
    commit_index: int | None
    applied_index: int | None
    lag: int | None
    alarms: list[str]
    reasons: list[str]


class HealthReport(Shape, frozen=True):
    """`health`: whether every node asked is healthy."""

    healthy: bool
    nodes: list[NodeHealth]


class NodeStatus(Shape, frozen=True):
    """One node of `status`: its health, its keys, and the Merkle tree that it holds."""

    health: NodeHealth
    keys: int | None
    tree_size: int | None
    root_hash: str | None


class Status(Shape, frozen=True):
    """`status`: all nodes, and whether their trees agree.

    `agreement` is `agree` (one root at one size on every node that answers), `diverged` (two roots at one size),
    `moving` (sizes never were equal while it looked) or `unknown` (fewer than two nodes answer).
    """

    healthy: bool
    leader_id: int | None
    agreement: str
    nodes: list[NodeStatus]


class Process(Shape, frozen=True):
    """One node of `ps`.

    `state` is running, restarting, stopped (local) or what the container engine says (stack); `since` is when it came
    into this state; `restarts` counts since `up`.
    """

    name: str
    node_id: int | None
    state: str
    pid: int | None
    url: str | None
    role: str | None
    health: str | None
    restarts: int | None
    since: str | None


class Processes(Shape, frozen=True):
    """`ps`: what runs; `mode` is local, stack or none, `supervisor_pid` is null where no supervisor runs."""

    mode: str
    directory: str
    supervisor_pid: int | None
    processes: list[Process]


class LogLine(Shape, frozen=True):
    """One line of `logs`, one JSON document a line.

    `source` is log, console or container; `record` is the line's own JSON object, null when it is none.
    """

    node: str
    source: str
    text: str
    record: dict[str, Any] | None


class Started(Shape, frozen=True):
    """`up`: the healthy cluster. `already` tells that it was running before."""

    mode: str
    urls: list[str]
    credentials: str
    already: bool
    seconds: float


class Stopped(Shape, frozen=True):
    """`down`: what was stopped; `killed` had to be killed; `purged` tells that the data are gone."""

    mode: str
    stopped: list[str]
    killed: list[str]
    purged: bool


class QueryResult(Shape, frozen=True):
    """`audit query`: rows in the order of `columns`; `truncated` when there were more than --limit."""

    columns: list[str]
    rows: list[list[Any]]
    truncated: bool


class ErrorDetail(Shape, frozen=True):
    """What an error says. `code` is stable, `exit_code` is the process's."""

    code: str
    exit_code: int
    detail: str
    hint: str
    retryable: bool


class ErrorReport(Shape, frozen=True):
    """Every failure with `--output json`, on standard error."""

    error: ErrorDetail


class WitnessKey(Shape, frozen=True):
    """`witness init`: the key in `file`; `verifier_key` is what logs and clients have to know of it."""

    name: str
    verifier_key: str
    file: str
