"""The command language of the transcripts.

A file begins with a paragraph that says what it shows. Then come blocks: a line `> command`, and under it what
happened, up to an empty line. `python -m tests.transcripts --rewrite` writes what happens now in its place.

    cluster voters=1,2,3 [learners=4] [append=1] [inflight=1]     start nodes with empty logs; at most so many
                              entries in an append message, and append messages without an answer
    stored N terms=1,1,2 [term= vote= commit= voters= learners=]   restart node N with that log
    tick N COUNT | campaign N | propose N TEXT | read N CONTEXT | transfer N TARGET
    deliver [A->B] [COUNT]    deliver what waits now (on one link), at most COUNT messages, not what follows from it
    drop [A->B]               lose what waits now
    stabilize                 deliver until nothing waits
    isolate N | heal          messages from and to N are lost | no more
    hold-disk N | release-disk N     writes of N are not durable | are durable now
    crash N | restart N       what was not durable is lost
    start N | add L N | remove L N     a node with an empty log | leader L makes it a learner | removes it
    wipe N | copy N | put-back N     another directory: empty | what is on disk is kept | and put back
    meet L N | tell N M       node N says to node L who it is | node M to node N who takes part, if that is committed
    compact N INDEX | snapshot A->B INDEX | restore-failed A->B     log compaction; a snapshot of A arrives at B
    may-campaign N yes|no | status [N]
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

from appliance.raft.core import NotLeader
from appliance.raft.membership import ChangeRefused, with_member, without_member
from appliance.raft.messages import AnyMessage, Configuration, HardState, Member, MemberRole, SnapshotMeta
from appliance.raft.state import RaftSettings

from .lab import Lab, LabNode, Stored, describe, membership

FOLDER = Path(__file__).parent
STABILIZE_MESSAGES_MAX = 500


class ScriptError(Exception):
    """A command is not understood."""


class Script:
    """Runs the commands of one file."""

    def __init__(self) -> None:
        self.lab: Lab | None = None

    def run(self, command: str) -> list[str]:
        """Carry out one command; answers the lines that it wrote."""
        name, *words = command.split()
        if name == "cluster":
            options = _options(words)
            settings = RaftSettings(
                election_ticks=10,
                heartbeat_ticks=2,
                append_entries_max=int(options.get("append", "512")),
                inflight_messages_max=int(options.get("inflight", "64")),
            )
            self.lab = Lab(_numbers(options["voters"]), _numbers(options.get("learners", "")), settings)
            return self._statuses()
        method: Callable[[list[str]], None] | None = getattr(self, "do_" + name.replace("-", "_"), None)
        if method is None:
            raise ScriptError(f"no command {name!r}")
        self._lab.lines = []
        method(words)
        return self._lab.lines or ["  nothing"]

    @property
    def _lab(self) -> Lab:
        if self.lab is None:
            raise ScriptError("a script begins with 'cluster'")
        return self.lab

    def _node(self, word: str) -> LabNode:
        return self._lab.nodes[int(word)]

    def _act(self, node: LabNode, action: Callable[[], object]) -> None:
        before = self._lab.role(node)
        try:
            action()
        except (NotLeader, ChangeRefused) as refusal:
            self._lab.lines.append(f"  refused: {refusal}")
        self._lab.act(node, before)

    def _statuses(self) -> list[str]:
        return ["  " + self._lab.status(node) for node in self._lab.nodes.values()]

    def _waiting(self, words: list[str]) -> list[AnyMessage]:
        links = [w for w in words if "->" in w]
        counts = [int(w) for w in words if "->" not in w]
        chosen = [m for m in self._lab.messages if not links or f"{m.sender}->{m.to}" in links]
        return chosen[: counts[0]] if counts else chosen

    def do_stored(self, words: list[str]) -> None:
        options = {"term": "0", "vote": "0", "commit": "0", **_options(words[1:])}
        terms = _numbers(options["terms"])
        term = max([int(options["term"]), *terms])
        if "voters" in options:
            learners = _numbers(options.get("learners", ""))
            self._node(words[0]).configuration = membership(_numbers(options["voters"]), learners)
        self._lab.store(int(words[0]), terms, HardState(term, int(options["vote"]), int(options["commit"])))
        self._lab.settle(self._node(words[0]))
        self._lab.lines = ["  " + self._lab.status(self._node(words[0]))]

    def do_tick(self, words: list[str]) -> None:
        node = self._node(words[0])
        for _ in range(int(words[1])):
            self._act(node, node.running.tick)

    def do_campaign(self, words: list[str]) -> None:
        node = self._node(words[0])
        self._act(node, node.running.campaign)

    def do_propose(self, words: list[str]) -> None:
        node = self._node(words[0])
        self._act(node, lambda: node.running.propose([words[1].encode()]))

    def do_read(self, words: list[str]) -> None:
        node = self._node(words[0])
        self._act(node, lambda: node.running.request_read(int(words[1])))

    def do_transfer(self, words: list[str]) -> None:
        node = self._node(words[0])
        self._act(node, lambda: node.running.transfer_leadership(int(words[1])))

    def do_may_campaign(self, words: list[str]) -> None:
        self._node(words[0]).running.set_may_campaign(words[1] == "yes")

    def do_deliver(self, words: list[str]) -> None:
        for message in self._waiting(words):
            self._lab.messages.remove(message)
            self._lab.deliver(message)

    def do_drop(self, words: list[str]) -> None:
        for message in self._waiting(words):
            self._lab.messages.remove(message)
            self._lab.lines.append(f"lost: {describe(message)}")

    def do_stabilize(self, words: list[str]) -> None:
        for _ in range(STABILIZE_MESSAGES_MAX):
            if not self._lab.messages:
                return
            self._lab.deliver(self._lab.messages.pop(0))
        raise ScriptError(f"not quiet after {STABILIZE_MESSAGES_MAX} messages")

    def do_isolate(self, words: list[str]) -> None:
        self._lab.isolated |= {int(w) for w in words}

    def do_heal(self, words: list[str]) -> None:
        self._lab.isolated.clear()

    def do_hold_disk(self, words: list[str]) -> None:
        self._node(words[0]).disk_held = True

    def do_release_disk(self, words: list[str]) -> None:
        node = self._node(words[0])
        self._act(node, lambda: self._lab.release_disk(node))

    def do_crash(self, words: list[str]) -> None:
        self._lab.crash(self._node(words[0]))

    def do_restart(self, words: list[str]) -> None:
        node = self._node(words[0])
        node.start()
        self._lab.settle(node)
        self.do_status(words)

    def do_start(self, words: list[str]) -> None:
        node_id = int(words[0])
        self._lab.nodes[node_id] = LabNode(node_id, Configuration(), self._lab.nodes[1].settings)
        self.do_restart(words)

    def do_add(self, words: list[str]) -> None:
        node = self._node(words[1])
        learner = Member(node.node_id, node.incarnation, MemberRole.LEARNER, "", "")
        self._change(words[0], lambda configuration: with_member(configuration, learner))

    def do_remove(self, words: list[str]) -> None:
        self._change(words[0], lambda configuration: without_member(configuration, int(words[1])))

    def _change(self, leader: str, change: Callable[[Configuration], Configuration]) -> None:
        node = self._node(leader)
        wanted = change(node.running.state.configuration)
        self._act(node, lambda: node.running.propose_configuration(wanted))

    def do_meet(self, words: list[str]) -> None:
        leader, node = (self._node(w) for w in words)
        self._act(leader, lambda: leader.running.meet(node.node_id, node.incarnation, "", ""))

    def do_tell(self, words: list[str]) -> None:
        node, teller = (self._node(w) for w in words)
        state = teller.running.state
        if state.configuration_index > state.commit_index:
            raise ScriptError(f"what node {teller.node_id} acts on is not committed")
        self._act(node, lambda: node.running.hear_configuration(state.configuration_index, state.configuration))

    def do_wipe(self, words: list[str]) -> None:
        self._put(words, Stored(Configuration()))

    def do_copy(self, words: list[str]) -> None:
        node = self._node(words[0])
        node.copy = copy.deepcopy(node.stored)

    def do_put_back(self, words: list[str]) -> None:
        stored = self._node(words[0]).copy
        if stored is None:
            raise ScriptError(f"no copy of node {words[0]} was made")
        self._put(words, stored)

    def _put(self, words: list[str], stored: Stored) -> None:
        node = self._node(words[0])
        self._lab.crash(node)
        node.replace(stored)
        self._lab.lines.append(f"  node {node.node_id} is incarnation {node.incarnation}")
        self.do_status(words)

    def do_compact(self, words: list[str]) -> None:
        node, index = self._node(words[0]), int(words[1])
        term = node.running.state.log.term_at(index)
        if term is None:
            raise ScriptError(f"node {node.node_id} has no entry {index}")
        node.running.compact(index)
        node.stored.compact(SnapshotMeta(index, term, self._lab.configuration))
        self.do_status(words)

    def do_snapshot(self, words: list[str]) -> None:
        sender, receiver = (self._node(w) for w in words[0].split("->"))
        index = int(words[1])
        term = sender.running.state.log.term_at(index)
        if term is None:
            raise ScriptError(f"node {sender.node_id} has no entry {index}")
        meta = SnapshotMeta(index, term, self._lab.configuration)
        needed = receiver.running.restore(meta)
        self._lab.lines.append(
            f"  node {receiver.node_id} {'takes' if needed else 'does not need'} the snapshot at {index}"
        )
        self._act(receiver, lambda: None)
        self._act(sender, lambda: sender.running.report_snapshot(receiver.node_id, index))

    def do_restore_failed(self, words: list[str]) -> None:
        sender, receiver = (self._node(w) for w in words[0].split("->"))
        self._act(sender, lambda: sender.running.report_snapshot(receiver.node_id, 0))

    def do_status(self, words: list[str]) -> None:
        nodes = [self._node(words[0])] if words else list(self._lab.nodes.values())
        self._lab.lines += ["  " + self._lab.status(node) for node in nodes]


def _numbers(text: str) -> list[int]:
    return [int(n) for n in text.split(",") if n]


def _options(words: list[str]) -> dict[str, str]:
    return dict(word.split("=", 1) for word in words)


def replay(text: str) -> str:
    """Run a transcript's commands; answers the file as it should be."""
    script = Script()
    head, *blocks = text.split("\n> ")
    lines = [head.rstrip()]
    for block in blocks:
        command = block.splitlines()[0].strip()
        lines += ["", f"> {command}", *script.run(command)]
    return "\n".join(lines) + "\n"
