"""Fixtures of the CLI's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from cli_standin import Ledger, Node


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
