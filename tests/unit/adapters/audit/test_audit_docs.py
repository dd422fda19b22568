"""The examples of docs/AUDIT.md, run; its tables, held to the code."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from audit_rig import Desk

from appliance.adapters.audit.engine import ANSWER_BYTES_MAX, SQL_BYTES_MAX, WAITING_MAX
from appliance.adapters.audit.protocol import MEDIA_TYPES
from appliance.adapters.audit.rows import AUDIT_SCHEMA
from appliance.adapters.audit.sandbox import SPILL_FACTOR
from appliance.adapters.audit.segments import SEGMENT_ROWS
from appliance.ledger.commands import Outcome

PAGE = (Path(__file__).parents[4] / "docs" / "AUDIT.md").read_text()
EXAMPLES = re.findall(r"```sql\n(.*?)\n```(?:\n```json\n(.*?)\n```)?", PAGE, re.DOTALL)


@pytest.mark.anyio
@pytest.mark.parametrize(("sql", "answer"), EXAMPLES, ids=[sql.split("\n")[0][:50] for sql, _ in EXAMPLES])
async def test_an_example(desk: Desk, sql: str, answer: str) -> None:
    rows = await desk.ask(sql)
    assert rows
    if answer:
        assert rows == json.loads(answer)


def section(title: str) -> str:
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


@pytest.mark.anyio
@pytest.mark.parametrize("table", ["audit", "current"])
async def test_the_columns_are_those_of_the_page(desk: Desk, table: str) -> None:
    documented = re.findall(r"^\| `(\w+)` \| `(\w+)` \|", section(f"Table `{table}`"), re.MULTILINE)
    described = [(name, kind) for name, kind, *_ in await desk.ask(f"DESCRIBE {table}")]
    assert [(name, kind.replace("TIMESTAMP WITH TIME ZONE", "TIMESTAMPTZ")) for name, kind in described] == documented


def test_what_the_page_says_of_bounds_and_names() -> None:
    assert len(EXAMPLES) >= 7
    assert [name for name in AUDIT_SCHEMA.names if f"`{name}`" not in PAGE] == []
    assert [str(outcome) for outcome in Outcome if f"`{outcome}`" not in section("Table `audit`")] == []
    assert set(re.findall(r"^\| `(\w+)` \|", section("Answers"), re.MULTILINE)) - {
        "DECIMAL",
        "DOUBLE",
        "TIMESTAMPTZ",
    } >= {*MEDIA_TYPES}
    limits = section("Limits")
    assert f"{ANSWER_BYTES_MAX // 2**20} MiB" in limits
    assert f"{WAITING_MAX} more wait" in limits
    assert f"{SQL_BYTES_MAX:,}" in limits
    assert SPILL_FACTOR == 2
    assert "twice" in limits
    assert f"{SEGMENT_ROWS:,} rows" in section("On disk")
