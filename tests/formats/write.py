"""Writes data directories by real nodes of this build, and beside each what it holds, as the nodes said it.

    python -m tests.formats.write v2

makes `tests/formats/v2/` with two directories: `founded`, of a node that founded its cluster and was killed, so that
its ledger file lags behind its log; and `joined`, of one that came by a snapshot and is the only member left. A version
that is released is never written again: later builds must open what it wrote. Write a new one whenever a build is
released that stores something in another way (tests/formats/test_formats.py opens all that are there).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import httpx

from tests.cluster.harness import Cluster, await_value

HERE: Final = Path(__file__).parent
KEPT: Final = ("identity.json", "raft.db", "raft.db-wal", "ledger.db", "ledger.db-wal")
CHANGE_S: Final = 60.0
COMPACT_ENTRIES: Final = 1_000  # the least that the setting takes
SETTINGS: Final = {
    "SCRIBE_STORAGE__COMPACT_LOG_ENTRIES": str(COMPACT_ENTRIES),
    "SCRIBE_STORAGE__KEEP_LOG_ENTRIES": "0",
}
WORDS: Final = ("plain", "a/b//c/", "Ωmega", "🜁", ".", "..", "with space", "x" * 1024)


def main() -> int:
    """Write the directories of one version."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("name", help="v1, v2, ...")
    target = HERE / parser.parse_args().name
    if target.exists():
        sys.stderr.write(f"{target} is there already; what a released build wrote is never written again\n")
        return 2
    with tempfile.TemporaryDirectory() as scratch:
        cluster = Cluster(Path(scratch), SETTINGS, founders=1, nodes=2)
        try:
            write_founded(cluster, target / "founded")
            write_joined(cluster, target / "joined")
        finally:
            cluster.close()
    return 0


def write_founded(cluster: Cluster, target: Path) -> None:
    """Entries of every kind, a second node that comes and goes, a compaction, and an end by SIGKILL."""
    cluster.start(1)
    cluster.wait_healthy(1)
    write_some(cluster, 1, "before")
    cluster.start(2)
    cluster.wait_answers(2)
    post(cluster, 1, "/cluster/nodes/add", node_id=2, address=cluster.url(2).removeprefix("http://"))
    post(cluster, 1, "/cluster/nodes/remove", node_id=2)
    cluster.kill(2)
    shutil.rmtree(cluster.files.directory / "node2" / "data")
    post(cluster, 1, "/admin/pause-writes", ttl_seconds=600)
    assert cluster.put(1, "paused", b"never").status_code == 503
    post(cluster, 1, "/admin/resume-writes")
    for _ in range(COMPACT_ENTRIES):  # entries that leave no leaf
        delete(cluster, 1, "never", 404)
    await_value(lambda: snapshot_index(cluster, 1) > 0, "a compaction")
    post(cluster, 1, "/admin/compact")
    cluster.stop(1)
    cluster.start(1)
    cluster.wait_healthy(1)
    write_some(cluster, 1, "after")
    expected = describe(cluster, 1)
    cluster.kill(1, signal.SIGKILL)
    keep(cluster, 1, target, expected)


def write_joined(cluster: Cluster, target: Path) -> None:
    """A node that gets the ledger by a snapshot, stays alone, writes on, and is stopped in good order."""
    cluster.start(1, 2)
    cluster.wait_healthy(1)
    cluster.wait_answers(2)
    post(cluster, 1, "/cluster/nodes/add", node_id=2, address=cluster.url(2).removeprefix("http://"))
    assert snapshot_index(cluster, 2) > 0, "it came by a snapshot"
    post(cluster, 2, "/cluster/nodes/remove", node_id=1)
    cluster.kill(1)
    cluster.wait_healthy(2)
    write_some(cluster, 2, "joined")
    expected = describe(cluster, 2)
    cluster.stop(2)
    keep(cluster, 2, target, expected)


def write_some(cluster: Cluster, node: int, prefix: str) -> None:
    """Puts, versions, deletes, batches, conditions that hold and that do not, an idempotency key used twice."""
    for number, word in enumerate(WORDS):
        key = f"{prefix}/{word}"[:1024]
        for version in range(1 + number % 3):
            assert cluster.put(node, quoted(key), bytes(range(256)) * (number % 3) + b"%d" % version).status_code == 200
    delete(cluster, node, f"{prefix}/plain", 200)
    delete(cluster, node, f"{prefix}/never", 404)
    assert cluster.put(node, f"{prefix}/plain", b"again").json()["version"] == 3
    assert cluster.put(node, f"{prefix}/plain", b"", headers={"If-Match": '"3"'}).status_code == 200
    assert cluster.put(node, f"{prefix}/plain", b"no", headers={"If-Match": '"3"'}).status_code == 412
    delete(cluster, node, f"{prefix}/%F0%9F%9C%81", 200)
    for _ in range(2):
        answer = cluster.put(node, f"{prefix}/once", b"once", headers={"Idempotency-Key": f"{prefix}-once"})
        assert answer.json()["version"] == 1
    operations = [{"op": "put", "key": f"{prefix}/batch-{n % 7}", "value": f"value {n}"} for n in range(10)]
    post(cluster, node, "/batch", operations=[*operations, {"op": "delete", "key": f"{prefix}/once"}])
    refused = cluster.client.post(
        cluster.url(node, "/batch"), json={"operations": [*operations, {"op": "delete", "key": f"{prefix}/never"}]}
    )
    assert refused.status_code == 404


def describe(cluster: Cluster, node: int) -> dict[str, Any]:
    """All that a node holds, as it says it: values now and at each of their leaves, histories, audit rows, the tree."""
    listed = ok(cluster.get(node, "/kv", params={"limit": 1000})).json()
    assert listed["next"] is None
    deleted = {
        row["key"] for row in audit(cluster, node, "SELECT DISTINCT key FROM audit WHERE leaf_index IS NOT NULL")
    }
    keys = sorted(deleted | {item["key"] for item in listed["items"]})
    info = cluster.get(node, "/cluster/info").json()
    return {
        "node_id": node,
        "cluster_id": info["cluster_id"],
        "tree": {name: cluster.figures(node)["merkle"][name] for name in ("tree_size", "root_hash")},
        "items": listed["items"],
        "keys": {key: describe_key(cluster, node, key) for key in keys},
        "outcomes": audit(cluster, node, "SELECT outcome, op, count(*) AS rows FROM audit GROUP BY ALL ORDER BY ALL"),
    }


def describe_key(cluster: Cluster, node: int, key: str) -> dict[str, Any]:
    """One key: its history, and the value that each of its leaves gave it (None for a delete)."""
    history = ok(cluster.get(node, f"/history/{quoted(key)}")).json()
    assert history["next"] is None
    values: dict[str, str | None] = {}
    for version in history["versions"]:
        read = cluster.get(node, f"/kv/{quoted(key)}", params={"at_leaf": version["leaf_index"]})
        assert read.status_code in {200, 404}
        values[str(version["leaf_index"])] = digest(read.content) if read.status_code == 200 else None
    now = cluster.get(node, f"/kv/{quoted(key)}")
    return {
        "versions": history["versions"],
        "values": values,
        "now": [digest(now.content), now.headers["ETag"]] if now.status_code == 200 else None,
    }


def keep(cluster: Cluster, node: int, target: Path, expected: dict[str, Any]) -> None:
    """Copy what a stopped node has stored, without locks, caches and room that it held in reserve."""
    target.mkdir(parents=True)
    data = cluster.files.directory / f"node{node}" / "data"
    for name in KEPT:
        if (data / name).exists() and (data / name).stat().st_size:
            shutil.copyfile(data / name, target / name)
            os.chmod(target / name, 0o644)
    (target / "expected.json").write_text(json.dumps(expected, indent=1, ensure_ascii=False, sort_keys=True) + "\n")
    size_kib = sum(path.stat().st_size for path in target.iterdir()) // 1024
    sys.stderr.write(f"{target}: {size_kib} KiB, tree {expected['tree']}\n")


def snapshot_index(cluster: Cluster, node: int) -> int:
    """Up to where the log of a node is dropped, or came as a snapshot."""
    return int(ok(cluster.get(node, "/cluster/info")).json()["snapshot_index"])


def audit(cluster: Cluster, node: int, sql: str) -> list[dict[str, Any]]:
    """Rows of an audit query, each by column."""
    answer = ok(cluster.client.post(cluster.url(node, "/audit/query"), json={"sql": sql}, timeout=CHANGE_S)).json()
    return [dict(zip(answer["columns"], row, strict=True)) for row in answer["rows"]]


def post(cluster: Cluster, node: int, path: str, **body: Any) -> Any:
    """Ask for something that must be done."""
    return ok(cluster.client.post(cluster.url(node, path), json=body, timeout=CHANGE_S)).json()


def delete(cluster: Cluster, node: int, key: str, status: int) -> None:
    """Delete a key, and see what becomes of it."""
    assert cluster.client.delete(cluster.url(node, f"/kv/{key}")).status_code == status


def ok(answer: httpx.Response) -> httpx.Response:
    """An answer that must be 200."""
    assert answer.status_code == 200, answer.text
    return answer


def quoted(key: str) -> str:
    """A key as it stands in a URL, dots and slashes kept from being normalised."""
    return "".join(f"%{byte:02X}" for byte in key.encode())


def digest(value: bytes) -> str:
    """SHA-256, as hex digits."""
    return hashlib.sha256(value).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
