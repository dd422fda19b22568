"""`verify KEY` against honest and hostile nodes: what it refuses, and by which name."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import msgspec
import pytest
from cli_standin import refused_url
from log_standin import (
    FORGER,
    OTHER_LOG,
    WITNESS,
    Fault,
    LogNode,
    Reply,
    body,
    flipped,
    on,
    problem,
    salt_of,
    some_log,
)
from verify_rig import Verifier

from appliance.cli import shapes
from appliance.cli.exits import Exit
from appliance.ledger.note import format_verifier_key
from appliance.ledger.proof_file import CheckName, parse_proof

Start = Callable[..., LogNode]
LOG = some_log()
KEY = "key-007"
SIZE = len(LOG.leaves)
HEAD = LOG.heads[KEY]
OTHER_HEAD = LOG.heads["key-014"]
OLDER = HEAD.prev_leaf_index or 0

PROOF, VALUE = "/log/proof/file/", "/kv/"


def checkpoint_in(proof: bytes, change: Callable[[bytes], bytes]) -> bytes:
    head, _, checkpoint = proof.partition(b"\n\n")
    return head + b"\n\n" + change(checkpoint)


def proof_with(checkpoint: bytes, leaf_index: int = HEAD.leaf_index, leaf: bytes = b"") -> Callable[[Reply], Reply]:
    return body(lambda _: LOG.proof_file(leaf_index, SIZE, checkpoint, leaf))


def resized(checkpoint: bytes) -> bytes:
    return checkpoint.replace(f"\n{SIZE}\n".encode(), f"\n{SIZE + 1}\n".encode())


HOSTILE = [
    pytest.param(
        on(PROOF, body(lambda proof: checkpoint_in(proof, resized))),
        (Exit.FORGED, "checkpoint_forged", "is not over this text"),
        id="a forged checkpoint: another size under the same signature",
    ),
    pytest.param(
        on(PROOF, body(lambda proof: checkpoint_in(proof, lambda note: flipped(note, len(note) - 20)))),
        (Exit.FORGED, "checkpoint_forged", "is not over this text"),
        id="a forged signature",
    ),
    pytest.param(
        on(PROOF, proof_with(LOG.checkpoint(SIZE, FORGER))),
        (Exit.FORGED, "checkpoint_unsigned", "no signature by a known key"),
        id="another key of the same name has signed",
    ),
    pytest.param(
        on(PROOF, proof_with(LOG.checkpoint(SIZE, OTHER_LOG))),
        (Exit.WRONG_LOG, "wrong_origin", OTHER_LOG.verifier_key.name),
        id="the checkpoint of another log",
    ),
    pytest.param(
        on(PROOF, body(lambda proof: checkpoint_in(proof, lambda _: b"\xff\x00"))),
        (Exit.FORGED, "checkpoint_malformed", "not UTF-8"),
        id="a checkpoint of garbage",
    ),
    pytest.param(
        on(PROOF, proof_with(LOG.checkpoint(SIZE), OTHER_HEAD.leaf_index)),
        (Exit.WRONG_PROOF, "wrong_key", "'key-014', and 'key-007' was asked for"),
        id="a proof for another key",
    ),
    pytest.param(
        on(PROOF, proof_with(LOG.checkpoint(SIZE), OTHER_HEAD.leaf_index, LOG.leaves[HEAD.leaf_index])),
        (Exit.WRONG_PROOF, "wrong_path", "leads to another root"),
        id="the right entry with another one's path",
    ),
    pytest.param(
        on(PROOF, proof_with(LOG.checkpoint(SIZE), OLDER)),
        (Exit.WRONG_PROOF, "wrong_version", f"the proof is for put version {HEAD.version - 1}, leaf {OLDER}"),
        id="a proof for an older version",
    ),
    pytest.param(
        on(PROOF, body(lambda _: b"\x00garbage" * 100)),
        (Exit.WRONG_PROOF, "proof_malformed", "no proof file"),
        id="a proof of garbage",
    ),
    pytest.param(
        on(PROOF, body(lambda _: b"x" * 2_000_001)),
        (Exit.WRONG_PROOF, "proof_malformed", "more than 2000000 bytes"),
        id="a proof without end",
    ),
    pytest.param(
        on(PROOF, body(lambda proof: proof[:-10])),
        (Exit.FORGED, "checkpoint_malformed", "does not end with"),
        id="a truncated proof",
    ),
    pytest.param(
        on(PROOF, body(lambda proof: proof.replace(b"extra ", b"extra AAAA"))),
        (Exit.WRONG_PROOF, "proof_malformed", "not JSON"),
        id="a proof whose extra data are garbage",
    ),
    pytest.param(
        on(VALUE, body(lambda value: value + b"!")),
        (Exit.WRONG_PROOF, "wrong_value", "are not the value of the entry"),
        id="a changed value",
    ),
    pytest.param(
        on(VALUE, lambda reply: replace(reply, headers={**reply.headers, "Scribe-Salt": salt_of(1).hex()})),
        (Exit.WRONG_PROOF, "wrong_value", "are not the value of the entry"),
        id="a changed salt",
    ),
    pytest.param(
        on(VALUE, lambda reply: replace(reply, headers={**reply.headers, "Scribe-Salt": "00"})),
        (Exit.WRONG_PROOF, "wrong_value", "without version, leaf index and salt"),
        id="a short salt",
    ),
    pytest.param(
        on(VALUE, lambda reply: replace(reply, headers={})),
        (Exit.WRONG_PROOF, "wrong_value", "without version, leaf index and salt"),
        id="a value without headers",
    ),
    pytest.param(
        on(VALUE, lambda reply: replace(reply, headers={**reply.headers, "ETag": '"99"'})),
        (Exit.WRONG_PROOF, "wrong_version", "version 99"),
        id="a value with another version",
    ),
    pytest.param(
        on(VALUE, lambda _: problem("not_found")),
        (Exit.WRONG_PROOF, "wrong_version", "the value that is answered is no value"),
        id="a value that is hidden",
    ),
    pytest.param(
        on(PROOF, lambda _: problem("not_found")),
        (Exit.WRONG_PROOF, "proof_malformed", "no proof of it"),
        id="a proof that is hidden",
    ),
    pytest.param(
        on(PROOF, lambda _: problem("verification_failed")),
        (Exit.DIVERGED, "verification_failed", "does not match its proof"),
        id="a node that finds itself damaged",
    ),
    pytest.param(
        on(PROOF, lambda reply: replace(reply, status=302, headers={"Location": "http://127.0.0.1:1/"})),
        (Exit.OK, "", ""),
        id="a redirection, which is not followed: the proof is in the body",
    ),
]


@pytest.mark.parametrize(("fault", "expected"), HOSTILE)
def test_a_hostile_node_is_refused_by_name(
    fault: Fault, expected: tuple[Exit, str, str], start_log_node: Start, verify: Verifier
) -> None:
    done = verify.run(KEY, urls=[start_log_node(LOG, fault=fault).url])
    exit_code, code, words = expected
    assert (done.exit_code, done.code) == (exit_code, code), done.stderr
    assert words in done.detail
    if done.answer:
        answer = msgspec.convert(done.answer, shapes.Verified)
        assert answer.verified is (exit_code is Exit.OK)
        assert (answer.assumptions == []) is not answer.verified
        failed = [check for check in answer.checks if check.result == "failed"]
        assert [check.reason for check in failed][:1] == [done.detail][: len(failed)]


def test_an_honest_node_passes_every_check(start_log_node: Start, verify: Verifier) -> None:
    node = start_log_node(LOG)
    done = verify.run(KEY, urls=[node.url])
    assert done.exit_code == Exit.OK, done.stderr
    answer = msgspec.convert(done.answer, shapes.Verified)
    assert answer.verified
    assert answer.leaf is not None
    assert (answer.leaf.key, answer.leaf.version, answer.leaf.leaf_index) == (KEY, HEAD.version, HEAD.leaf_index)
    assert (answer.tree_size, answer.checkpoint) == (SIZE, LOG.checkpoint(SIZE).decode())
    names = [*(str(name) for name in CheckName), "leaf", "version", "value", "consistency"]
    assert [check.name for check in answer.checks] == names
    assert {name for name, result in done.checks.items() if result != "passed"} == {"witnesses", "consistency"}
    assert any("latest version" in text for text in answer.assumptions)
    assert node.requests == [f"/kv/{KEY}", f"/log/proof/file/{KEY}"]
    again = verify.run(KEY, urls=[node.url])
    assert again.checks["consistency"] == "passed"
    assert again.answer["remembered"] == answer.checkpoint


@pytest.mark.parametrize("words", [["kept/ü"], ["key", "kept/ü"], ["--", "kept/ü"]], ids=str)
def test_a_key_is_given_alone_or_behind_the_word(words: list[str], start_log_node: Start, verify: Verifier) -> None:
    verify.environment["APPLIANCE_URL"] = start_log_node(LOG).url
    result = verify.invoke(*words)
    assert result.exit_code == Exit.OK, result.stderr
    assert "kept/ü" in result.stdout
    assert "what this rests on" in result.stdout


def test_a_deleted_key_is_not_there_and_that_is_proven(start_log_node: Start, verify: Verifier) -> None:
    done = verify.run("gone", urls=[start_log_node(LOG).url])
    assert (done.exit_code, done.code) == (Exit.NOT_FOUND, "not_found")
    assert "deleted by leaf 3, which is proven" in done.detail
    assert done.answer["verified"] is True
    assert done.checks["value"] == "not_checked"


def test_a_deleted_key_that_still_has_a_value_is_refused(start_log_node: Start, verify: Verifier) -> None:
    headers = {"ETag": '"1"', "Scribe-Leaf-Index": "0", "Scribe-Salt": salt_of(0).hex()}

    def revive(path: str, reply: Reply) -> Reply:
        return Reply(body=b"1", headers=headers) if path.startswith(VALUE) else reply

    done = verify.run("gone", urls=[start_log_node(LOG, fault=revive).url])
    assert (done.exit_code, done.code) == (Exit.WRONG_PROOF, "wrong_version")


def test_a_key_that_was_never_written_is_not_found(start_log_node: Start, verify: Verifier) -> None:
    done = verify.run("never", urls=[start_log_node(LOG).url])
    assert (done.exit_code, done.code) == (Exit.NOT_FOUND, "not_found")
    assert done.error is not None
    assert "cannot be proven" in done.error.hint


def test_a_key_that_is_written_meanwhile_is_read_as_of_its_proof(start_log_node: Start, verify: Verifier) -> None:
    log = some_log(300)
    node = start_log_node(log)

    def write_between(path: str, reply: Reply) -> Reply:
        if path == f"/kv/{KEY}" and len(log.leaves) == 300:
            log.put(KEY, b"newer")
            node.size = node.applied = len(log.leaves)
        return reply

    node.fault = write_between
    done = verify.run(KEY, urls=[node.url])
    assert done.exit_code == Exit.OK, done.stderr
    assert done.answer["leaf"]["leaf_index"] == 300
    assert node.requests == [f"/kv/{KEY}", f"/log/proof/file/{KEY}", f"/kv/{KEY}"]


def test_a_key_that_is_deleted_meanwhile_is_proven_deleted(start_log_node: Start, verify: Verifier) -> None:
    log = some_log(300)
    node = start_log_node(log)

    def delete_between(path: str, reply: Reply) -> Reply:
        if path == f"/kv/{KEY}" and len(log.leaves) == 300:
            log.delete(KEY)
            node.size = node.applied = len(log.leaves)
        return reply

    node.fault = delete_between
    done = verify.run(KEY, urls=[node.url])
    assert (done.exit_code, done.answer["verified"]) == (Exit.NOT_FOUND, True), done.stderr


def test_witnesses_that_are_asked_for_must_have_cosigned(start_log_node: Start, verify: Verifier) -> None:
    key = format_verifier_key(WITNESS.verifier_key)
    plain = verify.run(KEY, "--witness-key", key, urls=[start_log_node(LOG).url])
    assert (plain.exit_code, plain.code) == (Exit.FORGED, "witnesses_missing")
    assert "0 of 1 known witnesses" in plain.detail
    cosigned = start_log_node(LOG, cosigned=True)
    done = verify.run(KEY, "--witness-key", key, urls=[cosigned.url])
    assert (done.exit_code, done.checks["witnesses"]) == (Exit.OK, "passed")
    assert any("do not all work for the log" in text for text in done.answer["assumptions"])


@pytest.mark.parametrize(
    ("words", "why"),
    [
        pytest.param(["--verifier-key", "nonsense"], "a name, 8 lower-case hex digits", id="no key"),
        pytest.param(
            ["--verifier-key", format_verifier_key(WITNESS.verifier_key)], "type 0x01 is needed", id="witness"
        ),
        pytest.param(["--witness-key", format_verifier_key(OTHER_LOG.verifier_key)], "type 0x04 is needed", id="log"),
        pytest.param(["--witnesses", "1"], "1 witnesses are asked for, and 0 keys given", id="no witness"),
    ],
)
def test_keys_that_cannot_be_used_are_errors_of_usage(words: list[str], why: str, verify: Verifier) -> None:
    done = verify.run(KEY, *words, urls=[refused_url()])
    assert done.exit_code == Exit.USAGE
    assert why in done.detail


def test_without_a_verifier_key_nothing_is_verified(start_log_node: Start, verify: Verifier) -> None:
    del verify.environment["APPLIANCE_VERIFIER_KEY"]
    node = start_log_node(LOG)
    done = verify.run(KEY, urls=[node.url])
    assert done.exit_code == Exit.USAGE
    assert "no verifier key is known" in done.detail
    assert node.requests == []


def test_a_proof_is_kept_for_others(start_log_node: Start, verify: Verifier) -> None:
    kept = verify.home / "proof"
    assert verify.run(KEY, "--save", str(kept), urls=[start_log_node(LOG).url]).exit_code == Exit.OK
    assert parse_proof(kept.read_bytes()).leaf_index == HEAD.leaf_index
    kept.unlink()
    bad = start_log_node(LOG, fault=on(VALUE, body(lambda value: value + b"!")))
    assert verify.run(KEY, "--save", str(kept), urls=[bad.url]).exit_code == Exit.WRONG_PROOF
    assert not kept.exists()


SLOW = [
    pytest.param(on(PROOF, lambda reply: replace(reply, delay_s=3.0)), id="an answer that does not come"),
    pytest.param(on(PROOF, lambda reply: replace(reply, drip_s=0.05)), id="an answer that comes drop by drop"),
    pytest.param(lambda _path, _reply: problem("no_quorum"), id="no quorum"),
    pytest.param(on(PROOF, lambda _: problem("not_published")), id="nothing published yet"),
]


@pytest.mark.parametrize("fault", SLOW)
def test_who_does_not_answer_in_time_is_unavailable(fault: Fault, start_log_node: Start, verify: Verifier) -> None:
    began_s = time.monotonic()
    done = verify.run(KEY, urls=[start_log_node(LOG, fault=fault).url], timeout_s=2.0)
    assert done.exit_code == Exit.UNAVAILABLE, done.stderr
    assert time.monotonic() - began_s < 10.0
    assert verify.remembered_size == 0


def test_another_node_answers_for_one_that_is_down(start_log_node: Start, verify: Verifier) -> None:
    assert verify.run(KEY, urls=[refused_url(), start_log_node(LOG).url]).exit_code == Exit.OK
