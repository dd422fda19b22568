"""Witnessing: the specification's request and codes, and a witness against a log that lies to it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from notes_rig import (
    FORGER,
    LOG,
    LOG_VERIFIER,
    OTHER_LOG,
    SOFA_LINE,
    SOFA_TEXT,
    SOFA_WITNESS_LINE,
    WITNESS_VERIFIERS,
    WITNESSES,
    built,
    head_of,
    signed,
    some_leaves,
)

from appliance.adapters.ed25519 import verify
from appliance.ledger.checkpoint import Checkpoint
from appliance.ledger.cosignature import cosign, timestamp_of
from appliance.ledger.merkle import EMPTY_ROOT, consistency_proof
from appliance.ledger.note import (
    NOTE_BYTES_MAX,
    Ed25519Verifier,
    NoteMalformed,
    NoteNotSigned,
    Signature,
    SignatureWrong,
    format_signature,
    parse_note,
)
from appliance.ledger.witnessing import (
    REQUEST_BYTES_MAX,
    STATUS,
    AddCheckpoint,
    Answer,
    Decision,
    RequestMalformed,
    TreeHead,
    Verdict,
    answer,
    decide,
    format_request,
    parse_cosignatures,
    parse_last_size,
    parse_request,
)

# The example of c2sp.org/tlog-witness.
SPEC_REQUEST = (
    """\
old 20852014
PlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw=
jrJZDmY8Y7SyJE0MWLpLozkIVMSMZcD5kvuKxPC3swk=
5+pKlUdi2LeF/BcMHBn+Ku6yhPGNCswZZD1X/6QgPd8=
/6WVhPs2CwSsb5rYBH5cjHV/wSmA79abXAwhXw3Kj/0=

"""
    + SOFA_TEXT
    + "\n"
    + SOFA_LINE
    + "— example.com/behind-the-sofa opLqBQsREYCgu6xQkYQwJr9fo45a62DN9EdmHXnZdXNqlcVGlCum2Wks+49/V6267UEjw6QUXTS5Rov"
    "nzv++qbSzm9Q=\n"
)
SPEC_ANSWER = """\
— witness.example/w1 CMp+6LWBU0anHGH5aNDTJkH/gj79sG+T6+iP2ThYN5krrDJbR1HDnucjL39QsZTSvVjyQLrdk3DXDqI5G2HgLatVs0pWh6Up69\
HVOw==
— witness.example/w1 I7rEps0pvK2UqkS2gSpVUDhrhVtQV9lgF6pRrWAvjJHjyWpW7VcE3SiOlVlbQNt64vWhO+DlkL0+UfzuOBMh9ChdMkP1vi/lCA\
smlw==
— witness.example/w2 AWui8Sk55XjYLOijihBjhqEH6nS1ndDymE0a+6idX7pLcnoB+dhnz0854aLZgrrKbYKA7nC3HNJhm/kWl7oJlqU3rXXvpysAdy\
P3wQ==
"""
HASH_LINE = "PlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw="
ORIGIN = LOG.verifier_key.name
LEAVES = some_leaves(20)
FORK = [*LEAVES[:5], b"another", *LEAVES[6:]]
LOGS = {ORIGIN: [LOG_VERIFIER]}
NOW_S = 1_795_462_000


def head(size: int, leaves: list[bytes] = LEAVES) -> TreeHead:
    checkpoint = head_of(leaves[:size])
    return TreeHead(checkpoint.size, checkpoint.root)


def proof(old_size: int, new_size: int, leaves: list[bytes] = LEAVES) -> tuple[bytes, ...]:
    return tuple(consistency_proof(old_size, new_size, built(leaves[:new_size])[1]))


def request(old_size: int, new_size: int, leaves: list[bytes] = LEAVES) -> AddCheckpoint:
    hashes = proof(old_size, new_size, leaves) if old_size <= new_size else ()
    return AddCheckpoint(old_size, hashes, signed(head_of(leaves[:new_size])))


def decided(submitted: AddCheckpoint, last: TreeHead) -> Decision:
    return decide(format_request(submitted), LOGS, lambda _: last)


def test_the_specifications_request() -> None:
    submitted = parse_request(SPEC_REQUEST.encode())
    assert (submitted.old_size, len(submitted.proof)) == (20852014, 4)
    assert parse_note(submitted.checkpoint).text == SOFA_TEXT
    assert format_request(submitted) == SPEC_REQUEST.encode()
    decision = decide(SPEC_REQUEST.encode(), LOGS, lambda _: TreeHead())
    assert decision.verdict is Verdict.LOG_UNKNOWN


def test_the_specifications_answer_reads_as_signature_lines() -> None:
    note = parse_note(f"{SOFA_TEXT}\n{SPEC_ANSWER}".encode())
    assert [one.name for one in note.signatures] == ["witness.example/w1", "witness.example/w1", "witness.example/w2"]
    assert "".join(map(format_signature, note.signatures)) == SPEC_ANSWER


@given(
    st.builds(
        AddCheckpoint,
        st.integers(0, 2**63 - 1),
        st.lists(st.binary(min_size=32, max_size=32), max_size=63).map(tuple),
        st.binary(max_size=40),
    )
)
def test_a_request_reads_back(submitted: AddCheckpoint) -> None:
    assert parse_request(format_request(submitted)) == submitted


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param("", "no empty line", id="empty"),
        pytest.param("old 0\n", "no empty line", id="no checkpoint"),
        pytest.param("\n\n", "no line with the old size", id="no old size"),
        pytest.param("old 00\n\n", "no line with the old size", id="leading zero"),
        pytest.param("old  0\n\n", "no line with the old size", id="two spaces"),
        pytest.param("old -1\n\n", "no line with the old size", id="negative"),
        pytest.param("old 0 \n\n", "no line with the old size", id="space behind"),
        pytest.param("Old 0\n\n", "no line with the old size", id="capital"),
        pytest.param("0\n\n", "no line with the old size", id="number alone"),
        pytest.param(f"old {2**63}\n\n", "no line with the old size", id="too large"),
        pytest.param(f"old 1\n{HASH_LINE[:-1]}\n\n", "no hash", id="hash without padding"),
        pytest.param("old 1\nAAAA\n\n", "no hash", id="short hash"),
        pytest.param(f"old 1\n{(HASH_LINE + chr(10)) * 64}\n", "64 hashes", id="long proof"),
        pytest.param("old 1\nä\n\n", "ASCII", id="not ASCII"),
        pytest.param("old 1\r\n\r\n", "no empty line", id="carriage returns"),
        pytest.param("old 0\n\n" + "x" * REQUEST_BYTES_MAX, "are the most", id="too long"),
    ],
)
def test_what_is_no_request(text: str, reason: str) -> None:
    with pytest.raises(RequestMalformed, match=reason):
        parse_request(text.encode())
    decision = decide(text.encode(), LOGS, lambda _: TreeHead())
    assert (decision.verdict, decision.checkpoint) == (Verdict.MALFORMED, None)
    assert answer(decision).status == 400


DECISIONS = {
    "the first of a log": (request(0, 5), TreeHead(), Verdict.COSIGN),
    "the first, of an empty log": (request(0, 0), TreeHead(), Verdict.COSIGN),
    "a larger one": (request(5, 20), head(5), Verdict.COSIGN),
    "the same again": (request(5, 5), head(5), Verdict.COSIGN),
    "an old size above the new": (request(6, 5), head(6), Verdict.SIZE_SHRINKS),
    "an old size above the new, and not the last": (request(6, 5), head(2), Verdict.SIZE_SHRINKS),
    "a rollback under the right old size": (request(5, 5), head(20), Verdict.SIZE_STALE),
    "an old size that is behind": (request(5, 20), head(8), Verdict.SIZE_STALE),
    "an old size that is ahead": (request(8, 20), head(5), Verdict.SIZE_STALE),
    "an old size of a log that was never seen": (request(5, 20), TreeHead(), Verdict.SIZE_STALE),
    "none for a log that was seen": (request(0, 20), head(5), Verdict.SIZE_STALE),
    "a fork at the same size": (request(20, 20, FORK), head(20), Verdict.ROOT_DIFFERS),
    "an empty log with a root": (
        AddCheckpoint(0, (), signed(Checkpoint(ORIGIN, 0, bytes(32)))),
        TreeHead(),
        Verdict.ROOT_DIFFERS,
    ),
    "a fork at a larger size": (request(8, 20, FORK), head(8), Verdict.INCONSISTENT),
    "no proof": (request(5, 20)._replace(proof=()), head(5), Verdict.INCONSISTENT),
    "a proof cut short": (request(5, 20)._replace(proof=proof(5, 20)[:-1]), head(5), Verdict.INCONSISTENT),
    "a proof of other sizes": (request(5, 20)._replace(proof=proof(5, 19)), head(5), Verdict.INCONSISTENT),
    "a proof where none is needed": (request(5, 5)._replace(proof=(bytes(32),)), head(5), Verdict.INCONSISTENT),
    "a proof from nothing": (request(0, 5)._replace(proof=(bytes(32),)), TreeHead(), Verdict.INCONSISTENT),
    "a log that is not known": (
        AddCheckpoint(0, (), signed(head_of(LEAVES, OTHER_LOG), OTHER_LOG)),
        TreeHead(),
        Verdict.LOG_UNKNOWN,
    ),
    "a forger": (AddCheckpoint(0, (), signed(head_of(LEAVES), FORGER)), TreeHead(), Verdict.NOT_SIGNED),
    "a wrong signature": (
        AddCheckpoint(0, (), signed(head_of(LEAVES)).replace(b"\n20\n", b"\n21\n")),
        TreeHead(),
        Verdict.NOT_SIGNED,
    ),
    "a note that is none": (AddCheckpoint(0, (), signed(head_of(LEAVES))[:-1]), TreeHead(), Verdict.MALFORMED),
    "a note that is no checkpoint": (
        AddCheckpoint(0, (), f"text\n\n{SOFA_LINE}".encode()),
        TreeHead(),
        Verdict.MALFORMED,
    ),
}


@pytest.mark.parametrize("name", DECISIONS)
def test_decisions(name: str) -> None:
    submitted, last, verdict = DECISIONS[name]
    decision = decided(submitted, last)
    assert decision.verdict is verdict, decision.reason
    assert bool(decision.text) is (verdict is Verdict.COSIGN)
    if verdict is Verdict.COSIGN:
        assert decision.text == parse_note(submitted.checkpoint).text
        assert decision.checkpoint is not None
    early = verdict in (Verdict.MALFORMED, Verdict.LOG_UNKNOWN, Verdict.NOT_SIGNED)
    assert (decision.checkpoint is None) is early, "only what its log has signed is evidence"


def test_every_decision_is_tried_and_has_its_code() -> None:
    assert {verdict for _, _, verdict in DECISIONS.values()} == set(Verdict) == set(STATUS)
    assert sorted(STATUS.values()) == [200, 400, 400, 403, 404, 409, 409, 422]


def test_the_answer_to_an_old_size_that_is_not_the_last_says_the_last() -> None:
    stale = answer(decided(request(5, 20), head(8)))
    assert stale == Answer(409, "text/x.tlog.size", b"8\n")
    assert parse_last_size(stale) == 8
    forked = answer(decided(request(20, 20, FORK), head(20)))
    assert (forked.status, forked.content_type) == (409, "text/plain; charset=utf-8")
    assert parse_last_size(forked) is None, "the old size was right: it is of no use to try again"


@pytest.mark.parametrize(
    ("reply", "size"),
    [
        (Answer(409, "text/x.tlog.size", b"0\n"), 0),
        (Answer(409, "text/x.tlog.size", b"50\n"), 50),
        (Answer(409, "text/x.tlog.size", b"50"), None),
        (Answer(409, "text/x.tlog.size", b"050\n"), None),
        (Answer(409, "text/x.tlog.size", b"50\n\n"), None),
        (Answer(409, "text/x.tlog.size", b"\xff\n"), None),
        (Answer(409, "text/x.tlog.size", b""), None),
        (Answer(409, "text/x.tlog.size; charset=utf-8", b"50\n"), None),
        (Answer(409, "text/plain", b"50\n"), None),
        (Answer(200, "text/x.tlog.size", b"50\n"), None),
    ],
)
def test_sizes_that_witnesses_answer(reply: Answer, size: int | None) -> None:
    assert parse_last_size(reply) == size


def test_a_log_may_have_several_keys() -> None:
    logs = {ORIGIN: [Ed25519Verifier(FORGER.verifier_key, verify), LOG_VERIFIER]}
    for key in (LOG, FORGER):
        submitted = AddCheckpoint(0, (), signed(head_of(LEAVES), key))
        assert decide(format_request(submitted), logs, lambda _: TreeHead()).verdict is Verdict.COSIGN


def cosignature(text: str, witness: int = 0) -> Signature:
    key = WITNESSES[witness]
    return cosign(text, NOW_S, key.verifier_key, key.sign)


def test_a_log_gets_its_cosignature() -> None:
    decision = decided(request(5, 20), head(5))
    reply = answer(decision, [cosignature(decision.text)])
    assert (reply.status, reply.body[:4]) == (200, "— ".encode())
    (received,) = parse_cosignatures(reply.body, decision.text, WITNESS_VERIFIERS)
    assert (received.name, timestamp_of(received)) == ("witness0.example", NOW_S)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        pytest.param("", NoteMalformed, id="empty"),
        pytest.param("\n", NoteMalformed, id="empty line"),
        pytest.param("cosigned\n", NoteMalformed, id="prose"),
        pytest.param("\n" + format_signature(cosignature(SOFA_TEXT)), NoteMalformed, id="empty line before"),
        pytest.param(f"{SOFA_TEXT}\n{format_signature(cosignature(SOFA_TEXT))}", NoteMalformed, id="a whole note"),
        pytest.param(SOFA_WITNESS_LINE, NoteNotSigned, id="a witness that is not known"),
        pytest.param(format_signature(cosignature(SOFA_TEXT + "more\n")), SignatureWrong, id="over another text"),
        pytest.param(
            format_signature(cosignature(SOFA_TEXT)) + format_signature(cosignature("x\n", 1)),
            SignatureWrong,
            id="one right, one wrong",
        ),
    ],
)
def test_an_answer_without_a_cosignature(body: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        parse_cosignatures(body.encode(), SOFA_TEXT, WITNESS_VERIFIERS)


def test_cosignatures_by_others_are_passed_over() -> None:
    body = SOFA_WITNESS_LINE + format_signature(cosignature(SOFA_TEXT, 1))
    assert parse_cosignatures(body.encode(), SOFA_TEXT, WITNESS_VERIFIERS) == (cosignature(SOFA_TEXT, 1),)


@given(st.data())
def test_a_witness_never_cosigns_two_trees_of_which_one_does_not_continue_the_other(data: st.DataObject) -> None:
    """Whatever order a log submits checkpoints of two histories in, those that pass are of one."""
    last = TreeHead()
    passed: list[Checkpoint] = []
    for _ in range(data.draw(st.integers(1, 6))):
        history = data.draw(st.sampled_from([LEAVES, FORK]))
        new_size = data.draw(st.integers(0, 20))
        old_size = data.draw(st.one_of(st.just(last.size), st.integers(0, 20)))
        submitted = request(old_size, new_size, history)
        decision = decided(submitted, last)
        if decision.verdict is Verdict.COSIGN:
            assert decision.checkpoint is not None
            passed.append(decision.checkpoint)
            last = TreeHead(decision.checkpoint.size, decision.checkpoint.root)
    assert [one.size for one in passed] == sorted(one.size for one in passed)
    assert any(all(one.root == head(one.size, history).root for one in passed) for history in (LEAVES, FORK))


def test_a_request_as_large_as_may_be_is_read() -> None:
    submitted = AddCheckpoint(2**63 - 1, (bytes(32),) * 63, bytes(NOTE_BYTES_MAX))
    assert len(format_request(submitted)) <= REQUEST_BYTES_MAX
    assert TreeHead() == TreeHead(0, EMPTY_ROOT)
