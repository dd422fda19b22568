"""Real records, through the program that people use, while the leader is killed three times."""

import json
import os
import signal
import subprocess
from pathlib import Path

from tests.cluster.harness import Cluster, await_value
from tests.cluster.programs import APPLIANCE, appliance

RECORDS = Path(__file__).parents[1] / "data" / "debian-packages-sample.ndjson"
BACK_S = 60.0


def test_an_import_goes_on_by_itself_while_the_leader_dies_three_times(cluster: Cluster, tmp_path: Path) -> None:
    state, acknowledged = cluster.files.directory, tmp_path / "acknowledged.ndjson"
    records = [json.loads(line) for line in RECORDS.read_text().splitlines()]
    command = [APPLIANCE, "--dir", str(state), "--output", "json", "kv", "import", "-", "--batch", "2"]
    importing = subprocess.Popen(
        [*command, "--acknowledged", str(acknowledged)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert importing.stdin is not None
    lines = RECORDS.read_text().splitlines(keepends=True)
    quarter = len(lines) // 4
    importing.stdin.writelines(lines[:quarter])
    for number in (1, 2, 3):  # the input has not ended, so each kill is in the middle of the import
        importing.stdin.flush()
        wanted = (number - 1) * quarter + quarter // 10

        def arrived(wanted: int = wanted) -> bool:
            return int(cluster.figures(cluster.leader())["merkle"]["tree_size"]) > wanted

        await_value(arrived, f"{wanted} records")
        leader = cluster.leader()
        cluster.kill(leader, signal.SIGKILL)
        importing.stdin.writelines(lines[number * quarter : (number + 1) * quarter])
        importing.stdin.flush()
        cluster.leader()
        cluster.start(leader)
        cluster.wait_healthy()
    assert importing.poll() is None
    said, complaints = importing.communicate(timeout=120)
    assert importing.returncode == 0, complaints
    assert json.loads(said)["acknowledged"] == len(records)

    cluster.agree()
    answers = [json.loads(line) for line in acknowledged.read_text().splitlines()]
    assert {a["key"] for a in answers} == {r["key"] for r in records}
    assert {a["version"] for a in answers} == {1}, "something was applied twice"
    assert len({a["leaf_index"] for a in answers}) == len(records)
    assert int(cluster.agree()["tree_size"]) == len(records)
    held = {r["key"]: r["value"] for r in map(json.loads, appliance(state, "kv", "export").splitlines())}
    assert {key: json.loads(value) for key, value in held.items()} == {r["key"]: r["value"] for r in records}

    sql = "SELECT value->>'section' AS section, count(*) AS n FROM current GROUP BY 1"
    rows = json.loads(appliance(state, "--output", "json", "audit", "query", sql))["rows"]
    sections: dict[str, int] = {}
    for record in records:
        sections[record["value"]["section"]] = sections.get(record["value"]["section"], 0) + 1
    assert {section: int(n) for section, n in rows} == sections
    sql = "SELECT actor, count(*), count(DISTINCT leaf_index) FROM audit WHERE outcome = 'ok' GROUP BY actor"
    rows = json.loads(appliance(state, "--output", "json", "audit", "query", sql))["rows"]
    assert [[actor, int(n), int(leaves)] for actor, n, leaves in rows] == [["admin", len(records), len(records)]]


def test_a_local_cluster_by_its_own_commands(tmp_path: Path) -> None:
    """up, a killed leader that the supervisor starts again, import, questions, down, up: the same root."""
    from tests.ports import free_base_port

    state = tmp_path / ".scribe"
    up = ("up", "--local", "--base-port", str(free_base_port(3)))
    appliance(state, *up)
    try:
        appliance(state, "kv", "import", str(RECORDS))

        def leader_pid() -> int | None:
            rows = json.loads(appliance(state, "--output", "json", "ps"))["processes"]
            return next((row["pid"] for row in rows if row["role"] == "leader"), None)

        os.kill(await_value(leader_pid, "a leader"), signal.SIGKILL)
        appliance(state, "kv", "put", "after", "the kill")

        def restarted() -> bool:
            rows = json.loads(appliance(state, "--output", "json", "ps"))["processes"]
            return [row["health"] for row in rows] == ["ok"] * 3 and sum(row["restarts"] for row in rows) == 1

        await_value(restarted, "the supervisor to bring the node back", BACK_S)

        def roots() -> set[tuple[str, str]] | None:
            said = appliance(state, "--output", "json", "status", codes={0, 1})  # 1: one is not healthy, for now
            rows = json.loads(said)["nodes"]
            found = {(str(row["tree_size"]), row["root_hash"]) for row in rows if row["root_hash"]}
            return found if len(found) == 1 and all(row["root_hash"] for row in rows) and len(rows) == 3 else None

        before = await_value(roots, "one root on three nodes")
        appliance(state, "down")
        appliance(state, *up)
        assert await_value(roots, "one root on three nodes") == before
        assert appliance(state, "kv", "get", "after").strip() == "the kill"
    finally:
        appliance(state, "down")
