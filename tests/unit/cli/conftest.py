"""Fixtures of the CLI's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_standin import Ledger, Node
from log_standin import LogNode, SmallLog
from verify_rig import Verifier


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def start_node(ledger: Ledger) -> Iterator[Callable[..., Node]]:
    """Start stand-in nodes over one ledger; all are closed at the end."""
    nodes: list[Node] = []

    def start(*behaviours: str, **options: object) -> Node:
        node = Node(ledger, behaviours, **options)  # type: ignore[arg-type]
        nodes.append(node)
        return node

    yield start
    for node in nodes:
        node.close()


@pytest.fixture
def start_log_node() -> Iterator[Callable[..., LogNode]]:
    """Start nodes that serve a log; all are closed at the end."""
    nodes: list[LogNode] = []

    def start(log: SmallLog, **options: Any) -> LogNode:
        nodes.append(LogNode(log, **options))
        return nodes[-1]

    yield start
    for node in nodes:
        node.close()


@pytest.fixture
def verify(tmp_path: Path) -> Verifier:
    return Verifier(tmp_path)
