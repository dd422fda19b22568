"""The whole stack: healthy, watched, and heard when nodes go away. One story, in the order of the file."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
from stack_rig import ROOT, Stack, eventually

from appliance.tables.alerts import ALERTS, RECORDS

pytestmark = [pytest.mark.stack, pytest.mark.timeout(900), pytest.mark.xdist_group("stack")]
NODES = ("node1:8001", "node2:8002", "node3:8003")
EMPTY_WHEN_ALL_IS_WELL = {
    "Error rate A",  # no answer of 5xx
    "Peer links A",  # no message dropped
    "Leaves that are published and cosigned B",  # the stack comes without witnesses
    "Age of the last cosignature A",
    "Checkpoints that a witness did not cosign, an hour A",
}


def test_every_service_is_healthy(stack: Stack) -> None:
    rows = {c.Service: c for c in stack.compose.get_containers(include_all=True)}

    assert rows.pop("init").ExitCode == 0
    assert {name: row.Health for name, row in rows.items()} == dict.fromkeys(
        ("node1", "node2", "node3", "prometheus", "alertmanager"), "healthy"
    )


def test_a_write_at_one_node_is_read_at_the_others(stack: Stack, tmp_path: Path) -> None:
    credentials = stack.credentials(tmp_path)
    urls = credentials["APPLIANCE_URL"].split(",")
    assert urls == [stack.node_url(number) for number in (1, 2, 3)]
    writer, reader = credentials["APPLIANCE_API_KEY_WRITE"], credentials["APPLIANCE_API_KEY_READ"]

    put = httpx.put(f"{urls[0]}/kv/stack/hello", content=b"world", headers={"X-API-Key": writer}, timeout=10)
    assert put.status_code == 200, put.text
    for url in urls:
        got = httpx.get(f"{url}/kv/stack/hello", headers={"X-API-Key": reader}, timeout=10)
        assert (got.status_code, got.content) == (200, b"world")
    assert httpx.get(f"{urls[0]}/kv/stack/hello", timeout=10).status_code == 401


def test_audit_queries_run_within_the_containers_bounds(stack: Stack, tmp_path: Path) -> None:
    auditor = stack.credentials(tmp_path)["APPLIANCE_API_KEY_AUDIT"]
    question = {"sql": "SELECT actor, op FROM audit WHERE key = 'stack/hello' AND outcome = 'ok'"}

    answer = httpx.post(f"{stack.node_url(2)}/audit/query", json=question, headers={"X-API-Key": auditor}, timeout=40)

    assert answer.status_code == 200, answer.text
    assert answer.json()["rows"] == [["write", "put"]]


def test_the_image_has_no_tools_to_build_or_install(stack: Stack) -> None:
    found = stack.compose.command(
        "exec",
        "-T",
        "node1",
        "sh",
        "-c",
        "for t in gcc cc make git /opt/appliance/bin/pip; do command -v $t; done; true",
    )
    assert found == ""
    assert stack.compose.command("exec", "-T", "node1", "sh", "-c", "ls -A /src /tests 2>/dev/null; true") == ""


def test_init_again_keeps_every_secret(stack: Stack, tmp_path: Path) -> None:
    before = stack.credentials(tmp_path)

    stack.compose.command("run", "--rm", "--no-deps", "-T", "init")

    assert stack.credentials(tmp_path) == before


def test_nodes_write_one_json_object_a_line_where_filebeat_reads(stack: Stack) -> None:
    text = stack.compose.command("exec", "-T", "node1", "sh", "-c", "cat /var/log/scribe-ledger/*.log")

    lines = [json.loads(line) for line in text.splitlines()]
    assert lines
    assert all("@timestamp" in line and "log.level" in line for line in lines)
    assert {line["service.node.name"] for line in lines if "service.node.name" in line} != set()


def test_nodes_run_without_root_and_cannot_write_their_image(stack: Stack) -> None:
    assert stack.compose.command("exec", "-T", "node1", "id", "-u").strip() == "10001"
    refused = stack.compose.command(
        "exec", "-T", "node1", "sh", "-c", "touch /opt/x 2>&1 || touch /etc/scribe-ledger/x 2>&1 || echo refused"
    )
    assert refused.splitlines()[-1] == "refused"


def test_prometheus_sees_three_nodes_and_every_rule(stack: Stack) -> None:
    eventually("three targets up", lambda: stack.targets() == dict.fromkeys(NODES, "up"), 60)

    rules = [rule for group in stack.prometheus("rules")["groups"] for rule in group["rules"]]
    assert {rule["name"] for rule in rules} == {*ALERTS, *(row.name for row in RECORDS)}
    eventually(
        "every rule evaluated",
        lambda: {r["health"] for g in stack.prometheus("rules")["groups"] for r in g["rules"]} == {"ok"},
        60,
    )


def serves(stack: Stack, state: Path, name: str) -> bool:
    """Whether a node is well and has a part in the cluster, leading it or not."""
    rows = {row["name"]: row for row in stack.appliance(state, "ps")["processes"]}
    return rows[name]["health"] == "ok" and rows[name]["role"] in {"follower", "leader"}


def test_a_fourth_and_a_fifth_node_join_with_one_command_each_and_leave_with_one(stack: Stack, tmp_path: Path) -> None:
    state = tmp_path / ".scribe"
    before = {c.Service: c.ID for c in stack.compose.get_containers()}
    joining = ("node4", "node5")

    for node_id in (4, 5):
        added = stack.appliance(state, "cluster", "add", str(node_id))
        assert (added["role"], added["changed"], added["url"]) == ("voter", True, stack.node_url(node_id))
    assert stack.appliance(state, "cluster", "add", "4")["changed"] is False
    eventually("both to serve", lambda: all(serves(stack, state, name) for name in joining), 60)
    running = {c.Service: c.ID for c in stack.compose.get_containers()}
    assert {name: running[name] for name in before} == before, "nothing else was started anew"
    stack.await_agreement(state, 5)
    targets = dict.fromkeys((*NODES, "node4:8004", "node5:8005"), "up")
    eventually("five targets up", lambda: stack.targets() == targets, 60)
    voters = "max(scribe_raft_voters)"
    asked = f"query?{httpx.QueryParams({'query': voters})}"
    eventually("five voters", lambda: stack.prometheus(asked)["result"][0]["value"][1] == "5", 60)

    for node_id in (4, 5):
        removed = stack.appliance(state, "cluster", "remove", str(node_id), "--purge", "--yes")
        assert (removed["role"], removed["stopped"]) == ("removed", True)
    assert stack.appliance(state, "cluster", "remove", "4")["changed"] is False
    eventually("three targets up", lambda: stack.targets() == dict.fromkeys(NODES, "up"), 60)
    assert {row["name"] for row in stack.appliance(state, "ps")["processes"]} == {*before, "init"}
    stack.await_agreement(state, 3)
    project = stack.compose.environ["COMPOSE_PROJECT_NAME"]
    listed = subprocess.run(["docker", "volume", "ls", "--quiet"], capture_output=True, text=True, check=True).stdout
    assert not [name for name in listed.split() if name.startswith(tuple(f"{project}_{each}" for each in joining))]


def test_every_panel_answers_from_live_data(stack: Stack) -> None:
    def empty_queries() -> set[str]:
        dashboard = json.loads((ROOT / "grafana/dashboards/scribe-ledger.json").read_text())
        found = set()
        for panel in dashboard["panels"]:
            for target in (target for target in panel.get("targets", ()) if "expr" in target):
                expr = target["expr"].replace("$__rate_interval", "1m").replace("$instance", ".+")
                if not stack.prometheus(f"query?{httpx.QueryParams({'query': expr})}")["result"]:
                    found.add(f"{panel['title']} {target['refId']}")
        return found

    eventually("data in every panel that has some", lambda: empty_queries() <= EMPTY_WHEN_ALL_IS_WELL, 60)


def test_the_watchdog_reaches_alertmanager(stack: Stack) -> None:
    (alert,) = eventually("Watchdog", lambda: stack.alerts("Watchdog"), 60)

    assert alert["status"]["state"] == "active"


def test_a_node_that_stops_raises_node_down(stack: Stack) -> None:
    stack.compose.command("stop", "node2")

    alerts = eventually("NodeDown in Alertmanager", lambda: stack.alerts("NodeDown"), 90)

    assert [alert["labels"]["instance"] for alert in alerts] == ["node2:8002"]
    assert alerts[0]["annotations"]["description"] == "node2:8002 is not responding"
    assert alerts[0]["status"]["inhibitedBy"] == []
    assert stack.alerts("ClusterQuorumLost") == []


def test_it_comes_back_and_the_alert_ends(stack: Stack) -> None:
    stack.compose.command("start", "node2")

    eventually("three targets up", lambda: stack.targets() == dict.fromkeys(NODES, "up"), 90)
    eventually("NodeDown over", lambda: not stack.alerts("NodeDown"), 90)


def test_without_any_node_quorum_lost_fires_and_inhibits_node_down(stack: Stack) -> None:
    stack.compose.command("stop", "node1", "node2", "node3")

    def without_any() -> dict[str, Any] | None:
        """The alert once it counts none: the nodes stop at once, but not in the same moment."""
        alerts = stack.alerts("ClusterQuorumLost")
        return next((a for a in alerts if "Only 0 nodes available" in a["annotations"]["description"]), None)

    def inhibited(by: str) -> list[dict[str, Any]] | None:
        """All alerts of nodes that are down, once Alertmanager has looked at them again."""
        alerts = stack.alerts("NodeDown")
        return alerts if [a["status"]["inhibitedBy"] for a in alerts] == [[by]] * len(NODES) else None

    lost = eventually("ClusterQuorumLost without any node", without_any, 90)
    down = eventually("three NodeDown, inhibited", lambda: inhibited(lost["fingerprint"]), 90)

    assert lost["status"]["state"] == "active"
    assert {alert["labels"]["instance"] for alert in down} == set(NODES)
    assert {alert["status"]["state"] for alert in down} == {"suppressed"}


def test_the_cluster_serves_again_with_what_it_held(stack: Stack, tmp_path: Path) -> None:
    reader = stack.credentials(tmp_path)["APPLIANCE_API_KEY_READ"]

    stack.compose.command("up", "--wait", "--no-build")

    got = httpx.get(f"{stack.node_url(3)}/kv/stack/hello", headers={"X-API-Key": reader}, timeout=10)
    assert (got.status_code, got.content) == (200, b"world")
    eventually("ClusterQuorumLost over", lambda: not stack.alerts("ClusterQuorumLost"), 90)
