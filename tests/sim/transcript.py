"""Transcripts for people: messages in a few words, and of a long run the lines that tell how it came about."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from msgspec.structs import fields

from appliance.raft.messages import AnyMessage, Configuration, Entry, MemberRole

STAMP_WIDTH: Final = 17  # event and time, in front of each line
STORY_LINES_MAX: Final = 60
END_LINES: Final = 16  # of the end everything is told
DETAIL_LINES_MAX: Final = 12  # of an explanation
WIDTH_MAX: Final = 200
PADDING: Final = re.compile("x{9,}")  # of the clients' values
ADDRESS: Final = frozenset({"sender", "sender_incarnation", "to", "term"})

# First words of lines, the most telling first; where there is no room, the least telling and the oldest are left out.
TELLING: Final = (
    frozenset({"lost", "set-back", "renounces", "change", "leads"}),
    frozenset({"crash", "blink", "restart", "no-room", "cut"}),
    frozenset({"votes", "steps-down"}),
    frozenset({"fault", "heal", "installed"}),
    frozenset({"campaigns", "wake", "pause", "room-again"}),
)


def named(node_id: int, incarnation: int) -> str:
    """A node as transcripts name it: `3` at first, `3'` as its second incarnation."""
    return f"{node_id}{chr(39) * (incarnation // 1000 - 1)}"


def describe_members(configuration: Configuration) -> str:
    """A membership: `1 2 3' 4?` has a node that lost its disk once, and a learner."""
    return " ".join(
        named(m.node_id, m.incarnation) + ("?" if m.role is MemberRole.LEARNER else "") for m in configuration.members
    )


def describe(message: AnyMessage) -> str:
    """A message in a line, without what goes without saying."""
    told = [f"{named(message.sender, message.sender_incarnation)}>{message.to}", type(message).__name__]
    told.append(f"term {message.term}")
    for field in fields(message):
        value = getattr(message, field.name)
        if field.name in ADDRESS or value == field.default:
            continue
        told.append(f"{field.name} {_entries(value) if field.name == 'entries' else value}")
    return ", ".join([" ".join(told[:2]), *told[2:]])


def _entries(entries: Sequence[Entry]) -> str:
    """`7@2 8@3` are entry 7 of term 2 and entry 8 of term 3."""
    if len(entries) > 4:
        return f"{_entries(entries[:1])} to {_entries(entries[-1:])}"
    return " ".join(f"{entry.index}@{entry.term}" for entry in entries) or "none"


def story(lines: Sequence[str], lines_max: int = STORY_LINES_MAX) -> list[str]:
    """Of a transcript of a run that violated something: the end, and before it what led there, at most `lines_max`
    lines.
    """
    *before, violated = lines
    ending = _violated_lines(violated)
    first_of_end = max(0, len(before) - END_LINES)
    room = lines_max - len(ending) - (len(before) - first_of_end)
    subject = _subject(violated)
    kept: set[int] = set()
    ranks = [[n for n in range(first_of_end) if _word(before[n]) in words] for words in TELLING]
    ranks.insert(2, [n for n in range(first_of_end) if subject is not None and subject.search(before[n])])
    for rank in ranks:
        new = [n for n in rank if n not in kept]
        kept.update(new[max(0, len(new) - (room - len(kept))) :])
    chosen = [*sorted(kept), *range(first_of_end, len(before))]
    return [line[:WIDTH_MAX] for line in (*(before[n] for n in chosen), *ending)]


def _word(line: str) -> str:
    return line[STAMP_WIDTH:].partition(" ")[0]


def _violated_lines(violated: str) -> list[str]:
    lines = violated.splitlines()
    if len(lines) > DETAIL_LINES_MAX:
        lines[DETAIL_LINES_MAX:] = ["..."]
    return [PADDING.sub("x..", line) for line in lines]


def _subject(violated: str) -> re.Pattern[str] | None:
    """What clients did with the keys that a violation names, and who was the first to see its entries committed."""
    keys = sorted(set(re.findall(r"'(key\d+)'", violated)))
    entries = sorted(set(re.findall(r"entry (\d+)", violated)))
    patterns = [rf"  client .*\b{key}\b" for key in keys] + [rf"  commits .* entry {entry} " for entry in entries]
    return re.compile("|".join(patterns)) if patterns else None
