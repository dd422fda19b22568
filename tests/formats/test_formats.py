"""Every data directory that a released build wrote is opened by this one: all of it is there, and is written on.

Each `tests/formats/vN/` was written by `python -m tests.formats.write vN` at a release and is never changed. A build
that stores something in another way gets a new vN beside the old ones, and must open all of them. Until the first
release v1 may be written anew.
"""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import msgspec
import pytest

from appliance.adapters.identity import IDENTITY_FORMAT, DataDirectory
from appliance.adapters.ledger_rows import LEDGER_FORMAT
from appliance.adapters.ledger_verify import verify_copy
from appliance.adapters.log_store import LOG_FORMAT
from appliance.node.ports import IdentityStatus
from tests.cluster.harness import Cluster
from tests.formats.write import HERE, KEPT, describe, post, quoted

pytestmark = pytest.mark.cluster
KEPT_DIRECTORIES = sorted(path.parent for path in HERE.glob("v*/*/expected.json"))


class Opened:
    """A kept data directory, copied into that of a node of this build.

    The identity names `raft.db` by its inode, so that a copy is not taken for the original, which promised something to
    others; here the copy stands for it.
    """

    def __init__(self, kept: Path, directory: Path) -> None:
        self.expected: dict[str, Any] = json.loads((kept / "expected.json").read_text())
        self.node: int = self.expected["node_id"]
        state = directory / ".scribe"
        state.mkdir()
        (state / "cluster.id").write_text(self.expected["cluster_id"] + "\n")
        self.cluster = Cluster(directory, founders=1, nodes=2)
        self.data = state / f"node{self.node}" / "data"
        for name in KEPT:
            if (kept / name).exists():
                shutil.copyfile(kept / name, self.data / name)
        self._mark_as_original()

    def _mark_as_original(self) -> None:
        held = DataDirectory(self.data)
        try:
            found = held.check()
            assert (found.status, found.reason.startswith("raft.db is another file")) == (IdentityStatus.REPLACED, True)
            assert found.identity is not None
            assert (found.identity.cluster_id, found.identity.node_id) == (self.expected["cluster_id"], self.node)
            held.write(found.identity)
        finally:
            held.close()


@pytest.fixture(params=KEPT_DIRECTORIES, ids=lambda path: f"{path.parent.name}-{path.name}")
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opened]:
    opened = Opened(request.param, tmp_path)
    yield opened
    opened.cluster.close()


def test_there_are_some() -> None:
    assert {path.parent.name for path in KEPT_DIRECTORIES} >= {"v1"}
    assert sum(path.stat().st_size for path in HERE.glob("v1/**/*")) < 1_000_000


def test_all_of_it_is_there_and_is_written_on(opened: Opened) -> None:
    cluster, node = opened.cluster, opened.node
    cluster.start(node)
    cluster.wait_healthy(node)
    assert describe(cluster, node) == opened.expected
    key = next(iter(opened.expected["keys"]))
    version = opened.expected["keys"][key]["versions"][0]["version"]
    assert cluster.put(node, quoted(key), b"by this build").json()["version"] == version + 1
    cluster.stop(node)
    summary, _ = verify_copy(opened.data / "ledger.db", opened.expected["cluster_id"])
    assert summary.tree_size == opened.expected["tree"]["tree_size"] + 1
    cluster.start(node)
    cluster.wait_healthy(node)
    assert cluster.get(node, f"/kv/{quoted(key)}").content == b"by this build"


def test_a_new_node_gets_all_of_it(opened: Opened) -> None:
    """By the log, or by a snapshot of a ledger file that an older build has written."""
    cluster, node = opened.cluster, opened.node
    other = 3 - node
    if node == 2:  # then the other one is the founder by its configuration, and must not be one again
        config = cluster.files.configs[other - 1]
        config.write_text(
            config.read_text().replace("seed_peers = [", f'seed_peers = ["{raft_address(cluster, 2)}"] # [')
        )
    cluster.start(node)
    cluster.wait_healthy(node)
    cluster.start(other)
    cluster.wait_answers(other)
    post(cluster, node, "/cluster/nodes/add", node_id=other, address=cluster.url(other).removeprefix("http://"))
    cluster.wait_healthy(node, other)
    assert {**describe(cluster, other), "node_id": node} == opened.expected


def raft_address(cluster: Cluster, node: int) -> str:
    host, _, port = cluster.url(node).removeprefix("http://").partition(":")
    return f"{host}:{int(port) + 1000}"


def make_identity_newer(data: Path) -> None:
    path = data / "identity.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": IDENTITY_FORMAT + 1, "more": True}))


def make_log_newer(data: Path) -> None:
    newer = msgspec.msgpack.encode(LOG_FORMAT + 1)
    checksum = zlib.crc32(newer, zlib.crc32(b"format"))
    change_format(data / "raft.db", "UPDATE meta SET value = ?, checksum = ? WHERE name = 'format'", newer, checksum)


def make_ledger_newer(data: Path) -> None:
    newer = msgspec.msgpack.encode(LEDGER_FORMAT + 1)
    change_format(data / "ledger.db", "UPDATE meta SET value = ? WHERE name = 'format'", newer)


def change_format(path: Path, statement: str, *bindings: Any) -> None:
    db = apsw.Connection(str(path))
    db.execute(statement, bindings)
    assert db.changes() == 1
    db.close()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("identity.json", make_identity_newer),
        ("raft.db", make_log_newer),
        ("ledger.db", make_ledger_newer),
    ],
)
def test_what_a_later_build_wrote_stops_the_start_and_is_not_touched(
    name: str, change: Callable[[Path], None], tmp_path: Path
) -> None:
    opened = Opened(HERE / "v1" / "joined", tmp_path)
    change(opened.data)
    before = (opened.data / name).read_bytes()
    try:
        opened.cluster.start(opened.node)
        assert opened.cluster.processes.pop(opened.node).wait(30) == 1
        said = opened.cluster.output(opened.node)
        assert f"{name} is of format" in said
        assert "a later version of this program has written" in said
        assert "Start the later version again" in said
        assert (opened.data / name).read_bytes() == before
    finally:
        opened.cluster.close()
