"""The page about damage names tests; each of them is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = ROOT / "docs" / "DAMAGE.md"
TEST: Final = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def test_each_row_names_tests_that_there_are() -> None:
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    rows = [row for row in rows if not row.startswith(("| Changed", "| ---"))]
    assert len(rows) >= 20
    for row in rows:
        named = TEST.findall(row)
        assert named, f"no test in the row {row}"
        for path, name in named:
            tree = ast.parse((ROOT / path).read_text())
            functions = {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)}
            assert name in functions, f"{path} has no {name}"
