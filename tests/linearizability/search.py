"""The search for an order of one component's operations that explains all answers.

It is the search of Wing and Gong (1993) with Lowe's memory of what was tried (2017): take operations one by one, each
only when all that were over before its call are taken, carry it out on the model, and go back where nothing fits. What
makes it fast here is that most steps are no choice (`_forced`):

- **An operation that changes nothing, may be taken and fits the present state is taken.** If an order exists from
  here in which it comes later, the same with it moved here is one too: it changes nothing, and nothing that was over
  before its call is left.
- **A write W that told its versions, may be taken and fits is taken, unless something that is left to take watches its
  keys.** W fits only while each of its keys has exactly the version before W's, and versions never go back. So in every
  order from here, no write on these keys comes before W. If nothing else could look at them before W either, W can be
  moved here. What could look at them are operations that were called before W was over: if one fits only at the present
  version, W has to wait for it; if that cannot be told (it found the key absent, and the key is absent now), taking
  W is a choice like others.

What is left are choices: unknown writes, which may be taken at any time after their call, or never. Fewer of them:

- A write may not make a version that an acknowledged write made, nor one of which another value was read.
- Unknown writes that do the same to the same keys, told apart only by values that nobody read, are interchangeable:
  they are taken in the order of their calls.
- One that brings all its keys beyond the last version that anybody was told cannot help, unless something about its
  keys is not known by version.
- One is taken only directly before something that touches its keys, since it can wait until then.

Decided operations are kept in lanes, in each of which one is over before the next is called: a lane is taken in its
order, so what is taken is one number for each lane and one for each kind of unknown write. With what is known of the
last unknown writers that is the whole state, and the memory's key.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from .history import Outcome, Part, Record

State = tuple[int, str | None]
Change = tuple[str, int, str | None]

NEVER_WRITTEN: Final[State] = (0, None)
DEAD_ENDS_MAX: Final = 16  # states kept for an explanation
_UNREAD: Final = "a value that nobody read"
_NO_CHANGE: Final[tuple[Change, ...]] = ()


@dataclass(slots=True)
class Result:
    """What a search found.

    Attributes:
        order: an order that explains all answers, or None.
        complete: False when the search was given up at its limit; then nothing is known.
        steps: how many operations were taken, those that were given back included.
        blocked: without an order, the operation that had to come next at the farthest place that was reached.
        states: what its keys could look like there.
    """

    order: list[Record] | None
    complete: bool
    steps: int
    blocked: Record | None = None
    states: list[dict[str, State]] = field(default_factory=list)


class Refusal(NamedTuple):
    """Why parts cannot be carried out, as a record would tell it."""

    outcome: Outcome
    position: int
    present: int


def carry_out(parts: Sequence[Part], state: dict[str, State]) -> tuple[Change, ...] | Refusal:
    """What writes do to a state, which is left as it is."""
    changes: list[Change] = []
    after: dict[str, State] = {}
    for position, (op, key, value, if_version) in enumerate(parts):
        version, now = after.get(key) or state.get(key, NEVER_WRITTEN)
        present = 0 if now is None else version
        if op == "delete" and now is None:
            return Refusal(Outcome.NOT_FOUND, position, 0)
        if if_version is not None and if_version != present:
            return Refusal(Outcome.CONDITION_FAILED, position, present)
        made = (version + 1, value if op == "put" else None)
        after[key] = made
        changes.append((key, *made))
    return tuple(changes)


def fits(record: Record, state: dict[str, State]) -> tuple[Change, ...] | None:
    """What a decided operation changes if its answer is right in this state, else None."""
    if record.is_get:
        version, value = state.get(record.parts[0].key, NEVER_WRITTEN)
        if record.outcome is Outcome.OK:
            return _NO_CHANGE if (version, value) == (record.version, record.value) else None
        return _NO_CHANGE if value is None else None
    done = carry_out(record.parts, state)
    if isinstance(done, Refusal):
        told = (record.outcome, record.failed_position, record.current_version)
        same = done.outcome is told[0] and told[1] in (None, done.position) and told[2] in (None, done.present)
        return _NO_CHANGE if same else None
    if record.outcome is not Outcome.OK:
        return None
    wrong = any(told not in (None, made[1]) for told, made in zip(record.versions, done, strict=True))
    return None if wrong else done


class _Kind:
    """Unknown writes that are interchangeable, in the order of their calls."""

    __slots__ = ("keys", "records", "taken")

    def __init__(self, keys: frozenset[str]) -> None:
        self.keys = keys
        self.records: list[Record] = []
        self.taken = 0


class _Told:
    """What a component's answers say about versions, wherever it stands in the order."""

    def __init__(self, decided: Iterable[Record], unknown: Iterable[Record]) -> None:
        self.made: set[tuple[str, int]] = set()  # versions that acknowledged writes made
        self.read: defaultdict[tuple[str, int], set[str | None]] = defaultdict(set)
        self.values: defaultdict[str, set[str]] = defaultdict(set)  # key -> values that somebody read
        self.last: defaultdict[str, int] = defaultdict(int)  # key -> last version that anybody was told
        self.vague: set[str] = set()  # keys of which something is known without a version
        for record in decided:
            self._add(record)
        for record in unknown:
            if len(record.parts) > 1:
                self.vague |= record.keys

    def _add(self, record: Record) -> None:
        key = record.parts[0].key
        if record.is_get and record.version is not None and record.value is not None:
            self.read[key, record.version].add(record.value)
            self.values[key].add(record.value)
            self.last[key] = max(self.last[key], record.version)
        elif record.outcome is Outcome.OK and not record.is_get:
            for part, version in zip(record.parts, record.versions, strict=True):
                if version is None:
                    self.vague |= record.keys
                else:
                    self.made.add((part.key, version))
                    self.last[part.key] = max(self.last[part.key], version)
        elif len(record.parts) == 1 and record.current_version:
            self.last[key] = max(self.last[key], record.current_version)
        else:
            self.vague |= record.keys

    def allows(self, changes: Iterable[Change]) -> bool:
        """Whether a write that told no versions may have made these."""
        for key, version, value in changes:
            if (key, version) in self.made:
                return False
            read = self.read.get((key, version))
            if read is not None and value not in read:
                return False
        return True

    def may_matter(self, changes: Iterable[Change]) -> bool:
        """Whether anybody could notice."""
        return any(version <= self.last[key] or key in self.vague for key, version, _ in changes)


class _Undo(NamedTuple):
    """What taking an operation changed."""

    lane: int
    kind: _Kind | None
    before: tuple[tuple[str, State], ...]
    loose: frozenset[tuple[str, str | None]]


class _Frame(NamedTuple):
    """A place with choices that are still to be tried, the next one last."""

    depth: int
    choices: list[tuple[int, _Kind | None, tuple[Change, ...]]]


class Search:
    """One search.

    Args:
        operations: of one component.
        steps_max: operations to take before it is given up.
    """

    def __init__(self, operations: Sequence[Record], steps_max: int) -> None:
        decided = [record for record in operations if record.outcome is not Outcome.UNKNOWN]
        unknown = [record for record in operations if record.outcome is Outcome.UNKNOWN and not record.is_get]
        self._told = _Told(decided, unknown)
        self._lanes = lanes(decided)
        self._kinds = self._kinds_of(unknown)
        self._wide_keys = frozenset(key for kind in self._kinds if len(kind.keys) > 1 for key in kind.keys)
        self._taken = [0] * len(self._lanes)
        self._state: dict[str, State] = {}
        self._loose: frozenset[tuple[str, str | None]] = frozenset()  # keys as unknown writers left them
        self._log: list[_Undo] = []
        self._order: list[Record] = []
        self._steps = 0
        self._steps_max = steps_max
        self._farthest = -1
        self._result = Result(None, True, 0)

    def run(self) -> Result:
        """Search."""
        seen: set[tuple[object, ...]] = set()
        frames: list[_Frame] = []
        result = self._result
        while True:
            if self._take_forced():
                result.order = list(self._order)
                break
            if self._steps > self._steps_max:
                result.complete = False
                break
            place = (*self._taken, *[kind.taken for kind in self._kinds], self._loose)
            choices = [] if place in seen else self._choices()
            seen.add(place)
            frames.append(_Frame(len(self._log), choices))
            while frames and not frames[-1].choices:
                frames.pop()
            if not frames:
                break
            while len(self._log) > frames[-1].depth:
                self._give_back()
            self._take(*frames[-1].choices.pop())
        result.steps = self._steps
        return result

    # -- steps

    def _take_forced(self) -> bool:
        """Take what is no choice; True when all decided operations are taken."""
        lanes, taken, state = self._lanes, self._taken, self._state
        while self._steps <= self._steps_max:
            heads = [(lane, ops[taken[lane]]) for lane, ops in enumerate(lanes) if taken[lane] < len(ops)]
            if not heads:
                return True
            first_return = min(head.returned or 0 for _, head in heads)
            moved = False
            for lane, head in heads:
                if head.call > first_return:
                    continue
                changes = fits(head, state)
                if changes is None:
                    continue
                if changes and (None in head.versions or self._watched(head) is not False):
                    continue
                self._take(lane, None, changes)
                moved = True
            if not moved:
                self._note_dead_end([head for _, head in heads if head.returned == first_return])
                return False
        return False

    def _watched(self, write: Record) -> bool | None:
        """Whether an operation has to come before a write that could be taken: None when it cannot be told."""
        keys, over = write.keys, write.returned
        assert over is not None
        answer: bool | None = False
        for ops, taken in zip(self._lanes, self._taken, strict=True):
            for place in range(taken, len(ops)):
                other = ops[place]
                if other.call > over:
                    break
                if other is write or (other.outcome is Outcome.OK and not other.is_get):
                    continue
                watches = self._watches(other, keys)
                if watches:
                    return True
                if watches is None:
                    answer = None
        return answer

    def _watches(self, other: Record, keys: frozenset[str]) -> bool | None:
        """Whether an operation that changes nothing fits only as long as these keys are what they are."""
        if len(other.parts) > 1:
            return False if keys.isdisjoint(other.keys) else None
        key = other.parts[0].key
        if key not in keys:
            return False
        version, value = self._state.get(key, NEVER_WRITTEN)
        if other.is_get and other.outcome is Outcome.OK:
            return other.version == version
        if other.outcome is Outcome.CONDITION_FAILED and other.current_version is None:
            return None
        if other.current_version:
            return value is not None and other.current_version == version
        return None if value is None else False

    def _choices(self) -> list[tuple[int, _Kind | None, tuple[Change, ...]]]:
        """What may be taken here; what is tried first comes last."""
        heads = [(lane, ops[self._taken[lane]]) for lane, ops in enumerate(self._lanes) if self._taken[lane] < len(ops)]
        first_return = min(head.returned or 0 for _, head in heads)
        ready = [(lane, head) for lane, head in heads if head.call <= first_return]
        choices: list[tuple[int, _Kind | None, tuple[Change, ...]]] = []
        touched = self._wide_keys.union(*(head.keys for _, head in ready))
        for kind in self._kinds:
            if kind.taken == len(kind.records) or kind.records[kind.taken].call > first_return:
                continue
            if kind.keys.isdisjoint(touched):
                continue
            changes = carry_out(kind.records[kind.taken].parts, self._state)
            if not isinstance(changes, Refusal) and self._told.allows(changes) and self._told.may_matter(changes):
                choices.append((-1, kind, changes))
        ready.sort(key=lambda pair: pair[1].returned or 0, reverse=True)
        for lane, head in ready:
            done = fits(head, self._state)
            if done is None:
                continue
            if None in head.versions:
                if self._told.allows(c for c, told in zip(done, head.versions, strict=True) if told is None):
                    choices.append((lane, None, done))
            elif self._watched(head) is not True:
                choices.append((lane, None, done))
        return choices

    def _take(self, lane: int, kind: _Kind | None, changes: tuple[Change, ...]) -> None:
        self._steps += 1
        if kind is None:
            record = self._lanes[lane][self._taken[lane]]
            self._taken[lane] += 1
            exact = None not in record.versions
        else:
            record, exact = kind.records[kind.taken], False
            kind.taken += 1
        self._order.append(record)
        state, before, loose = self._state, _NO_BEFORE, self._loose
        if changes:
            before = tuple((key, state.get(key, NEVER_WRITTEN)) for key, _, _ in changes)
            for key, version, value in changes:
                state[key] = version, value
            self._loosen(record.keys, exact)
        self._log.append(_Undo(lane, kind, before, loose))

    def _loosen(self, keys: frozenset[str], exact: bool) -> None:
        if exact and not self._loose:
            return
        kept = {(key, value) for key, value in self._loose if key not in keys}
        if not exact:
            kept.update((key, self._token(key, self._state[key][1])) for key in keys)
        self._loose = frozenset(kept)

    def _give_back(self) -> None:
        undo = self._log.pop()
        self._order.pop()
        if undo.kind is None:
            self._taken[undo.lane] -= 1
        else:
            undo.kind.taken -= 1
        for key, before in reversed(undo.before):
            self._state[key] = before
        self._loose = undo.loose

    # -- what is known beforehand

    def _token(self, key: str, value: str | None) -> str | None:
        return value if value is None or value in self._told.values.get(key, ()) else _UNREAD

    def _kinds_of(self, unknown: Sequence[Record]) -> list[_Kind]:
        kinds: dict[object, _Kind] = {}
        for record in sorted(unknown, key=lambda record: record.call):
            tokens = tuple(self._token(part.key, part.value) for part in record.parts)
            name = tuple((p.op, p.key, p.if_version, token) for p, token in zip(record.parts, tokens, strict=True))
            if name not in kinds:
                kinds[name] = _Kind(record.keys)
            kinds[name].records.append(record)
        return list(kinds.values())

    # -- for explanations

    def _note_dead_end(self, blocked: list[Record]) -> None:
        """Remember what stood where the search got farthest: to the latest return that could not be passed."""
        returned = blocked[0].returned
        assert returned is not None
        result = self._result
        if returned > self._farthest:
            self._farthest = returned
            result.blocked = blocked[0]
            result.states = []
        if returned == self._farthest and result.blocked is not None and len(result.states) < DEAD_ENDS_MAX:
            state = {key: self._state.get(key, NEVER_WRITTEN) for key in sorted(result.blocked.keys)}
            if state not in result.states:
                result.states.append(state)


_NO_BEFORE: Final[tuple[tuple[str, State], ...]] = ()


def lanes(decided: Iterable[Record]) -> list[list[Record]]:
    """Decided operations in as few lanes as possible, in each of which one is over before the next is called."""
    result: list[list[Record]] = []
    free: list[tuple[int, int]] = []  # (return of the last, lane)
    for record in sorted(decided, key=lambda record: record.call):
        assert record.returned is not None
        if free and free[0][0] < record.call:
            lane = heapq.heappop(free)[1]
        else:
            lane = len(result)
            result.append([])
        result[lane].append(record)
        heapq.heappush(free, (record.returned, lane))
    return result
