"""The table of events and the calls that log them, held to each other by reading the source."""

from __future__ import annotations

import ast
import string
from collections.abc import Iterator
from pathlib import Path

import pytest

import appliance
from appliance.adapters.telemetry.redaction import is_secret
from appliance.tables.events import COMMON_FIELDS, EVENTS, EventRow, Level

ROOT = Path(appliance.__file__).parent
LEVELS = {str(level) for level in Level}


def log_calls(source: str) -> Iterator[tuple[int, str, str, tuple[str, ...]]]:
    """(line, level, event, fields) of each call of a level on a name that ends in `log`, with a literal event."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or node.func.attr not in LEVELS:
            continue
        owner = node.func.value
        name = owner.attr if isinstance(owner, ast.Attribute) else owner.id if isinstance(owner, ast.Name) else ""
        first = node.args[0] if node.args else None
        if name.endswith("log") and isinstance(first, ast.Constant) and isinstance(first.value, str):
            yield node.lineno, node.func.attr, first.value, tuple(item.arg or "**" for item in node.keywords)


def complaints(name: str, source: str) -> Iterator[str]:
    for line, level, event, fields in log_calls(source):
        row = EVENTS.get(event)
        if row is None:
            yield f"{name}:{line}: {event} is not in appliance/tables/events.py"
            continue
        if level != row.level:
            yield f"{name}:{line}: {event} is logged at {level}, the table says {row.level}"
        spread = "**" in fields
        needed = {name for _, name, _, _ in string.Formatter().parse(row.message) if name}
        if not spread and not needed <= set(fields):
            yield f"{name}:{line}: the message of {event} needs {sorted(needed - set(fields))}"
        for field in fields:
            if field != "**" and field not in row.fields and field not in COMMON_FIELDS:
                yield f"{name}:{line}: {event} has no field {field}"


def test_every_logged_event_is_in_the_table_with_its_level_and_fields() -> None:
    found = [
        complaint
        for path in sorted(ROOT.rglob("*.py"))
        for complaint in complaints(str(path.relative_to(ROOT.parent)), path.read_text())
    ]
    assert found == []


def test_every_event_of_the_table_is_logged_somewhere() -> None:
    sources = [path.read_text() for path in ROOT.rglob("*.py") if path.name != "events.py"]
    assert [name for name in EVENTS if not any(f'"{name}"' in source for source in sources)] == []


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        pytest.param('self._log.info("no.such")', "is not in", id="unknown event"),
        pytest.param('log.error("peer.lost", peer=1, reason="")', "the table says warning", id="another level"),
        pytest.param(
            'self.log.warning("peer.lost", peer=1, reason="", pear=1)', "has no field pear", id="unknown field"
        ),
        pytest.param('log.warning("peer.lost", peer=1)', "needs ['reason']", id="what the message says is missing"),
        pytest.param('log.warning("peer.lost", **fields)', None, id="fields from elsewhere"),
        pytest.param('log.warning("peer.lost", peer=1, reason="", traceparent="")', None, id="fine"),
        pytest.param('math.log("no.such")', None, id="not ours"),
        pytest.param('console.info("no.such")', None, id="another object"),
    ],
)
def test_the_scan_finds_what_it_should(source: str, expected: str | None) -> None:
    found = list(complaints("x.py", source))
    assert (len(found) == 0) if expected is None else (len(found) == 1 and expected in found[0])


@pytest.mark.parametrize("row", EVENTS.values(), ids=lambda row: row.name)
def test_a_row_is_well_formed(row: EventRow) -> None:
    assert row.name.count(".") == 1
    assert row.name == row.name.lower()
    in_message = {name for _, name, _, _ in string.Formatter().parse(row.message) if name}
    assert in_message <= set(row.fields)
    assert len(set(row.fields)) == len(row.fields)
    assert not set(row.fields) & set(COMMON_FIELDS)
    assert not any(is_secret(name) for name in row.fields)
