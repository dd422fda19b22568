"""`appliance verify log`: every node's whole log against one signed tree, and its list of keys against the entries."""

from __future__ import annotations

import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

from appliance.cli.checkpoint_memory import CheckpointMemory, Seen
from appliance.cli.exits import CliError, Exit, finding, no_node_known
from appliance.cli.output import emit_json, emit_table
from appliance.cli.proof_shapes import LogVerified, NodeVerified
from appliance.cli.verify_checks import Checks, Trusted, show_checks
from appliance.cli.verify_fetch import LogSource
from appliance.cli.verify_leaves import LeafFacts
from appliance.cli.verify_standing import CONSISTENCY, Standing, at_all, compare, forked, open_signed
from appliance.cli.verify_tables import claimed_sizes, compare_list, settle_claims
from appliance.cli.verify_tree import BadEntry, TreeAudit, first_unlike

if TYPE_CHECKING:
    from appliance.cli.session import Session

CHECKPOINTS: Final = "checkpoints"
ENTRIES: Final = "entries"
KEYS: Final = "keys"

_GUILTY: Final = (Exit.FORKED, Exit.SHRUNK, Exit.FORGED, Exit.WRONG_LOG, Exit.WRONG_ENTRIES, Exit.DIVERGED)
_UNNAMED: Final = ("root_wrong", "entry_wrong")  # findings that may be of an entry without naming it
_NOT_CHECKED: Final = (
    "Values: entries hold their salted hashes alone. `appliance verify KEY` checks the value of a key.",
    "Answers of /history and of audit queries, which nodes derive from the same entries.",
)
_ASSUMPTIONS: Final = (
    "The verifier key is the right one: it came on a way that the nodes do not control.",
    "Nobody but the log has the log's private key; Ed25519 and SHA-256 are not broken.",
    "The log shows others the same tree. This user is told when it does not continue this one later.",
)
_COLUMNS: Final = ("node", "result", "checkpoint", "entries", "tiles", "keys", "first bad", "seconds", "why")


def verify_log(session: Session, trusted: Trusted, memory: CheckpointMemory) -> None:
    """Verify all nodes of the session. Raises `CliError` with the worst that was found, after all of it is shown."""
    if not session.urls:
        raise no_node_known()
    with tempfile.TemporaryDirectory(prefix="appliance-verify-") as directory, ExitStack() as stack:
        run = _Run(session, trusted, memory, Path(directory), stack)
        run.run()
        shown = run.shown(trusted.log_key.name)
        error = run.verdict()
    if session.as_json:
        emit_json(shown)
    else:
        _show(shown)
    if error is not None:
        raise error


class _Node:
    """What was found out about a node."""

    def __init__(self, source: LogSource) -> None:
        self.source = source
        self.url: Final = source.name
        self.seen: Seen | None = None
        self.error: CliError | None = None
        self.first_bad: int | None = None
        self.within: tuple[int, int] | None = None  # the hash of a tile that the first bad entry stands under
        self.is_whole = False  # its log is the signed one
        self.audit: TreeAudit | None = None
        self.listed = 0
        self.seconds = 0.0

    def shown(self) -> NodeVerified:
        """As the answer has it."""
        error, audit = self.error, self.audit
        if error is not None:
            result = "failed" if error.exit_code in _GUILTY else "unavailable"
        else:
            result = "verified" if self.is_whole else "not_checked"
        return NodeVerified(
            url=self.url,
            result=result,
            code=error.code if error else None,
            detail=error.message if error else None,
            first_bad_entry=self.first_bad,
            tree_size=self.seen.checkpoint.size if self.seen else None,
            entries=audit.entries if audit else 0,
            tiles=audit.tiles if audit else 0,
            listed=self.listed,
            seconds=round(self.seconds, 3),
        )


class _Run:
    """One run over all nodes: what one of them is found guilty of is kept with it, what concerns all in `checks`."""

    def __init__(
        self, session: Session, trusted: Trusted, memory: CheckpointMemory, directory: Path, stack: ExitStack
    ) -> None:
        self._session = session
        self._log = trusted.log()
        self._memory = memory
        self._directory = directory
        self._stack = stack
        self._facts: LeafFacts | None = None  # has taken the signed entries
        self._nodes = [_Node(stack.enter_context(LogSource(session, url))) for url in session.urls]
        self._checks = Checks()
        self._target: Seen | None = None
        self._standing: Standing | None = None
        self._keys: int | None = None
        self._not_checked = list(_NOT_CHECKED)

    def run(self) -> None:
        """All steps."""
        at_all(self._nodes, self._look)
        shown = [node.seen for node in self._nodes if node.seen is not None]
        if not shown:
            return
        self._target = target = max(shown, key=lambda seen: seen.checkpoint.size)
        try:
            self._standing = compare(self._session, self._memory, target, self._log)
        except CliError as error:
            self._checks.failed(CONSISTENCY, error)
            return
        self._checks.rows.append(self._standing.check)
        sizes = {seen.checkpoint.size for seen in shown}
        for node in self._nodes:
            if node.seen is not None:
                self._verify(node, target, sizes)
        self._compare_checkpoints(shown, target)
        self._name_entries(target)
        if self._facts is None:
            self._not_checked.append("Entries and lists of keys: no node has the log that was signed.")
            return
        reason = f"each of {self._facts.size} entries is a leaf in canonical form, and follows from those before it"
        self._checks.passed(ENTRIES, reason)
        self._keys = self._facts.key_count()
        self._compare_lists(self._facts)

    def _look(self, node: _Node) -> None:
        try:
            node.seen = open_signed(node.source.checkpoint().body, self._log, node.url)
        except CliError as error:
            node.error = error

    def _verify(self, node: _Node, target: Seen, sizes: set[int]) -> None:
        """Download a node's log. The entries of the first good one are looked into; equal roots are equal entries."""
        facts = None
        if self._facts is None:
            facts = self._stack.enter_context(LeafFacts(self._directory / f"{self._nodes.index(node)}.db"))
        node.audit = TreeAudit(node.source, facts)
        began_s = time.monotonic()
        try:
            node.audit.advance(target.checkpoint, sizes)
            node.is_whole = True
            self._facts = self._facts or facts
        except BadEntry as bad:
            node.error, node.first_bad, node.within = bad.error, bad.leaf_index, bad.within
        except CliError as error:
            node.error = error
        node.seconds = time.monotonic() - began_s

    def _compare_checkpoints(self, shown: list[Seen], target: Seen) -> None:
        """See that the checkpoints of all nodes are of one tree: of some size each, its root was recomputed."""
        roots = {target.checkpoint.size: target.checkpoint.root}
        for node in self._nodes:
            if node.is_whole and node.audit is not None:
                roots |= node.audit.roots
        for seen in shown:
            size = seen.checkpoint.size
            if size not in roots:
                self._checks.skipped(CHECKPOINTS, f"no node has the entries to compare {seen.url}'s checkpoint with")
                return
            if roots[size] != seen.checkpoint.root:
                why = f"{seen.url} shows a signed checkpoint that is not of the tree that {target.url} shows"
                self._checks.failed(CHECKPOINTS, forked(self._memory, target, seen, why))
                return
        if len(shown) > 1:
            self._checks.passed(CHECKPOINTS, f"the checkpoints of {len(shown)} nodes are of one tree")

    def _name_entries(self, target: Seen) -> None:
        """Where a node's own tiles cover up which entry is wrong, a good node's show it."""
        good = next((node for node in self._nodes if node.is_whole), None)
        for node in self._nodes:
            error = node.error
            if good is None or error is None or error.code not in _UNNAMED or node.first_bad is not None:
                continue
            try:
                node.first_bad = first_unlike(node.source, good.source, target.checkpoint.size, node.within)
            except CliError:
                continue  # it stays unnamed
            if node.first_bad is not None:
                message = f"{error.message}; the first entry that {good.url} has otherwise is {node.first_bad}"
                node.error = finding(error.code, message)

    def _compare_lists(self, facts: LeafFacts) -> None:
        for node in self._nodes:
            if not node.is_whole:
                continue
            try:
                node.listed = compare_list(node.source, facts)
            except CliError as error:
                if error.exit_code is Exit.AUTH and not self._session.api_key:
                    self._not_checked.append(f"The list of keys of {node.url}: {error.message}")
                else:
                    node.error = error
        claims = claimed_sizes(facts)
        size = max((claims[node.url] for node in self._nodes if self._covers(node, claims.get(node.url, 0))), default=0)
        if size and not self._take_newer(facts, size):
            return
        for node in self._nodes:
            try:
                if node.error is None:
                    settle_claims(node.url, facts)
            except CliError as error:
                node.error = error
        if any(node.listed for node in self._nodes if node.error is None):
            self._checks.passed(KEYS, f"by the entries {self._keys} keys are present; each list read says the same")

    def _covers(self, node: _Node, size: int) -> bool:
        """Whether a node that lists what stands behind the checkpoint shows a newer one that covers it. One that makes
        such claims and nothing that they could be held to keeps nobody from settling those of the others.
        """
        if not size or node.error is not None:
            return False
        try:
            newer = open_signed(node.source.checkpoint_beyond(size), self._log, node.url)
            _expect_size(newer, size)
        except CliError as error:
            node.error = error
            return False
        return True

    def _take_newer(self, facts: LeafFacts, size: int) -> bool:
        """Take the entries behind the checkpoint that rows of a list name, under a newer one."""
        node = next(node for node in self._nodes if node.is_whole)
        assert node.audit is not None
        facts.note_newer()
        try:
            newer = open_signed(node.source.checkpoint_beyond(size), self._log, node.url)
            _expect_size(newer, size)
            compare(self._session, self._memory, newer, self._log)
            node.audit.advance(newer.checkpoint)
        except BadEntry as bad:
            node.error, node.first_bad = bad.error, bad.leaf_index
        except CliError as error:
            self._checks.failed(KEYS, error)
        else:
            return True
        return False

    def verdict(self) -> CliError | None:
        """The worst that was found; what concerns the whole log goes first."""
        errors = [self._checks.failure] if self._checks.failure else []
        errors += [_of_node(node) for node in self._nodes if node.error is not None]
        for exit_code in _GUILTY:
            for error in errors:
                if error.exit_code is exit_code:
                    return error
        if not errors or not any(node.is_whole and node.error is None for node in self._nodes):
            return errors[0] if errors else None
        if self._checks.failure is not None:
            return self._checks.failure
        hint = "the others were found right; ask these again when they answer"
        text = f"{len(errors)} of {len(self._nodes)} nodes could not be verified: {errors[0].message}"
        return CliError(Exit.PARTIAL, text, hint=hint, code=errors[0].code, retryable=True)

    def shown(self, log_name: str) -> LogVerified:
        """The answer."""
        target = self._target
        not_checked = list(self._not_checked)
        if target is not None:
            not_checked.append(f"Entries behind the first {target.checkpoint.size}, which the checkpoint covers.")
        remembered = self._standing.remembered if self._standing else None
        return LogVerified(
            verified=self.verdict() is None,
            log=log_name,
            tree_size=target.checkpoint.size if target else None,
            root_hash=target.checkpoint.root.hex() if target else None,
            checkpoint=target.note.decode() if target else None,
            remembered=remembered.note.decode() if remembered else None,
            keys=self._keys,
            checks=self._checks.rows,
            nodes=[node.shown() for node in self._nodes],
            not_checked=not_checked,
            assumptions=list(_ASSUMPTIONS),
        )


def _expect_size(newer: Seen, size: int) -> None:
    if newer.checkpoint.size < size:
        text = f"{newer.url} shows a checkpoint of {newer.checkpoint.size} entries, and {size} were asked for"
        raise finding("log_behind", text)


def _of_node(node: _Node) -> CliError:
    error = node.error
    assert error is not None
    message = error.message if node.url in error.message else f"{node.url}: {error.message}"
    return CliError(
        error.exit_code, message, hint=error.hint, code=error.code, retryable=error.retryable, status=error.status
    )


def _show(shown: LogVerified) -> None:
    if shown.tree_size is not None:
        emit_table(("log", "entries", "root hash", "keys"), [(shown.log, shown.tree_size, shown.root_hash, shown.keys)])
    show_checks(shown.checks)
    emit_table(
        _COLUMNS,
        (
            (
                node.url,
                node.result.replace("_", " "),
                node.tree_size,
                node.entries,
                node.tiles,
                node.listed,
                node.first_bad_entry,
                node.seconds,
                (node.detail or "").partition("\n")[0],
            )
            for node in shown.nodes
        ),
    )
    emit_table(("not checked",), [(text,) for text in shown.not_checked])
    if shown.verified:
        emit_table(("what this rests on",), [(text,) for text in shown.assumptions])
