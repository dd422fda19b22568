"""Commands that change the cluster: what they ask, answer and say, and what they do when a node is away."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Any, ClassVar

import msgspec
import pytest
from cli_standin import API_KEY, Node, refused_url
from cluster_standin import Roster, row
from typer.testing import CliRunner, Result

from appliance.cli import shapes
from appliance.cli.exits import CliError, Exit
from appliance.cli.main import app
from appliance.cli.progress import Waiting
from appliance.cli.writes import seconds_of

StartNode = Callable[..., Node]
ADD, REMOVE, TRANSFER = "/cluster/nodes/add", "/cluster/nodes/remove", "/cluster/leader/transfer"
PAUSE, COMPACT = "/admin/pause-writes", "/admin/compact"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("membership", "scrub", "resync"):
        monkeypatch.setattr(f"appliance.cli.{module}.POLL_S", 0.01)


def run(*words: str) -> Result:
    return CliRunner(env={"APPLIANCE_API_KEY": API_KEY}).invoke(app, list(words))


def read(result: Result, shape: type[Any]) -> Any:
    assert result.exit_code == Exit.OK, result.stderr
    return msgspec.json.decode(result.stdout_bytes, type=shape, strict=True)


def error(result: Result) -> shapes.ErrorDetail:
    report = msgspec.json.decode(result.stderr.splitlines()[-1], type=shapes.ErrorReport).error
    assert report.exit_code == result.exit_code
    return report


class TestAdd:
    def test_it_waits_until_the_node_votes(self, start_node: StartNode) -> None:
        node = start_node(roster=(roster := Roster(looks=3)))
        result = run("cluster", "add", "4", "10.0.1.4:8001", "--url", node.url, "-o", "json")
        change = read(result, shapes.MemberChange)
        assert (change.node_id, change.role, change.changed, change.index) == (4, "voter", True, 11)
        assert [(member.node_id, member.role) for member in change.members][-1] == (4, "voter")
        assert node.requests[0] == ("POST", ADD + "?wait=false")
        assert roster.asked == [(ADD, {"node_id": 4, "address": "10.0.1.4:8001"})]
        assert "learner" in result.stderr

    def test_it_need_not_wait(self, start_node: StartNode) -> None:
        node = start_node(roster=(roster := Roster(looks=99)))
        words = ("--raft-address", "10.0.1.4:9100", "--no-wait", "--url", node.url)
        result = run("cluster", "add", "4", "10.0.1.4:8001", *words)
        assert result.exit_code == Exit.OK
        assert "learner (not caught up yet)" in result.stdout
        assert "10.0.1.4:8001" in result.stdout
        assert "appliance cluster nodes" in result.stderr
        assert roster.asked[0][1]["raft_address"] == "10.0.1.4:9100"
        assert len(node.requests) == 1

    def test_the_wait_has_an_end(self, start_node: StartNode, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("appliance.cli.membership.CATCH_UP_S_MAX", 0.05)
        url = start_node(roster=Roster(looks=10_000)).url
        change = read(run("cluster", "add", "4", "10.0.1.4:8001", "--url", url, "-o", "json"), shapes.MemberChange)
        assert (change.role, change.changed) == ("learner", True)

    def test_again_it_changes_nothing(self, start_node: StartNode) -> None:
        url = start_node(roster=Roster()).url
        result = run("cluster", "add", "3", "10.0.1.3:8001", "--url", url)
        assert "no, it stood so before" in result.stdout

    def test_a_member_that_is_removed_meanwhile_ends_the_wait(self, start_node: StartNode) -> None:
        class Vanishing(Roster):
            def look(self) -> list[dict[str, Any]]:
                self.members.pop(4, None)
                return super().look()

        url = start_node(roster=Vanishing(looks=99)).url
        result = run("cluster", "add", "4", "10.0.1.4:8001", "--url", url, "-o", "json")
        assert result.exit_code == Exit.CONFLICT
        assert "was removed" in error(result).detail

    def test_a_leader_that_is_not_among_the_urls_is_found(self, start_node: StartNode) -> None:
        leading = start_node(roster=(roster := Roster(looks=5)))
        seen = [{**row(1, address=leading.url.removeprefix("http://")), "is_self": False}, {**row(2), "is_self": True}]
        asked = start_node(roster=(other := Roster(*seen, looks=5)))
        other.members[4] = roster.members[4] = row(4, "learner")
        change = read(
            run("cluster", "add", "4", "10.0.1.4:8001", "--url", asked.url, "-o", "json"), shapes.MemberChange
        )
        assert change.role == "voter"
        assert ("GET", "/cluster/nodes") in leading.requests
        assert any(member.is_self and member.is_leader for member in change.members), "the leader's own view"


class TestRemoveAndTransfer:
    def test_a_member_goes(self, start_node: StartNode) -> None:
        url = start_node(roster=Roster()).url
        words = ("cluster", "remove", "3", "--url", url)
        change = read(run(*words, "-o", "json"), shapes.MemberChange)
        assert (change.role, change.changed, [m.node_id for m in change.members]) == ("removed", True, [1, 2])
        again = run(*words)
        assert (again.exit_code, "no, it stood so before" in again.stdout) == (Exit.OK, True)

    @pytest.mark.parametrize(("words", "asked", "leader"), [((), {}, 2), (("3",), {"node_id": 3}, 3)])
    def test_the_leadership_moves(
        self, words: tuple[str, ...], asked: dict[str, int], leader: int, start_node: StartNode
    ) -> None:
        url = start_node(roster=(roster := Roster())).url
        result = run("cluster", "transfer", *words, "--url", url, "-o", "json")
        assert result.exit_code == Exit.OK
        assert msgspec.json.decode(result.stdout_bytes) == {
            "status": "ok",
            "leader_id": leader,
            "term": str(2**60),
            "changed": True,
        }
        assert roster.asked == [(TRANSFER, asked)]

    @pytest.mark.parametrize(
        ("words", "path"), [(("cluster", "remove", "3"), REMOVE), (("cluster", "transfer"), TRANSFER)]
    )
    def test_what_would_harm_the_cluster_ends_with_code_4(
        self, words: tuple[str, ...], path: str, start_node: StartNode
    ) -> None:
        roster = Roster()
        roster.refuse[path] = "conflict"
        result = run(*words, "--url", start_node(roster=roster).url)
        assert result.exit_code == Exit.CONFLICT
        assert "next: `appliance cluster nodes`" in result.stderr


class TestReplace:
    def test_a_member_that_is_away_is_removed_and_added(self, start_node: StartNode) -> None:
        roster = Roster(row(1), row(2), row(3, connected=False), looks=3)
        result = run("cluster", "replace", "3", "10.0.1.9:8001", "--url", start_node(roster=roster).url, "-o", "json")
        done = read(result, shapes.Replaced)
        assert (done.role, done.changed, done.removed) == ("voter", True, True)
        assert roster.asked == [
            (REMOVE, {"node_id": 3}),
            (ADD, {"node_id": 3, "address": "10.0.1.9:8001"}),
        ]

    def test_its_addresses_are_those_that_it_had(self, start_node: StartNode) -> None:
        roster = Roster(row(1), row(2), row(3, connected=False))
        assert run("cluster", "replace", "3", "--url", start_node(roster=roster).url).exit_code == Exit.OK
        assert roster.asked[1] == (
            ADD,
            {"node_id": 3, "address": "10.0.1.3:8001", "raft_address": "10.0.1.3:9001"},
        )

    def test_again_it_changes_nothing(self, start_node: StartNode) -> None:
        url = start_node(roster=(roster := Roster(row(1), row(2), row(3, "learner"), looks=4))).url
        done = read(run("cluster", "replace", "3", "10.0.1.3:8001", "--url", url, "-o", "json"), shapes.Replaced)
        assert (done.role, done.changed, done.removed) == ("voter", False, False)
        assert [path for path, _ in roster.asked] == [ADD]

    def test_an_interrupted_one_is_finished(self, start_node: StartNode) -> None:
        roster = Roster(row(1), row(2), row(3, connected=False))
        roster.refuse[ADD] = "conflict"
        url = start_node(roster=roster).url
        failed = run("cluster", "replace", "3", "--url", url, "-o", "json")
        assert failed.exit_code == Exit.CONFLICT
        assert error(failed).hint == "when it runs: appliance cluster replace 3 10.0.1.3:8001"
        del roster.refuse[ADD]
        done = read(run("cluster", "replace", "3", "10.0.1.3:8001", "--url", url, "-o", "json"), shapes.Replaced)
        assert (done.role, done.changed, done.removed) == ("voter", True, False)

    def test_one_that_can_be_reached_is_not_replaced(self, start_node: StartNode) -> None:
        url = start_node(roster=(roster := Roster())).url
        result = run("cluster", "replace", "3", "10.0.1.9:8001", "--url", url)
        assert result.exit_code == Exit.CONFLICT
        assert "stop it first" in result.stderr
        assert roster.asked == []

    def test_one_that_is_no_member_needs_an_address(self, start_node: StartNode) -> None:
        result = run("cluster", "replace", "7", "--url", start_node(roster=Roster()).url)
        assert result.exit_code == Exit.USAGE
        assert "appliance cluster replace 7 HOST:PORT" in result.stderr


class TestWrites:
    def test_they_are_paused_and_resumed(self, start_node: StartNode) -> None:
        url = start_node(roster=(roster := Roster())).url
        paused = read(run("writes", "pause", "--ttl", "2h", "--url", url, "-o", "json"), shapes.WritesPause)
        assert (paused.paused, paused.paused_until, paused.settled) == (True, "2026-11-23T19:40:31.123456Z", [1, 2, 3])
        resumed = read(run("writes", "resume", "--url", url, "-o", "json"), shapes.WritesPause)
        assert (resumed.paused, resumed.paused_until) == (False, None)
        assert roster.asked[0] == (PAUSE, {"ttl_seconds": 7200.0})
        shown = run("writes", "pause", "--url", url)
        assert "paused" in shown.stdout
        assert "appliance writes resume" in shown.stderr
        assert roster.asked[-1] == (PAUSE, {"ttl_seconds": 900.0})

    def test_a_node_that_is_not_settled_ends_it_with_code_8(self, start_node: StartNode) -> None:
        url = start_node(roster=Roster(unsettled=(3,))).url
        result = run("writes", "pause", "--url", url, "-o", "json")
        assert result.exit_code == Exit.PARTIAL
        assert msgspec.json.decode(result.stdout_bytes, type=shapes.WritesPause).unsettled == [3]
        assert "node 3" in error(result).detail
        assert run("writes", "resume", "--url", url).exit_code == Exit.OK

    @pytest.mark.parametrize(
        ("text", "seconds"),
        [("90", 90), ("90s", 90), ("15m", 900), ("1.5h", 5400), ("1d", 86_400), ("24h", 86_400), (" 1 ", 1)],
    )
    def test_durations_are_read(self, text: str, seconds: float) -> None:
        assert seconds_of(text) == seconds

    @pytest.mark.parametrize("text", ["", "m", "15 m", "-1", "1e3", "15min", "0", "0.5s", "86401", "25h", "2d", "1٣"])
    def test_what_is_no_pause_is_refused(self, text: str) -> None:
        with pytest.raises(CliError) as caught:
            seconds_of(text)
        assert caught.value.exit_code is Exit.USAGE


class TestCompact:
    def test_the_first_node_is_compacted(self, start_node: StartNode) -> None:
        first, second = start_node(roster=Roster()), start_node(roster=Roster())
        result = run("compact", "--url", f"{first.url},{second.url}", "-o", "json")
        assert result.exit_code == Exit.OK
        (node,) = msgspec.json.decode(result.stdout_bytes)["nodes"]
        assert (node["url"], node["status"], node["ledger_bytes_before"]) == (first.url, "ok", str(2**60))
        assert second.requests == []

    def test_a_node_can_be_named(self, start_node: StartNode) -> None:
        first, second = start_node(roster=Roster()), start_node(roster=Roster())
        result = run("compact", "--node", second.url, "--url", first.url)
        assert result.exit_code == Exit.OK
        assert "2.0 KiB" in result.stdout
        assert (first.requests, second.requests) == ([], [("POST", COMPACT)])

    def test_all_of_them_in_turn_and_one_that_fails_does_not_keep_the_others(self, start_node: StartNode) -> None:
        first, last = start_node(always="conflict", roster=Roster()), start_node(roster=Roster())
        urls = f"{first.url},{refused_url()},{last.url}"
        result = run("compact", "--all", "--url", urls, "-o", "json")
        assert result.exit_code == Exit.PARTIAL
        nodes = msgspec.json.decode(result.stdout_bytes)["nodes"]
        assert [node["status"] for node in nodes] == ["conflict", "no_connection", "ok"]
        assert "2 of 3" in error(result).detail

    def test_none_of_them_is_a_failure_of_its_own_kind(self, start_node: StartNode) -> None:
        result = run("compact", "--all", "--url", start_node(always="conflict", roster=Roster()).url)
        assert result.exit_code == Exit.CONFLICT

    def test_one_and_all_exclude_each_other(self) -> None:
        assert run("compact", "--all", "--node", "h:1", "--url", "h:1").exit_code == Exit.USAGE


def scrubbed(**figures: Any) -> dict[str, Any]:
    """What a node shows of a pass that is over."""
    whole = {
        "running": False,
        "number": 4,
        "share": 1.0,
        "bytes_read": 70_000,
        "findings": 0,
        "details": [],
        "seconds": 2.5,
    }
    return {"scrub": {**whole, **figures}}


class TestScrub:
    def test_the_first_node_is_read_back_and_waited_for(self, start_node: StartNode) -> None:
        first = start_node(roster=(roster := Roster()), figures=scrubbed())
        second = start_node(roster=Roster())
        result = run("scrub", "--rate", "70000", "--url", f"{first.url},{second.url}", "-o", "json")
        (node,) = read(result, shapes.Scrubs).nodes
        assert (node.url, node.status, node.findings, node.bytes_read) == (first.url, "ok", 0, 70_000)
        assert roster.asked == [("/admin/scrub", {"rate": 70000})]
        assert second.requests == []

    def test_what_has_rotted_is_named_and_a_code_of_its_own(self, start_node: StartNode) -> None:
        figures = scrubbed(findings=1, details=["log entry 7 does not match its checksum"])
        url = start_node(roster=Roster(), figures=figures).url
        result = run("scrub", "--url", url)
        assert result.exit_code == Exit.DIVERGED
        assert "log entry 7 does not match its checksum" in result.stderr
        assert "cluster resync" in result.stderr

    def test_all_of_them_and_one_that_fails_does_not_keep_the_others(self, start_node: StartNode) -> None:
        first, last = start_node(always="conflict", roster=Roster()), start_node(roster=Roster(), figures=scrubbed())
        result = run("scrub", "--all", "--url", f"{first.url},{last.url}", "-o", "json")
        assert result.exit_code == Exit.PARTIAL
        nodes = msgspec.json.decode(result.stdout_bytes)["nodes"]
        assert [node["status"] for node in nodes] == ["conflict", "ok"]

    def test_a_node_that_was_started_anew_says_nothing_of_the_pass(self, start_node: StartNode) -> None:
        result = run("scrub", "--url", start_node(roster=Roster(), figures=scrubbed(number=0)).url, "-o", "json")
        assert result.exit_code == Exit.UNAVAILABLE
        assert "started anew" in error(result).detail

    def test_one_and_all_exclude_each_other(self) -> None:
        assert run("scrub", "--all", "--node", "h:1", "--url", "h:1").exit_code == Exit.USAGE


class TestResync:
    HEALTH: ClassVar[dict[str, Any]] = {
        "status": "ok",
        "node_id": 1,
        "role": "follower",
        "leader_id": 2,
        "term": 1,
        "commit_index": 1,
        "applied_index": 1,
        "lag": 0,
        "alarms": [],
    }

    def test_it_waits_until_the_node_is_back_as_another_and_votes(self, start_node: StartNode) -> None:
        node = start_node(roster=(roster := Roster(looks=2)), health=self.HEALTH)
        done = read(run("cluster", "resync", "1", "--url", node.url, "-o", "json"), shapes.Resynced)
        assert (done.node_id, done.role, done.changed, done.url) == (1, "voter", True, node.url)
        assert (done.incarnation_before, done.incarnation) == (f"{1:016x}", f"{9:016x}")
        assert roster.asked == [("/admin/resync", {"incarnation": f"{1:016x}"})]

    def test_a_refusal_says_why(self, start_node: StartNode) -> None:
        roster = Roster()
        roster.refuse["/admin/resync"] = "conflict"
        result = run("cluster", "resync", "1", "--url", start_node(roster=roster, health=self.HEALTH).url)
        assert result.exit_code == Exit.CONFLICT

    def test_one_that_is_catching_up_is_only_waited_for(self, start_node: StartNode) -> None:
        roster = Roster(row(1, "learner"), row(2), row(3), looks=2)
        url = start_node(roster=roster, health=self.HEALTH).url
        done = read(run("cluster", "resync", "1", "--url", url, "-o", "json"), shapes.Resynced)
        assert (done.changed, done.role, roster.asked) == (False, "voter", [])

    def test_one_that_does_not_come_back_is_told(self, start_node: StartNode, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("appliance.cli.resync.COMES_BACK_S_MAX", 0.05)
        roster = Roster()
        monkeypatch.setattr(roster, "info", lambda: {"node_id": 1, "role": "voter", "incarnation": f"{1:016x}"})
        result = run("cluster", "resync", "1", "--url", start_node(roster=roster, health=self.HEALTH).url, "-o", "json")
        assert result.exit_code == Exit.UNAVAILABLE
        assert "start it" in error(result).hint

    def test_a_node_that_nobody_knows_is_not_found(self, start_node: StartNode) -> None:
        url = start_node(roster=Roster(), health=self.HEALTH).url
        assert run("cluster", "resync", "7", "--url", url).exit_code == Exit.NOT_FOUND


@pytest.mark.parametrize(
    "words",
    [
        ("scrub", "--rate", "1"),
        ("cluster", "resync"),
        ("cluster", "resync", "0"),
        ("cluster", "add", "4"),
        ("cluster", "add", "0", "h:1"),
        ("cluster", "add", "65536", "h:1"),
        ("cluster", "remove"),
        ("cluster", "remove", "x"),
        ("cluster", "transfer", "-1"),
        ("writes", "pause", "--ttl", "soon"),
        ("compact", "--node", "ftp://h"),
    ],
)
def test_a_wrong_command_line_ends_with_code_2(words: tuple[str, ...]) -> None:
    assert run("--url", "127.0.0.1:1", *words).exit_code == Exit.USAGE


class TestLostAnswers:
    @pytest.mark.parametrize("fault", ["cut-before", "cut-after", "504", "stranger-503", "no_leader:0.05"])
    def test_a_change_is_asked_for_again(self, fault: str, start_node: StartNode) -> None:
        roster = Roster()
        first, second = start_node(fault, roster=roster), start_node(roster=roster)
        result = run("cluster", "remove", "3", "--url", f"{first.url},{second.url}", "-o", "json")
        assert read(result, shapes.MemberChange).role == "removed"
        assert len(first.requests) + len(second.requests) == 2

    def test_without_an_answer_its_outcome_is_not_known(self, start_node: StartNode) -> None:
        url = start_node(always="cut-before", roster=Roster()).url
        result = run("cluster", "remove", "3", "--url", url, "--timeout", "0.5", "-o", "json")
        assert result.exit_code == Exit.OUTCOME_UNKNOWN
        assert "the same command again is safe" in error(result).hint
        assert error(result).retryable

    def test_an_answer_under_way_is_waited_for_beyond_the_timeout(self, start_node: StartNode) -> None:
        class Slow(Roster):
            def change(self, path: str, asked: dict[str, Any]) -> tuple[str, dict[str, Any]]:
                threading.Event().wait(0.5)  # longer than --timeout
                return super().change(path, asked)

        node = start_node(roster=Slow())
        assert run("cluster", "transfer", "--url", node.url, "--timeout", "0.2").exit_code == Exit.OK
        assert len(node.requests) == 1


def test_a_wait_tells_how_long_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.cli.progress.LINE_INTERVAL_S", 0.01)
    lines: list[str] = []
    said = threading.Event()

    def say(text: str) -> None:
        lines.append(text)
        if "12 to go" in text:
            said.set()

    monkeypatch.setattr("appliance.cli.progress.say", say)
    with Waiting("adding node 4") as waiting:
        waiting.note("12 to go")
        assert said.wait(10)
    assert re.fullmatch(r"adding node 4: \d+ s, 12 to go", lines[-1])
