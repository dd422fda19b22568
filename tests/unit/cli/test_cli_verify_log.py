"""`verify log` against honest and hostile nodes: every tile, every entry, the list of keys, and several nodes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cli_standin import refused_url
from log_standin import (
    FORGER,
    OTHER_LOG,
    Fault,
    LogNode,
    Reply,
    SmallLog,
    as_json,
    body,
    flipped,
    on,
    problem,
    some_log,
)
from log_standin import LOG as LOG_KEY
from verify_rig import Done, Verifier

from appliance.cli import shapes
from appliance.cli.exits import Exit
from appliance.ledger.bundles import decode_bundle, encode_bundle
from appliance.ledger.checkpoint import parse_checkpoint
from appliance.ledger.merkle import leaf_hash
from appliance.ledger.note import parse_note
from appliance.ledger.tile_paths import TileId, format_path

Start = Callable[..., LogNode]
LOG = some_log(700)
BUNDLE = "/log/tile/entries/"
CHECKPOINT = "/log/checkpoint"


def node_of(done: Done, number: int = 0) -> shapes.NodeVerified:
    return msgspec.convert(done.answer["nodes"][number], shapes.NodeVerified)


def changed_entry(at: int) -> Callable[[bytes], bytes]:
    """One entry of a bundle of whole width says something else."""

    def change(data: bytes) -> bytes:
        entries = decode_bundle(data, 256)
        entries[at] = entries[at].replace(b'"alice"', b'"mallory"')
        return encode_bundle(entries)

    return change


def tile_path(level: int, index: int, width: int = 256) -> str:
    return f"/log/{format_path(TileId(level, index, width))}"


def both(*faults: Fault) -> Fault:
    def fault(path: str, reply: Reply) -> Reply:
        for one in faults:
            reply = one(path, reply)
        return reply

    return fault


def rehashed_tile(at: int) -> Fault:
    """The tile that goes with `changed_entry(at)` in bundle 1."""
    entry = LOG.leaves[256 + at].replace(b'"alice"', b'"mallory"')

    def change(data: bytes) -> bytes:
        return data[: at * 32] + leaf_hash(entry) + data[(at + 1) * 32 :]

    return on(tile_path(0, 1), body(change))


def note_with(make: Callable[[bytes], bytes]) -> Fault:
    return on(CHECKPOINT, body(make))


HOSTILE = [
    pytest.param(
        note_with(lambda note: flipped(note, note.index(b"\n700\n") + 6)),
        (Exit.FORGED, "checkpoint_forged", "is not over this text", None),
        id="a forged checkpoint",
    ),
    pytest.param(
        note_with(lambda _: LOG.checkpoint(700, FORGER)),
        (Exit.FORGED, "checkpoint_unsigned", "no signature by a known key", None),
        id="another key has signed",
    ),
    pytest.param(
        note_with(lambda _: LOG.checkpoint(700, OTHER_LOG)),
        (Exit.WRONG_LOG, "wrong_origin", OTHER_LOG.verifier_key.name, None),
        id="the checkpoint of another log",
    ),
    pytest.param(
        note_with(lambda _: b"{}"),
        (Exit.FORGED, "checkpoint_malformed", "no empty line", None),
        id="a checkpoint of garbage",
    ),
    pytest.param(
        note_with(lambda _: b"x" * 1_000_001),
        (Exit.FORGED, "checkpoint_malformed", "more than 1000000 bytes", None),
        id="a checkpoint without end",
    ),
    pytest.param(
        on(tile_path(0, 1), body(lambda data: data[:-1])),
        (Exit.WRONG_ENTRIES, "tile_truncated", "tile 1 of level 0 has 8191 bytes instead of 8192", None),
        id="a truncated tile",
    ),
    pytest.param(
        on(tile_path(0, 2, 188), body(lambda data: data[32:])),
        (Exit.WRONG_ENTRIES, "tile_truncated", "tile 2 of level 0 has 5984 bytes instead of 6016", None),
        id="a truncated partial tile",
    ),
    pytest.param(
        on(tile_path(1, 0, 2), body(lambda data: b"")),
        (Exit.WRONG_ENTRIES, "tile_truncated", "tile 0 of level 1 has 0 bytes instead of 64", None),
        id="an empty tile of level 1",
    ),
    pytest.param(
        on(tile_path(0, 1), body(lambda data: data * 2)),
        (Exit.WRONG_ENTRIES, "tile_truncated", "more than 8192 bytes", None),
        id="a tile without end",
    ),
    pytest.param(
        on(tile_path(0, 1), body(lambda data: flipped(data, 5 * 32))),
        (Exit.WRONG_ENTRIES, "tile_wrong", "tile 1 of level 0 does not hold the hash of entry 261", None),
        id="a changed byte in a tile",
    ),
    pytest.param(
        on(tile_path(1, 0, 2), body(lambda data: flipped(data, 33))),
        (Exit.WRONG_ENTRIES, "tile_wrong", "tile 0 of level 1 does not hold the hash of entries 256 to 511", None),
        id="a changed byte in a tile of level 1",
    ),
    pytest.param(
        on(f"{BUNDLE}001", body(lambda data: data[:-1])),
        (Exit.WRONG_ENTRIES, "bundle_truncated", "entries 256 to 511 is truncated or garbled", None),
        id="a truncated bundle",
    ),
    pytest.param(
        on(f"{BUNDLE}002", body(lambda data: b"")),
        (Exit.WRONG_ENTRIES, "bundle_truncated", "has 0 entries instead of 188", None),
        id="an empty bundle",
    ),
    pytest.param(
        on(f"{BUNDLE}001", body(lambda data: b"<html>" * 50)),
        (Exit.WRONG_ENTRIES, "bundle_truncated", "entries 256 to 511", None),
        id="a bundle of garbage",
    ),
    pytest.param(
        on(f"{BUNDLE}001", body(lambda data: b"x" * 3_000_000)),
        (Exit.WRONG_ENTRIES, "bundle_truncated", "more than 2097664 bytes", None),
        id="a bundle without end",
    ),
    pytest.param(
        on(f"{BUNDLE}001", body(changed_entry(5))),
        (Exit.WRONG_ENTRIES, "entry_wrong", "entry 261 is not the one that the log has signed", 261),
        id="a changed entry",
    ),
    pytest.param(
        both(on(f"{BUNDLE}001", body(changed_entry(5))), rehashed_tile(5)),
        (Exit.WRONG_ENTRIES, "entry_wrong", "entries 256 to 511 are not those that the log has signed", None),
        id="a changed entry with its tile",
    ),
    pytest.param(
        both(on(f"{BUNDLE}001", body(changed_entry(5))), on(tile_path(0, 1), body(lambda data: flipped(data, 160)))),
        (Exit.WRONG_ENTRIES, "entry_wrong", "entry 261 and tile 1 of level 0 do not fit together", 261),
        id="a changed entry and a changed tile",
    ),
    pytest.param(
        on(f"{BUNDLE}001", lambda _: problem("not_found")),
        (Exit.WRONG_ENTRIES, "withheld", "refuses /log/tile/entries/001, which is part of the signed tree", None),
        id="a bundle that is not there",
    ),
]


@pytest.mark.parametrize(("fault", "expected"), HOSTILE)
def test_a_hostile_node_is_refused_by_name(
    fault: Fault, expected: tuple[Exit, str, str, int | None], start_log_node: Start, verify: Verifier
) -> None:
    url = start_log_node(LOG, fault=fault).url
    done = verify.run("log", urls=[url])
    exit_code, code, words, first_bad = expected
    assert (done.exit_code, done.code) == (exit_code, code), done.stderr
    assert words in done.detail
    assert url in done.detail
    msgspec.convert(done.answer, shapes.LogVerified)
    node = node_of(done)
    assert (node.result, node.code) == ("failed", code)
    assert node.first_bad_entry == first_bad


def test_a_recovered_log_is_another_one_and_the_error_says_what_to_do(start_log_node: Start, verify: Verifier) -> None:
    url = start_log_node(LOG, fault=note_with(lambda _: LOG.checkpoint(700, LOG_KEY.after((7,))))).url
    done = verify.run("log", urls=[url])
    assert (done.exit_code, done.code) == (Exit.WRONG_LOG, "wrong_origin")
    assert done.error is not None
    assert "an operator recovered the cluster" in done.error.hint


def test_honest_nodes_pass_and_what_was_not_checked_is_said(start_log_node: Start, verify: Verifier) -> None:
    nodes = [start_log_node(LOG), start_log_node(LOG)]
    done = verify.run("log", urls=[node.url for node in nodes])
    assert done.exit_code == Exit.OK, done.stderr
    answer = msgspec.convert(done.answer, shapes.LogVerified)
    present = sum(head.op == "put" for head in LOG.heads.values())
    assert (answer.verified, answer.tree_size, answer.keys) == (True, 700, present)
    assert answer.checkpoint == LOG.checkpoint(700).decode()
    assert [(n.result, n.entries, n.tiles, n.listed) for n in answer.nodes] == [("verified", 700, 4, present)] * 2
    assert set(done.checks) == {"consistency", "checkpoints", "entries", "keys"}
    assert any(text.startswith("Values:") for text in answer.not_checked)
    for node in nodes:
        assert {path for path in node.requests if path.startswith("/kv/")} == set()
    again = verify.run("log", urls=[nodes[0].url])
    assert again.checks["consistency"] == "passed"


def test_for_people_there_are_tables(start_log_node: Start, verify: Verifier) -> None:
    result = verify.invoke("log", "--url", start_log_node(LOG).url)
    assert result.exit_code == Exit.OK, result.stderr
    for words in ("each of 700 entries", "verified", "not checked", "Values:", "what this rests on"):
        assert words in result.stdout


def test_a_tree_of_whole_tiles_on_two_levels(start_log_node: Start, verify: Verifier) -> None:
    log = some_log(66_000)
    good, bad = start_log_node(log), start_log_node(log)
    done = verify.run("log", urls=[good.url], timeout_s=30)
    assert done.exit_code == Exit.OK, done.stderr
    assert (node_of(done).entries, node_of(done).tiles) == (66_000, 258 + 2 + 1)
    bad.fault = on(tile_path(2, 0, 1), body(lambda data: flipped(data, 0)))
    done = verify.run("log", urls=[bad.url], timeout_s=30)
    assert (done.exit_code, done.code) == (Exit.WRONG_ENTRIES, "tile_wrong")
    assert "tile 0 of level 2 does not hold the hash of entries 0 to 65535" in done.detail


# -- entries that do not follow


def wrong_leaf(**changes: Any) -> SmallLog:
    """A log, well signed, in which entry 300 is changed; the keys go on from it."""
    log = some_log(300)
    log.add(log.next_leaf("key-001", b"v")._replace(**changes))
    while len(log.leaves) < 310:
        log.put("key-002", b"v")
    return log


def raw_leaf(change: Callable[[bytes], bytes]) -> SmallLog:
    log, donor = some_log(300), some_log(301)
    log.add_bytes(change(donor.leaves[300]))
    return log


UNFOUNDED = [
    pytest.param(wrong_leaf(version=9), "version 9 of 'key-001', and the one before is 2", id="a version left out"),
    pytest.param(wrong_leaf(version=2), "version 2 of 'key-001', and the one before is 2", id="a version twice"),
    pytest.param(wrong_leaf(prev_leaf_index=4), "names leaf 4 as the one before", id="another predecessor"),
    pytest.param(wrong_leaf(key="new"), "version 3 of 'new', and the one before is 0", id="a key from nowhere"),
    pytest.param(
        wrong_leaf(key="gone", version=3, prev_leaf_index=3, op="delete", value_hash=None, value_size=0),
        "deletes 'gone', which is not present",
        id="a delete of what is deleted",
    ),
    pytest.param(wrong_leaf(timestamp_us=5), "its time 5 is before that of the entry before it", id="time goes back"),
    pytest.param(wrong_leaf(batch_id=301), "it says that it is leaf 301", id="another place"),
    pytest.param(wrong_leaf(batch_count=3), "it begins a batch before the last one is whole", id="a batch cut short"),
    pytest.param(
        wrong_leaf(batch_id=299, batch_position=1, batch_count=2), "its batch is whole already", id="no batch begins"
    ),
    pytest.param(wrong_leaf(key="a\nb"), "holds the control character U+000A", id="a key that none can be"),
    pytest.param(raw_leaf(lambda leaf: leaf + b" "), "not in its canonical form", id="not canonical"),
    pytest.param(raw_leaf(lambda leaf: b"leaf"), "not JSON", id="no leaf"),
]


@pytest.mark.parametrize(("log", "why"), UNFOUNDED)
def test_an_entry_that_does_not_follow_is_named_though_it_is_signed(
    log: SmallLog, why: str, start_log_node: Start, verify: Verifier
) -> None:
    done = verify.run("log", urls=[start_log_node(log).url, start_log_node(log).url])
    assert (done.exit_code, done.code) == (Exit.WRONG_ENTRIES, "entry_unfounded"), done.stderr
    assert why in done.detail
    first_bad = 301 if "begins a batch" in why else 300
    assert f"entry {first_bad}:" in done.detail
    assert [node_of(done, number).first_bad_entry for number in (0, 1)] == [first_bad] * 2


@pytest.mark.parametrize("field", ["actor", "request_id", "timestamp_us", "batch_count"])
def test_the_entries_of_a_batch_have_much_in_common(field: str, start_log_node: Start, verify: Verifier) -> None:
    log = some_log(300)
    log.add(log.next_leaf("a", b"v", 300, 0, 2))
    leaf = log.next_leaf("b", b"v", 300, 1, 2)
    value = getattr(leaf, field)
    log.add(leaf._replace(**{field: value + 1 if isinstance(value, int) else value + "x"}))
    done = verify.run("log", urls=[start_log_node(log).url])
    assert f"entry 301: it has another {field} than the entry before it in the same batch" in done.detail


def test_a_checkpoint_never_cuts_a_batch(start_log_node: Start, verify: Verifier) -> None:
    log = some_log(300)
    log.batch([("a", b"1"), ("b", b"2")])
    assert verify.run("log", urls=[start_log_node(log).url]).exit_code == Exit.OK
    cut = start_log_node(log, size=301)
    verify.memory.path.unlink()
    done = verify.run("log", urls=[cut.url])
    assert (done.exit_code, done.code) == (Exit.WRONG_ENTRIES, "entry_unfounded")
    assert "number 1 of a batch of 2, and the last entry" in done.detail


# -- the list of keys


def rows(change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> Fault:
    """Pages of the list of keys are changed."""

    def fault(path: str, reply: Reply) -> Reply:
        if path != "/kv" or reply.status != 200:
            return reply
        page = msgspec.json.decode(reply.body)
        return as_json({**page, "items": change(page["items"])})

    return fault


def on_row(key: str, /, **changes: Any) -> Fault:
    return rows(lambda items: [{**item, **changes} if item["key"] == key else item for item in items])


ROW = {"key": "invented", "version": 1, "leaf_index": 5, "size": 1, "timestamp": "2026-11-23T19:26:40.000005Z"}
LISTS = [
    pytest.param(
        rows(lambda items: [i for i in items if i["key"] != "key-030"]), "'key-030' is not listed", id="missing"
    ),
    pytest.param(on_row("key-030", version=1), "'key-030' is listed with version 1", id="another version"),
    pytest.param(on_row("key-030", leaf_index=1), "'key-030' is listed with version 5, leaf 1", id="another leaf"),
    pytest.param(on_row("key-030", size=1), "'key-030' is listed", id="another size"),
    pytest.param(on_row("key-030", timestamp="2020-01-01T00:00:00.000000Z"), "2020-01-01", id="another time"),
    pytest.param(
        rows(lambda items: sorted([*items, ROW], key=lambda i: i["key"]) if items[0]["key"] == "back" else items),
        "'invented' is listed with version 1, leaf 5; by the entries it is absent",
        id="an invented key",
    ),
    pytest.param(
        rows(lambda items: [{**ROW, "key": "gone"} if i["key"] == "kept/ü" else i for i in items]),
        "'gone' is listed with version 1, leaf 5; by the entries it is absent",
        id="a deleted key",
    ),
    pytest.param(rows(lambda items: [items[0], *items]), "the list is out of order at 'back'", id="out of order"),
    pytest.param(rows(lambda items: []), "is empty, and says that it goes on", id="pages without rows"),
    pytest.param(on_row("key-030", key="a\x00b"), "a key that none can be", id="no key"),
    pytest.param(on_row("key-030", leaf_index=-1), "cannot be read", id="a negative leaf"),
    pytest.param(on_row("key-030", leaf_index=10**30), "cannot be read", id="a leaf beyond all bounds"),
    pytest.param(on("/kv", body(lambda _: b"garbage")), "cannot be read", id="garbage"),
]


@pytest.mark.parametrize(("fault", "why"), LISTS)
def test_a_list_of_keys_that_does_not_follow_from_the_entries(
    fault: Fault, why: str, start_log_node: Start, verify: Verifier
) -> None:
    right, wrong = start_log_node(LOG), start_log_node(LOG, fault=fault)
    done = verify.run("log", urls=[right.url, wrong.url])
    assert (done.exit_code, done.code) == (Exit.DIVERGED, "list_wrong"), done.stderr
    assert why in done.detail
    assert [node_of(done, number).result for number in (0, 1)] == ["verified", "failed"]


def test_a_list_that_may_not_be_read_is_among_what_was_not_checked(start_log_node: Start, verify: Verifier) -> None:
    del verify.environment["APPLIANCE_API_KEY"]
    url = start_log_node(LOG).url
    done = verify.run("log", urls=[url])
    assert done.exit_code == Exit.OK, done.stderr
    assert any(f"The list of keys of {url}" in text for text in done.answer["not_checked"])
    assert "keys" not in done.checks


def grown() -> SmallLog:
    """What is written behind a checkpoint of 700: a new key, a new version, a deleted key, one that came back."""
    log = some_log(700)
    log.put("new", b"1")
    log.put("key-030", b"2")
    log.delete("key-031")
    log.delete("key-032")
    log.put("key-032", b"3")
    return log


def test_what_is_written_meanwhile_is_checked_with_the_entries_behind(start_log_node: Start, verify: Verifier) -> None:
    log = grown()
    node = start_log_node(log, size=700)

    def publish(path: str, reply: Reply) -> Reply:
        if path == "/kv":
            node.size = len(log.leaves)
        return reply

    node.fault = publish
    done = verify.run("log", urls=[node.url, node.url])
    assert done.exit_code == Exit.OK, done.stderr
    assert (done.answer["tree_size"], verify.remembered_size) == (700, 705)
    assert done.checks["keys"] == "passed"


CLAIMS = [
    pytest.param(on_row("key-030", version=3), "'key-030' is listed with version 3, leaf 701", id="a wrong version"),
    pytest.param(
        on_row("key-033", leaf_index=700), "'key-033' is listed with version 5, leaf 700", id="another's leaf"
    ),
    pytest.param(
        on_row("key-033", leaf_index=702), "'key-033' is listed with version 5, leaf 702", id="the leaf of a delete"
    ),
    pytest.param(
        both(
            rows(lambda items: [i for i in items if i["key"] != "key-040"]),
            on("/history/key-040", lambda _: as_json({"versions": [{"leaf_index": 702}]})),
        ),
        "the key 'key-040' is not listed, and no entry deletes it",
        id="a key that was not deleted",
    ),
]


@pytest.mark.parametrize(("fault", "why"), CLAIMS)
def test_a_false_claim_about_what_was_written_meanwhile(
    fault: Fault, why: str, start_log_node: Start, verify: Verifier
) -> None:
    log = grown()
    node = start_log_node(log, size=700)

    def publish(path: str, reply: Reply) -> Reply:
        if path == "/kv":
            node.size = len(log.leaves)
        return fault(path, reply)

    node.fault = publish
    done = verify.run("log", urls=[node.url])
    assert (done.exit_code, done.code) == (Exit.DIVERGED, "list_wrong"), done.stderr
    assert why in done.detail


def test_a_checkpoint_that_does_not_cover_a_claim_settles_nothing(start_log_node: Start, verify: Verifier) -> None:
    early = as_json({"path": [], "checkpoint": LOG.checkpoint(700).decode()})
    node = start_log_node(
        grown(), size=700, fault=lambda path, reply: early if path == "/log/proof/consistency" else reply
    )
    done = verify.run("log", urls=[node.url])
    assert (done.exit_code, done.code) == (Exit.UNAVAILABLE, "log_behind"), done.stderr
    assert "700 entries, and 705 were asked for" in done.detail


def test_a_claim_that_no_checkpoint_ever_covers_is_not_believed(start_log_node: Start, verify: Verifier) -> None:
    fault = on_row("key-030", leaf_index=2**53 - 10)
    done = verify.run("log", urls=[start_log_node(LOG, fault=fault).url], timeout_s=2.0)
    assert done.exit_code == Exit.UNAVAILABLE, done.stderr
    assert done.answer["verified"] is False
    assert node_of(done).result == "unavailable"


def test_a_claim_that_nothing_covers_is_of_no_consequence_for_others(start_log_node: Start, verify: Verifier) -> None:
    liar = start_log_node(LOG, fault=on_row("key-030", leaf_index=2**53 - 10))
    done = verify.run("log", urls=[liar.url, start_log_node(LOG).url], timeout_s=2.0)
    assert done.exit_code == Exit.PARTIAL, done.stderr
    assert [node_of(done, number).result for number in (0, 1)] == ["unavailable", "verified"]
    assert done.checks["keys"] == "passed"


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(Reply(302, b"", {"Location": "mailto:x"}), id="a redirection to nowhere"),
        pytest.param(Reply(503, b"", {"Retry-After": "nan"}), id="a time that is no number"),
        pytest.param(Reply(404, b"[" * 100_000), id="an error as deep as can be"),
        pytest.param(Reply(401, b""), id="a key that is refused though others take it"),
    ],
)
def test_no_answer_of_one_node_ends_the_run_for_all(reply: Reply, start_log_node: Start, verify: Verifier) -> None:
    hostile = start_log_node(LOG, fault=on("/kv", lambda _: reply))
    done = verify.run("log", urls=[hostile.url, start_log_node(LOG).url], timeout_s=2.0)
    assert done.error is not None, done.stderr
    assert node_of(done).result != "verified"
    assert node_of(done, 1).result == "verified"


# -- several nodes


def other_history(at: int, count: int = 700) -> SmallLog:
    """A log that has another entry at one place, with all tiles and a signature to match."""
    log = SmallLog()
    for index, leaf in enumerate(LOG.leaves[:count]):
        log.add_bytes(leaf.replace(b'"alice"', b'"mallory"') if index == at else leaf, LOG.values[index])
    log.heads = dict(LOG.heads)
    return log


@pytest.mark.parametrize("at", [0, 300, 511, 699])
def test_nodes_that_show_two_trees_have_forked_and_the_first_other_entry_is_named(
    at: int, start_log_node: Start, verify: Verifier
) -> None:
    right, wrong = start_log_node(LOG), start_log_node(other_history(at))
    done = verify.run("log", urls=[right.url, wrong.url])
    assert (done.exit_code, done.code) == (Exit.FORKED, "log_forked"), done.stderr
    assert (node_of(done, 0).result, node_of(done, 1).result) == ("verified", "failed")
    assert (node_of(done, 1).code, node_of(done, 1).first_bad_entry) == ("root_wrong", at)
    assert len(verify.evidence()) == 1


def test_a_node_that_has_rewritten_its_log_and_shows_the_right_checkpoint(
    start_log_node: Start, verify: Verifier
) -> None:
    fault = note_with(lambda _: LOG.checkpoint(700))
    wrong, right = start_log_node(other_history(300), fault=fault), start_log_node(LOG)
    alone = verify.run("log", urls=[wrong.url])
    assert (alone.exit_code, alone.code) == (Exit.WRONG_ENTRIES, "root_wrong")
    assert node_of(alone).first_bad_entry is None
    done = verify.run("log", urls=[wrong.url, right.url])
    assert (done.exit_code, done.code) == (Exit.WRONG_ENTRIES, "root_wrong")
    assert f"the first entry that {right.url} has otherwise is 300" in done.detail
    assert (node_of(done, 0).first_bad_entry, node_of(done, 1).result) == (300, "verified")


def test_a_changed_entry_that_its_own_tile_covers_up_is_named_by_another_node(
    start_log_node: Start, verify: Verifier
) -> None:
    fault = both(on(f"{BUNDLE}001", body(changed_entry(5))), rehashed_tile(5))
    done = verify.run("log", urls=[start_log_node(LOG).url, start_log_node(LOG, fault=fault).url])
    assert (done.exit_code, node_of(done, 1).first_bad_entry) == (Exit.WRONG_ENTRIES, 261)


@pytest.mark.parametrize(("at", "exit_code"), [(660, Exit.OK), (600, Exit.FORKED)])
def test_a_smaller_checkpoint_of_another_node_is_compared_with_the_recomputed_tree(
    at: int, exit_code: Exit, start_log_node: Start, verify: Verifier
) -> None:
    """The node lags at 650 entries; it has all tiles of the larger tree, so that its log alone betrays nothing."""
    other = other_history(at)
    lagging = start_log_node(LOG, fault=note_with(lambda _: other.checkpoint(650)))
    done = verify.run("log", urls=[start_log_node(LOG).url, lagging.url])
    assert done.exit_code == exit_code, done.stderr
    assert done.answer["tree_size"] == 700
    if exit_code is Exit.FORKED:
        assert LOG.checkpoint(700).decode().rstrip() in done.detail
        assert other.checkpoint(650).decode().rstrip() in done.detail


def test_a_node_that_does_not_answer_leaves_the_work_half_done(start_log_node: Start, verify: Verifier) -> None:
    down = refused_url()
    done = verify.run("log", urls=[start_log_node(LOG).url, down])
    assert (done.exit_code, done.code) == (Exit.PARTIAL, "no_connection")
    assert [node_of(done, number).result for number in (0, 1)] == ["verified", "unavailable"]
    assert verify.run("log", urls=[down]).exit_code == Exit.UNAVAILABLE


def test_a_node_that_stops_answering_in_the_middle(start_log_node: Start, verify: Verifier) -> None:
    fault = on(f"{BUNDLE}002", lambda reply: replace(reply, delay_s=3.0))
    done = verify.run("log", urls=[start_log_node(LOG, fault=fault).url], timeout_s=2.0)
    assert (done.exit_code, done.code) == (Exit.UNAVAILABLE, "no_connection")
    assert node_of(done).entries == 512


def test_without_nodes_there_is_nothing_to_verify(verify: Verifier) -> None:
    done = verify.run("log")
    assert done.exit_code == Exit.USAGE


# A process's own peak: what `wait4` reports has in it what the runner of the tests held when it forked.
PEAK_PROGRAM = """
import atexit, pathlib, re
from appliance.cli.main import run
atexit.register(lambda: print(re.search(r"VmHWM:\\s+(\\d+) kB", pathlib.Path("/proc/self/status").read_text())[1]))
run()
"""


def test_memory_does_not_grow_with_the_log(start_log_node: Start, verify: Verifier) -> None:
    """As a process of its own, because the runner of the tests holds the log."""

    def peak_bytes(count: int) -> int:
        log = SmallLog()
        while len(log.leaves) < count:
            log.put(f"key-{len(log.leaves):06}", b"v")
        environment = {**os.environ, **verify.environment, "XDG_CONFIG_HOME": str(verify.home / str(count))}
        arguments = ["verify", "log", "--url", start_log_node(log).url]
        done = subprocess.run(
            [sys.executable, "-c", PEAK_PROGRAM, *arguments], env=environment, stdout=subprocess.PIPE, check=True
        )
        return int(done.stdout.splitlines()[-1]) * 1024

    small, large = peak_bytes(3_000), peak_bytes(40_000)
    assert large < small + 12 * 1024 * 1024  # the temporary file's cache fills up to its bound; 40,000 leaves are more


def test_nothing_is_left_behind(
    start_log_node: Start, verify: Verifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "tmp"
    place.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place))
    assert verify.run("log", urls=[start_log_node(LOG).url]).exit_code == Exit.OK
    assert list(place.iterdir()) == []
    assert parse_checkpoint(parse_note(verify.memory.last().note).text).size == 700  # type: ignore[union-attr]
