"""Random logs against a model that keeps the whole history in plain lists and knows nothing of the machine."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from hypothesis import event, given, settings
from hypothesis import strategies as st
from ledger_rig import HOUR_US, START_US, TTL_US, Rig

from appliance.ledger.commands import Op, Operation, WriteResult
from appliance.ledger.encoding import decode_leaf, value_hash

ANSWERS_MAX = 3
KEYS = ["a", "b", "c/é"]


@dataclass(frozen=True)
class Step:
    """One entry: a write, or with no operations an entry that is none, or a pause of so long (0: its end)."""

    operations: tuple[Operation, ...]
    actor: str
    name: str | None
    request_hash: bytes
    later_us: int
    restart: bool
    pause_us: int | None


@dataclass
class Answer:
    outcome: str
    at_us: int
    placed: list[tuple[str, int, int]] = field(default_factory=list)
    failed_position: int = -1
    current_version: int = 0


@dataclass
class Model:
    """All that was ever done to a key, in order: (what, value, leaf). A version is a place in that list."""

    past: dict[str, list[tuple[str, bytes, int]]] = field(default_factory=dict)
    leaf_count: int = 0
    answers: list[tuple[str, str, bytes, Answer]] = field(default_factory=list)
    now_us: int = 0
    paused_until_us: int = 0
    audit: list[tuple[str, str, str, int]] = field(default_factory=list)  # op, key, outcome, version

    def version(self, key: str) -> int:
        past = self.past.get(key, [])
        return len(past) if past and past[-1][0] == "put" else 0

    def write(self, step: Step, at_us: int) -> tuple[Answer, bool]:
        """The answer, and whether it is one given before."""
        self.now_us = max(self.now_us, at_us)
        if self.now_us < self.paused_until_us:
            return self.refuse(step, "writes_paused"), False
        if step.name is None:
            return self.decide(step), False
        held = [one for one in self.answers if self.now_us - one[3].at_us <= TTL_US]
        for actor, name, request_hash, answer in held:
            if (actor, name) == (step.actor, step.name):
                if request_hash == step.request_hash:
                    self.note(step, ["duplicate"] * len(step.operations))
                    return answer, True
                return self.refuse(step, "idempotency_mismatch"), False
        if len(held) >= ANSWERS_MAX:
            return self.refuse(step, "idempotency_full"), False
        answer = self.decide(step)
        self.answers = [*held, (step.actor, step.name, step.request_hash, answer)]
        return answer, False

    def pause(self, at_us: int, until_us: int) -> Answer:
        self.now_us = max(self.now_us, at_us)
        if until_us > self.now_us:
            self.audit.append(("pause", "", "ok", 0))
        elif self.paused_until_us > self.now_us:
            self.audit.append(("resume", "", "ok", 0))
        self.paused_until_us = until_us
        return Answer("ok", self.now_us)

    def decide(self, step: Step) -> Answer:
        saved = {key: list(past) for key, past in self.past.items()}
        answer = Answer("ok", self.now_us)
        for position, one in enumerate(step.operations):
            version = self.version(one.key)
            if one.op == "delete" and version == 0:
                outcome = "not_found"
            elif one.if_version not in (None, version):
                outcome = "condition_failed"
            else:
                past = self.past.setdefault(one.key, [])
                past.append((str(one.op), one.value, self.leaf_count + position))
                answer.placed.append((one.key, len(past), self.leaf_count + position))
                continue
            self.past = saved
            said = ["batch_refused"] * len(step.operations)
            said[position] = outcome
            self.note(step, said)
            return Answer(outcome, self.now_us, [], position, version)
        self.leaf_count += len(step.operations)
        return answer

    def refuse(self, step: Step, outcome: str) -> Answer:
        self.note(step, [outcome] * len(step.operations))
        return Answer(outcome, self.now_us)

    def note(self, step: Step, said: list[str]) -> None:
        for one, outcome in zip(step.operations, said, strict=True):
            self.audit.append((str(one.op), one.key, outcome, self.version(one.key)))


CONDITION = st.sampled_from([None, None, None, None, 0, 1, 2, 3])
OPERATION = st.one_of(
    st.builds(Operation, st.just(Op.PUT), st.sampled_from(KEYS), st.binary(max_size=3), CONDITION),
    st.builds(Operation, st.just(Op.DELETE), st.sampled_from(KEYS), st.just(b""), CONDITION),
)
STEP = st.builds(
    Step,
    operations=st.sampled_from([0, 1, 1, 1, 1, 2, 4]).flatmap(lambda count: st.tuples(*[OPERATION] * count)),
    actor=st.sampled_from(["alice", "bob"]),
    name=st.sampled_from([None, "1", "2", "3", "4"]),
    request_hash=st.sampled_from([b"h", b"h", b"h", b"g"]),
    later_us=st.sampled_from(
        [0, 0, 0, 1, 1, 30_000_000, HOUR_US, -HOUR_US, 8 * HOUR_US, TTL_US - 1, TTL_US, TTL_US + 1]
    ),
    restart=st.booleans(),
    pause_us=st.sampled_from([None, 0, 1, HOUR_US, 9 * HOUR_US]),
)


def shape(result: WriteResult) -> Answer:
    placed = [(one.key, one.version, one.leaf_index) for one in result.results]
    return Answer(str(result.outcome), result.timestamp_us, placed, result.failed_position, result.current_version)


def check_state(rig: Rig, model: Model) -> None:
    assert rig.machine.tree_size == len(rig.store.leaves) == model.leaf_count
    assert rig.machine.key_count == sum(model.version(key) > 0 for key in KEYS)
    assert rig.machine.answer_count == len(rig.store.answers)
    said = [(str(row.op), row.key, str(row.outcome), row.version) for row in rig.store.refusals]
    assert said == model.audit
    assert set(rig.store.heads) == set(model.past)
    for key, past in model.past.items():
        head = rig.store.heads[key]
        assert (head.version, head.deleted) == (len(past), past[-1][0] == "delete")
        leaf_index: int | None = head.leaf_index
        for version in range(len(past), 0, -1):
            assert leaf_index is not None
            stored = rig.store.leaves[leaf_index]
            leaf = decode_leaf(stored.leaf)
            op, value, where = past[version - 1]
            assert (leaf.op, leaf.key, leaf.version, leaf.leaf_index) == (op, key, version, where)
            if op == "put":
                assert (stored.value, leaf.value_hash) == (value, value_hash(stored.salt, value))
            leaf_index = leaf.prev_leaf_index
        assert leaf_index is None


@settings(max_examples=300, deadline=None)
@given(st.lists(STEP, min_size=8, max_size=40))
def test_the_machine_does_what_the_model_does(steps: list[Step]) -> None:
    rig, model = Rig(ANSWERS_MAX), Model()
    rig.at_us = START_US
    seen: Counter[str] = Counter()
    for step in steps:
        rig.at_us += step.later_us
        if not step.operations and step.pause_us is None:
            rig.pass_over()
            continue
        if not step.operations:
            until_us = rig.at_us + step.pause_us if step.pause_us else 0
            paused = rig.pause(until_us).result
            assert paused is not None
            assert shape(paused) == model.pause(rig.at_us, until_us)
            check_state(rig, model)
            continue
        changes = rig.write(*step.operations, actor=step.actor, name=step.name, request_hash=step.request_hash)
        assert changes.result is not None
        expected, replayed = model.write(step, rig.at_us)
        assert (shape(changes.result), changes.result.replayed) == (expected, replayed)
        seen["replayed" if replayed else expected.outcome] += 1
        check_state(rig, model)
        if step.restart:
            rig.restart()
    for what in seen:
        event(what)
