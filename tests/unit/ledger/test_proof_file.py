"""Proof files: the specification's lines, what is no file, and each check failing by itself."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from notes_rig import FORGER, LOG, OTHER_LOG, WITNESSES, head_of, proof_of, signed, some_leaves

from appliance.adapters.ed25519 import SigningKey, verify
from appliance.ledger.cosignature import cosign
from appliance.ledger.note import (
    NOTE_BYTES_MAX,
    SignatureType,
    VerifierKey,
    VerifierKeyError,
    format_note,
    parse_note,
    with_signatures,
)
from appliance.ledger.proof_file import (
    PROOF_BYTES_MAX,
    CheckName,
    CheckResult,
    ProofFile,
    ProofMalformed,
    ProofReport,
    format_proof,
    parse_proof,
    verify_proof,
)

# The proof lines of c2sp.org/tlog-proof's example, whose checkpoint is abridged there.
SPEC_EXTRA = "YWdlLXYxLjIuMS1kYXJ3aW4tYXJtNjQudGFyLmd6kYXJ3aW4tYXJ"
SPEC_PROOF = f"""\
c2sp.org/tlog-proof@v1
extra {SPEC_EXTRA}
index 73894
gSKyXoYZUgZ6jduWYrkDOARinOMGJveXjgMkBTcdPlQ=
B95lDa8R83lS8n0eG+o0buTxRKQTYFi//1U8anccXmA=
EKNzoDWG8LGC0Yp9o+sv3qllpMP9uHQ9B20KNL+Q1zs=
RoopEkOdqkYqMB4MJXrbt/hMjOxsVn0IrWjpz1ZMMes=
AHCioX9nLjsrse6YhjRRmk1WUEirVOLLRoOQ6vfO5vk=

example.com/fancylog
109482
sFodV/vSp5O8n9a8QpW6PRY97tfOSW5bsc2Xl/EQi08=

— example.com/fancylog hI2DJw[...]1roloI=
"""
HASH_LINE = "gSKyXoYZUgZ6jduWYrkDOARinOMGJveXjgMkBTcdPlQ="

LEAVES = some_leaves(13)
INDEX = 5
KEY = LOG.verifier_key
WITNESS_KEYS = [one.verifier_key for one in WITNESSES]
NOW_S = 1_795_462_000
P, F, N = CheckResult.PASSED, CheckResult.FAILED, CheckResult.NOT_CHECKED


def cosigned(data: bytes, witnesses: Sequence[SigningKey]) -> bytes:
    note = parse_note(data)
    return format_note(
        with_signatures(note, (cosign(note.text, NOW_S, one.verifier_key, one.sign) for one in witnesses))
    )


CHECKPOINT = cosigned(signed(head_of(LEAVES)), WITNESSES[:2])
PROOF = proof_of(INDEX, LEAVES, CHECKPOINT)
DATA = format_proof(PROOF)


def report(
    data: bytes = DATA,
    leaf: bytes = LEAVES[INDEX],
    key: VerifierKey = KEY,
    witness_keys: Sequence[VerifierKey] = (),
    witnesses_min: int = 0,
) -> ProofReport:
    return verify_proof(data, leaf, key, verify, witness_keys=witness_keys, witnesses_min=witnesses_min)


def results(answer: ProofReport) -> list[CheckResult]:
    assert [check.name for check in answer.checks] == list(CheckName)
    assert all(check.reason for check in answer.checks)
    return [check.result for check in answer.checks]


def test_the_specifications_lines() -> None:
    proof = parse_proof(SPEC_PROOF.encode())
    assert (proof.leaf_index, len(proof.path)) == (73894, 5)
    assert proof.path[0].hex() == "8122b25e861952067a8ddb9662b9033804629ce30626f7978e032405371d3e54"
    assert proof.extra.startswith(b"age-v1.2.1-darwin-arm64.tar.gz")
    assert proof.checkpoint.startswith(b"example.com/fancylog\n109482\n")
    assert format_proof(proof) == SPEC_PROOF.encode()


@given(
    st.builds(
        ProofFile,
        st.integers(0, 2**63 - 1),
        st.lists(st.binary(min_size=32, max_size=32), max_size=63).map(tuple),
        st.binary(max_size=40),
        st.binary(max_size=40),
    )
)
def test_a_file_reads_back(proof: ProofFile) -> None:
    assert parse_proof(format_proof(proof)) == proof


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param("", "no empty line", id="empty"),
        pytest.param("c2sp.org/tlog-proof@v1\nindex 0\n", "no empty line", id="no checkpoint"),
        pytest.param("c2sp.org/tlog-proof@v2\nindex 0\n\n", "does not begin", id="another version"),
        pytest.param(" c2sp.org/tlog-proof@v1\nindex 0\n\n", "does not begin", id="space before"),
        pytest.param("c2sp.org/tlog-proof@v1\r\nindex 0\r\n\n\n", "does not begin", id="carriage returns"),
        pytest.param("c2sp.org/tlog-proof@v1\n\n", "no index line", id="no index"),
        pytest.param("c2sp.org/tlog-proof@v1\nindex 00\n\n", "no index line", id="leading zero"),
        pytest.param("c2sp.org/tlog-proof@v1\nindex -1\n\n", "no index line", id="negative"),
        pytest.param("c2sp.org/tlog-proof@v1\nindex  1\n\n", "no index line", id="two spaces"),
        pytest.param("c2sp.org/tlog-proof@v1\nindex\n\n", "no index line", id="no number"),
        pytest.param("c2sp.org/tlog-proof@v1\n5\n\n", "no index line", id="number alone"),
        pytest.param("c2sp.org/tlog-proof@v1\nextra AAAA\n\n", "no index line", id="extra alone"),
        pytest.param("c2sp.org/tlog-proof@v1\nindex 0\nextra AAAA\n\n", "no hash", id="extra behind the index"),
        pytest.param("c2sp.org/tlog-proof@v1\nextra \nindex 0\n\n", "extra line", id="empty extra"),
        pytest.param("c2sp.org/tlog-proof@v1\nextra AAA\nindex 0\n\n", "extra line", id="extra without padding"),
        pytest.param("c2sp.org/tlog-proof@v1\nextra AAAA\nextra AAAA\nindex 0\n\n", "no index line", id="extra twice"),
        pytest.param(f"c2sp.org/tlog-proof@v1\nindex 0\n{HASH_LINE[:-1]}\n\n", "no hash", id="hash without padding"),
        pytest.param(f"c2sp.org/tlog-proof@v1\nindex 0\n{HASH_LINE} \n\n", "no hash", id="space behind a hash"),
        pytest.param("c2sp.org/tlog-proof@v1\nindex 0\nAAAA\n\n", "no hash", id="short hash"),
        pytest.param(f"c2sp.org/tlog-proof@v1\nindex 0\n{(HASH_LINE + chr(10)) * 64}\n", "64 hashes", id="long path"),
        pytest.param("c2sp.org/tlog-proof@v1\nindex 0\nä\n\n", "ASCII", id="not ASCII"),
        pytest.param(DATA.decode() + "x" * PROOF_BYTES_MAX, "are the most", id="too long"),
    ],
)
def test_what_is_no_file(text: str, reason: str) -> None:
    with pytest.raises(ProofMalformed, match=reason):
        parse_proof(text.encode())
    assert results(report(text.encode())) == [F, N, N, N, N, N]


@pytest.mark.parametrize("size", [1, 2, 3, 8, 13, 300])
def test_a_proof_that_holds(size: int) -> None:
    leaves = some_leaves(size)
    head = head_of(leaves)
    for index in {0, size // 2, size - 1}:
        answer = report(format_proof(proof_of(index, leaves, signed(head))), leaves[index])
        assert results(answer) == [P, P, P, P, N, P]
        assert (answer.holds, answer.checkpoint) == (True, head)


def test_what_an_answer_rests_on() -> None:
    alone = report().assumptions
    witnessed = report(witness_keys=WITNESS_KEYS, witnesses_min=2).assumptions
    assert "verifier keys" in alone[0]
    assert alone[:-1] == witnessed[:-1]
    assert "no witness was asked" in alone[-1]
    assert "witnesses that cosigned" in witnessed[-1]
    assert report(leaf=b"another").assumptions == ()


@pytest.mark.parametrize(
    ("keys", "witnesses_min", "result", "reason"),
    [
        (WITNESS_KEYS, 0, N, "no cosignatures were asked for"),
        (WITNESS_KEYS, 1, P, "2 of 3 known witnesses have cosigned; 1 are asked for"),
        (WITNESS_KEYS, 2, P, "2 of 3"),
        (WITNESS_KEYS, 3, F, "2 of 3 known witnesses have cosigned; 3 are asked for"),
        (WITNESS_KEYS[2:], 1, F, "0 of 1"),
        ([], 1, F, "0 of 0"),
    ],
)
def test_witnesses(keys: list[VerifierKey], witnesses_min: int, result: CheckResult, reason: str) -> None:
    answer = report(witness_keys=keys, witnesses_min=witnesses_min)
    assert results(answer) == [P, P, P, P, result, P]
    assert reason in answer.checks[4].reason
    assert answer.holds is (result is not F)


def test_one_key_under_two_names_is_one_witness() -> None:
    twin = SigningKey("twin.example", SignatureType.COSIGNATURE_V1, bytes([0]) * 32)
    data = format_proof(PROOF._replace(checkpoint=cosigned(signed(head_of(LEAVES)), [WITNESSES[0], twin])))
    answer = report(data, witness_keys=[WITNESS_KEYS[0], twin.verifier_key], witnesses_min=2)
    assert answer.checks[4].reason.startswith("1 of 2")
    assert not answer.holds


def test_a_wrong_cosignature_is_told_from_a_missing_one() -> None:
    other = cosign("another text\n", NOW_S, WITNESS_KEYS[2], WITNESSES[2].sign)
    note = with_signatures(parse_note(CHECKPOINT), [other])
    answer = report(
        format_proof(PROOF._replace(checkpoint=format_note(note))), witness_keys=WITNESS_KEYS, witnesses_min=1
    )
    assert results(answer) == [P, P, P, P, F, P]
    assert "witness2.example" in answer.checks[4].reason
    assert "not over this text" in answer.checks[4].reason


def test_a_key_of_the_wrong_type_is_no_answer() -> None:
    with pytest.raises(VerifierKeyError):
        report(key=WITNESS_KEYS[0])
    with pytest.raises(VerifierKeyError):
        report(witness_keys=[KEY], witnesses_min=1)


BAD_HEAD = head_of(LEAVES)._replace(root=bytes(32))
FAILURES = {
    "a checkpoint of another log": (
        format_proof(PROOF._replace(checkpoint=signed(head_of(LEAVES, OTHER_LOG), OTHER_LOG))),
        LEAVES[INDEX],
        [P, P, F, N, N, P],
        "of the log 'example.com/other', and the key of 'example.com/log'",
    ),
    "a checkpoint by another key of that name": (
        format_proof(PROOF._replace(checkpoint=signed(head_of(LEAVES), FORGER))),
        LEAVES[INDEX],
        [P, P, P, F, N, P],
        "no signature by a known key",
    ),
    "a checkpoint changed after it was signed": (
        DATA.replace(b"\n13\n", b"\n14\n"),
        LEAVES[INDEX],
        [P, P, P, F, N, P],  # this path is as long in either tree: the size is held by the signature alone
        "is not over this text",
    ),
    "no checkpoint": (
        format_proof(PROOF._replace(checkpoint=b"nothing")),
        LEAVES[INDEX],
        [P, F, N, N, N, N],
        "no empty line",
    ),
    "a note that is no checkpoint": (
        format_proof(PROOF._replace(checkpoint="text\n\n— a AAAAAAA=\n".encode())),
        LEAVES[INDEX],
        [P, F, N, N, N, N],
        "at least three lines",
    ),
    "another entry": (DATA, LEAVES[INDEX + 1], [P, P, P, P, N, F], "leads to another root"),
    "another place": (DATA.replace(b"index 5\n", b"index 6\n"), LEAVES[INDEX], [P, P, P, P, N, F], "another root"),
    "a place beyond the tree": (
        DATA.replace(b"index 5\n", b"index 13\n"),
        LEAVES[INDEX],
        [P, P, P, P, N, F],
        "is none to index 13 of a tree of 13 entries",
    ),
    "a path too short": (
        format_proof(PROOF._replace(path=PROOF.path[:-1])),
        LEAVES[INDEX],
        [P, P, P, P, N, F],
        "a path of 3 hashes is none",
    ),
    "a path too long": (
        format_proof(PROOF._replace(path=(*PROOF.path, bytes(32)))),
        LEAVES[INDEX],
        [P, P, P, P, N, F],
        "a path of 5 hashes is none",
    ),
    "a path in another order": (
        format_proof(PROOF._replace(path=PROOF.path[::-1])),
        LEAVES[INDEX],
        [P, P, P, P, N, F],
        "another root",
    ),
    "a signed checkpoint of another tree": (
        format_proof(PROOF._replace(checkpoint=signed(BAD_HEAD))),
        LEAVES[INDEX],
        [P, P, P, P, N, F],
        "another root",
    ),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_proof_that_does_not_hold_says_why(name: str) -> None:
    data, leaf, expected, reason = FAILURES[name]
    answer = report(data, leaf)
    assert results(answer) == expected
    assert not answer.holds
    assert answer.checkpoint is None
    first_failed = next(check for check in answer.checks if check.result is F)
    assert reason in first_failed.reason


def test_each_changed_byte_is_refused() -> None:
    """Whatever is in the file but signatures of witnesses that nobody asked for."""
    data = format_proof(PROOF._replace(checkpoint=signed(head_of(LEAVES))))
    for at in range(len(data)):
        for bit in range(8):
            changed = data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]
            assert not report(changed).holds, f"byte {at}, bit {bit}"


def test_extra_data_is_vouched_for_by_nobody() -> None:
    data = format_proof(PROOF._replace(extra=b"anything"))
    assert report(data).holds
    assert parse_proof(data).extra == b"anything"


def test_a_note_as_large_as_may_be_fits_a_file() -> None:
    proof = ProofFile(0, (bytes(32),) * 63, bytes(NOTE_BYTES_MAX))
    assert len(format_proof(proof)) < PROOF_BYTES_MAX
