"""How much of the log goes, and what holds it."""

import pytest

from appliance.node.compaction import compaction_target

BASE = {
    "snapshot_index": 0,
    "last_index": 1200,
    "needless_index": 1100,
    "held_indexes": [1200, 1150],
    "sending_index": None,
    "compact_entries": 1000,
    "keep_entries": 100,
}


@pytest.mark.parametrize(
    ("changes", "target"),
    [
        pytest.param({}, 1000, id="behind what is durable, less what is kept"),
        pytest.param({"last_index": 900}, None, id="short logs stay"),
        pytest.param({"held_indexes": [1200, 400]}, 400, id="a reachable follower that lags holds it"),
        pytest.param({"held_indexes": [1200, 100]}, None, id="too little to be worth it"),
        pytest.param({"last_index": 4100, "held_indexes": [10], "needless_index": 4000}, 3900, id="not for ever"),
        pytest.param({"sending_index": 300}, 300, id="a snapshot on its way holds what comes behind it"),
        pytest.param({"sending_index": 0}, None, id="a copy that is being made holds everything"),
        pytest.param({"needless_index": 50}, None, id="the ledger file has to hold it first"),
    ],
)
def test_target(changes: dict[str, object], target: int | None) -> None:
    assert compaction_target(**{**BASE, **changes}) == target  # type: ignore[arg-type]
