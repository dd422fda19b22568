"""How much of the log goes, and what holds it."""

import pytest

from appliance.node.compaction import compaction_target

BASE = {
    "snapshot_index": 0,
    "last_index": 1200,
    "needless_index": 1100,
    "match_indexes": [1200, 1150],
    "held_index": None,
    "compact_entries": 1000,
    "keep_entries": 100,
}


@pytest.mark.parametrize(
    ("changes", "target"),
    [
        pytest.param({}, 1000, id="behind what is durable, less what is kept"),
        pytest.param({"last_index": 900}, None, id="short logs stay"),
        pytest.param({"match_indexes": [1200, 400]}, 400, id="a reachable follower that lags holds it"),
        pytest.param({"match_indexes": [1200, 100]}, None, id="too little to be worth it"),
        pytest.param({"last_index": 4100, "match_indexes": [10], "needless_index": 4000}, 3900, id="not for ever"),
        pytest.param(
            {"last_index": 9000, "match_indexes": [8500, 10], "needless_index": 9000},
            8500,
            id="one that lags a little is waited for, however long the log has become",
        ),
        pytest.param({"held_index": 300}, 300, id="a snapshot on its way holds what comes behind it"),
        pytest.param({"held_index": 0}, None, id="a copy that is being made holds everything"),
        pytest.param({"needless_index": 50}, None, id="the ledger file has to hold it first"),
    ],
)
def test_target(changes: dict[str, object], target: int | None) -> None:
    assert compaction_target(**{**BASE, **changes}) == target  # type: ignore[arg-type]
