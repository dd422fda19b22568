"""What a user has seen of a log before: rolled-back logs and forks are alarms, nodes that lag are none."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cli_standin import refused_url
from log_standin import FORGER, LogNode, Reply, SmallLog, as_json, on, problem, some_log
from log_standin import LOG as LOG_KEY
from verify_rig import Verifier

from appliance.adapters.ed25519 import verify as ed25519_verify
from appliance.cli.checkpoint_memory import CheckpointMemory, Seen, memory_directory
from appliance.cli.exits import CliError, Exit
from appliance.ledger.checkpoint import parse_checkpoint
from appliance.ledger.note import Ed25519Verifier, parse_note

Start = Callable[..., LogNode]
KEY = "key-007"
CONSISTENCY = "/log/proof/consistency"


def rewritten(count: int, at: int = 100) -> SmallLog:
    """The same log up to one entry, and another one from there on."""
    right, log = some_log(count), SmallLog()
    for index, leaf in enumerate(right.leaves[:count]):
        log.add_bytes(leaf.replace(b'"alice"', b'"mallory"') if index == at else leaf, right.values[index])
    log.heads = {**right.heads}
    return log


def assert_alarm(verify: Verifier, done: object, first: bytes, second: bytes) -> None:
    """Both checkpoints stand in full in the error, and in a file."""
    detail = done.detail  # type: ignore[attr-defined]
    hint = done.error.hint  # type: ignore[attr-defined]
    for note in (first.decode(), second.decode()):
        assert note.rstrip("\n") in detail
        assert any(note in text for text in verify.evidence())
    assert str(verify.home) in hint


@pytest.mark.parametrize("words", [[KEY], ["log"]], ids=["key", "log"])
def test_a_log_that_was_rolled_back_is_an_alarm(words: list[str], start_log_node: Start, verify: Verifier) -> None:
    log = some_log(700)
    nodes = [start_log_node(log), start_log_node(log)]
    urls = [node.url for node in nodes]
    assert verify.run(*words, urls=urls).exit_code == Exit.OK
    for node in nodes:
        node.size = node.applied = 650
    done = verify.run(*words, urls=urls, timeout_s=2.0)
    assert (done.exit_code, done.code) == (Exit.SHRUNK, "log_shrunk")
    assert "was rolled back: all 2 nodes have less than the 700 entries" in done.detail
    assert done.answer["verified"] is False
    assert done.checks["consistency"] == "failed"
    assert_alarm(verify, done, log.checkpoint(700), log.checkpoint(650))
    assert verify.remembered_size == 700
    assert verify.run(*words, urls=urls, timeout_s=2.0).exit_code == Exit.SHRUNK
    assert len(verify.evidence()) == 1


def test_a_rolled_back_log_that_grows_again_is_a_fork(start_log_node: Start, verify: Verifier) -> None:
    assert verify.run(KEY, urls=[start_log_node(some_log(700)).url]).exit_code == Exit.OK
    other = some_log(650)
    while len(other.leaves) < 720:
        other.put("key-000", b"another life")
    done = verify.run(KEY, urls=[start_log_node(other).url])
    assert (done.exit_code, done.code) == (Exit.FORKED, "log_forked")
    assert_alarm(verify, done, some_log(700).checkpoint(700), other.checkpoint(720))
    assert verify.remembered_size == 700


@pytest.mark.parametrize("words", [[KEY], ["log"]], ids=["key", "log"])
@pytest.mark.parametrize("size", [700, 650, 720])
def test_a_fork_is_an_alarm(words: list[str], size: int, start_log_node: Start, verify: Verifier) -> None:
    log, other = some_log(720), rewritten(720)
    assert verify.run(*words, urls=[start_log_node(log, size=700, applied=700).url]).exit_code == Exit.OK
    done = verify.run(*words, urls=[start_log_node(other, size=size).url], timeout_s=2.0)
    if size < 700:  # alone, it cannot be told from a log that was rolled back
        assert (done.exit_code, done.code) == (Exit.SHRUNK, "log_shrunk")
        assert "the one node that was asked" in done.detail
    else:
        assert (done.exit_code, done.code) == (Exit.FORKED, "log_forked")
    assert_alarm(verify, done, log.checkpoint(700), other.checkpoint(size))
    assert verify.remembered_size == 700


def test_a_fork_that_lags_is_told_from_a_node_that_lags(start_log_node: Start, verify: Verifier) -> None:
    log, other = some_log(700), rewritten(700)
    right = start_log_node(log)
    assert verify.run(KEY, urls=[right.url]).exit_code == Exit.OK
    done = verify.run(KEY, urls=[start_log_node(other, size=650).url, right.url], timeout_s=2.0)
    assert (done.exit_code, done.code) == (Exit.FORKED, "log_forked")
    assert_alarm(verify, done, log.checkpoint(700), other.checkpoint(650))


def test_a_node_that_lags_is_no_alarm(start_log_node: Start, verify: Verifier) -> None:
    log = some_log(700)
    right, behind = start_log_node(log), start_log_node(log, size=650)
    assert verify.run(KEY, urls=[right.url]).exit_code == Exit.OK
    done = verify.run("back", urls=[behind.url, right.url])
    assert (done.exit_code, done.checks["consistency"]) == (Exit.OK, "passed"), done.stderr
    assert done.answer["tree_size"] == 650
    assert verify.remembered_size == 700


def test_a_node_that_catches_up_in_time_is_no_alarm(start_log_node: Start, verify: Verifier) -> None:
    log = some_log(700)
    node = start_log_node(log)
    assert verify.run(KEY, urls=[node.url]).exit_code == Exit.OK
    node.size = 650

    def catch_up(path: str, reply: Reply) -> Reply:
        if path == CONSISTENCY and node.requests.count(CONSISTENCY) == 3:
            node.size = 700
        return reply

    node.fault = catch_up
    done = verify.run("back", urls=[node.url])
    assert (done.exit_code, done.checks["consistency"]) == (Exit.OK, "passed"), done.stderr
    assert node.requests.count(CONSISTENCY) == 4


def test_while_a_node_is_down_nothing_is_called_rolled_back(start_log_node: Start, verify: Verifier) -> None:
    log = some_log(700)
    node = start_log_node(log)
    assert verify.run(KEY, urls=[node.url]).exit_code == Exit.OK
    node.size = 650
    done = verify.run("back", urls=[node.url, refused_url()], timeout_s=2.0)
    assert (done.exit_code, done.code) == (Exit.UNAVAILABLE, "log_behind")
    assert "no valid checkpoint" in done.detail
    assert done.answer["verified"] is False
    assert verify.evidence() == []


REFUSALS = [
    pytest.param(lambda _: as_json({"path": []}), (Exit.FORKED, "log_forked"), id="an empty proof"),
    pytest.param(lambda _: as_json({"path": ["zz"]}), (Exit.FORKED, "log_forked"), id="no hashes"),
    pytest.param(lambda _: as_json({"path": ["00" * 32] * 100}), (Exit.FORKED, "log_forked"), id="too many hashes"),
    pytest.param(lambda _: Reply(body=b"\xff"), (Exit.FORKED, "log_forked"), id="garbage"),
    pytest.param(lambda _: Reply(body=b" " * 70_000), (Exit.UNAVAILABLE, "no_consistency"), id="without end"),
    pytest.param(lambda _: problem("not_found"), (Exit.UNAVAILABLE, "no_consistency"), id="not found"),
    pytest.param(lambda _: problem("leaf_out_of_range"), (Exit.UNAVAILABLE, "no_consistency"), id="out of range"),
    pytest.param(lambda _: problem("verification_failed"), (Exit.DIVERGED, "verification_failed"), id="damaged"),
    pytest.param(lambda _: problem("not_published"), (Exit.UNAVAILABLE, "not_published"), id="not yet"),
]


@pytest.mark.parametrize(("change", "expected"), REFUSALS)
def test_a_larger_tree_without_a_proof_of_consistency_is_never_taken(
    change: Callable[[Reply], Reply], expected: tuple[Exit, str], start_log_node: Start, verify: Verifier
) -> None:
    log = some_log(720)
    assert verify.run(KEY, urls=[start_log_node(log, size=700).url]).exit_code == Exit.OK
    done = verify.run(KEY, urls=[start_log_node(log, fault=on(CONSISTENCY, change)).url], timeout_s=2.0)
    assert (done.exit_code, done.code) == expected
    assert verify.remembered_size == 700


def test_one_node_that_proves_consistency_is_enough(start_log_node: Start, verify: Verifier) -> None:
    log = some_log(720)
    assert verify.run(KEY, urls=[start_log_node(log, size=700).url]).exit_code == Exit.OK
    liar = start_log_node(log, fault=on(CONSISTENCY, lambda _: as_json({"path": []})))
    done = verify.run(KEY, urls=[liar.url, start_log_node(log).url])
    assert (done.exit_code, verify.remembered_size) == (Exit.OK, 720), done.stderr


def test_an_alarm_outweighs_another_failure(start_log_node: Start, verify: Verifier) -> None:
    assert verify.run(KEY, urls=[start_log_node(some_log(700)).url]).exit_code == Exit.OK
    fault = on("/kv/", lambda reply: replace(reply, body=b"x"))
    done = verify.run(KEY, urls=[start_log_node(rewritten(700), fault=fault).url])
    assert done.checks["value"] == "failed"
    assert done.exit_code == Exit.FORKED


def test_for_people_both_checkpoints_of_an_alarm_are_printed(start_log_node: Start, verify: Verifier) -> None:
    log, other = some_log(700), rewritten(700)
    assert verify.run(KEY, urls=[start_log_node(log).url]).exit_code == Exit.OK
    result = verify.invoke(KEY, "--url", start_log_node(other).url)
    assert result.exit_code == Exit.FORKED
    assert "FAILED" in result.stdout
    assert log.checkpoint(700).decode().rstrip() in result.stderr
    assert other.checkpoint(700).decode().rstrip() in result.stderr


# -- the file


def seen(log: SmallLog, size: int) -> Seen:
    note = log.checkpoint(size)
    return Seen(parse_checkpoint(parse_note(note).text), note, "http://node")


def test_the_file_is_its_owners_alone_and_never_goes_back(verify: Verifier) -> None:
    log, memory = some_log(300), verify.memory
    assert memory.last() is None
    with memory.locked():
        memory.remember(seen(log, 200))
        memory.remember(seen(log, 250))
    assert stat.S_IMODE(memory.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(memory.path.parent.stat().st_mode) == 0o700
    assert memory.last() == seen(log, 250)
    with memory.locked(), pytest.raises(AssertionError):
        memory.remember(seen(log, 249))
    assert memory.last() == seen(log, 250)
    assert {path.suffix for path in memory.path.parent.iterdir()} == {".json", ".lock"}


DAMAGE = [
    pytest.param(lambda data: b"", id="empty"),
    pytest.param(lambda data: data[:-30], id="truncated"),
    pytest.param(lambda data: data.replace(b"300", b"200"), id="a smaller size"),
    pytest.param(lambda data: data.replace(b'"format": 1', b'"format": 2'), id="another format"),
    pytest.param(lambda data: b"\xff" + data, id="not UTF-8"),
]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_no_reason_to_begin_anew(
    damage: Callable[[bytes], bytes], start_log_node: Start, verify: Verifier
) -> None:
    log = some_log(300)
    node = start_log_node(log)
    assert verify.run(KEY, urls=[node.url]).exit_code == Exit.OK
    damaged = damage(verify.memory.path.read_bytes())
    verify.memory.path.write_bytes(damaged)
    done = verify.run(KEY, urls=[node.url])
    assert (done.exit_code, done.code) == (Exit.FAILURE, "memory_unusable"), done.stderr
    assert str(verify.memory.path) in done.detail
    assert verify.memory.path.read_bytes() == damaged


def test_what_another_key_of_the_same_name_has_signed_is_not_taken_for_seen(verify: Verifier) -> None:
    log = some_log(300)
    with verify.memory.locked():
        verify.memory.remember(seen(log, 300))
    other = CheckpointMemory(verify.memory.path.parent, Ed25519Verifier(FORGER.verifier_key, ed25519_verify))
    with pytest.raises(CliError, match="no signature by a known key"):
        other.last()


def test_each_log_has_a_file_of_its_own(verify: Verifier) -> None:
    key = replace_name(LOG_KEY.verifier_key.name[:-1] + "2")
    assert CheckpointMemory(verify.memory.path.parent, key).path != verify.memory.path


def replace_name(name: str) -> Ed25519Verifier:
    return Ed25519Verifier(LOG_KEY.verifier_key._replace(name=name), ed25519_verify)


def test_a_second_process_waits_until_the_first_has_compared(start_log_node: Start, verify: Verifier) -> None:
    """Both see the log grow; the second has to compare with what the first has remembered, and never goes back."""
    log = some_log(720)
    assert verify.run(KEY, urls=[start_log_node(log, size=650).url]).exit_code == Exit.OK
    asked, go_on = threading.Event(), threading.Event()

    def hold(path: str, reply: Reply) -> Reply:
        if path == CONSISTENCY:
            asked.set()
            assert go_on.wait(10)
        return reply

    slow = start_log_node(log, size=700, fault=hold)
    program = [sys.executable, "-c", "from appliance.cli.main import run; run()", "verify", KEY]
    environment = {**os.environ, **verify.environment}
    first = subprocess.Popen([*program, "--url", slow.url], env=environment, stdout=subprocess.DEVNULL)
    assert asked.wait(20)
    second = subprocess.Popen([*program, "--url", start_log_node(log).url], env=environment, stdout=subprocess.DEVNULL)
    deadline_s = time.monotonic() + 20
    while not is_waiting_for_a_lock(second.pid):
        assert second.poll() is None
        assert time.monotonic() < deadline_s
        time.sleep(0.02)  # what is awaited happens in another process
    assert verify.remembered_size == 650
    go_on.set()
    assert (first.wait(20), second.wait(20)) == (Exit.OK, Exit.OK)
    assert verify.remembered_size == 720


def is_waiting_for_a_lock(pid: int) -> bool:
    return any("->" in line and str(pid) in line.split() for line in Path("/proc/locks").read_text().splitlines())


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"XDG_CONFIG_HOME": "/x/y"}, "/x/y/appliance/checkpoints"),
        ({"XDG_CONFIG_HOME": "relative"}, "~/.config/appliance/checkpoints"),
        ({}, "~/.config/appliance/checkpoints"),
    ],
)
def test_where_checkpoints_are_remembered(environment: dict[str, str], expected: str) -> None:
    assert memory_directory(environment) == Path(expected).expanduser()
