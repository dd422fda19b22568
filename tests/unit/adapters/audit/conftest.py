"""One ledger with 20,000 real writes for all tests that only read."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from audit_rig import Desk, Ledger, import_packages

from appliance.ledger.commands import Op, Operation


@pytest.fixture(scope="session")
def packages_ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    """20,000 puts of 2,000 keys; then what is odd: text, bytes, a delete, two refusals."""
    ledger = Ledger(tmp_path_factory.mktemp("ledger"))
    import_packages(ledger, 10)
    ledger.put("odd/text", b"plain text", "alice")
    ledger.put("odd/bytes", b"\xff\x00\x01", "alice")
    ledger.put("odd/gone", b"1", "bob")
    ledger.delete("odd/gone", "bob")
    ledger.delete("odd/never", "bob")
    ledger.write([Operation(Op.PUT, "odd/text", b"x", if_version=7)], "bob")
    ledger.flush()
    yield ledger
    ledger.close()


@pytest.fixture(scope="session")
async def desk(packages_ledger: Ledger, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Desk]:
    """An engine over it, for all tests that ask ordinary questions."""
    made = Desk(packages_ledger, tmp_path_factory.mktemp("desk"))
    yield made
    await made.close()
