"""`verify proof`: a file and known keys, and nothing else."""

from __future__ import annotations

import socket
from pathlib import Path

import msgspec
import pytest
from log_standin import FORGER, OTHER_LOG, WITNESS, SmallLog, flipped, salt_of, some_log
from log_standin import LOG as LOG_KEY
from verify_rig import Done, Verifier

from appliance.adapters.ed25519 import SigningKey
from appliance.cli import shapes
from appliance.cli.exits import Exit
from appliance.ledger.encoding import encode_leaf
from appliance.ledger.note import format_verifier_key
from appliance.ledger.proof_extra import ProofExtra, encode_extra
from appliance.ledger.proof_file import format_proof, parse_proof

LOG = some_log(300)
KEY = "key-007"
HEAD = LOG.heads[KEY]
VALUE = LOG.values[HEAD.leaf_index]
WITNESS_KEY = format_verifier_key(WITNESS.verifier_key)


def proof_of(
    log: SmallLog = LOG, leaf_index: int = HEAD.leaf_index, key: SigningKey = LOG_KEY, **options: bool
) -> bytes:
    size = len(log.leaves)
    return log.proof_file(leaf_index, size, log.checkpoint(size, key, **options))


def with_extra(data: bytes, extra: bytes) -> bytes:
    return format_proof(parse_proof(data)._replace(extra=extra))


def saltless(data: bytes) -> bytes:
    return with_extra(data, encode_extra(ProofExtra(LOG.leaves[HEAD.leaf_index], b"", ())))


def short_salt(data: bytes) -> bytes:
    return with_extra(data, encode_extra(ProofExtra(LOG.leaves[HEAD.leaf_index], b"\x01", ())))


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a proof file is checked without a network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def check(verify: Verifier, data: bytes, *words: str, value: bytes | None = None) -> Done:
    file, value_file = verify.home / "proof", verify.home / "value"
    file.write_bytes(data)
    if value is not None:
        value_file.write_bytes(value)
        words = ("--value", str(value_file), *words)
    return verify.run("proof", str(file), *words)


def test_a_proof_holds_with_nothing_but_the_file_and_the_key(verify: Verifier) -> None:
    done = check(verify, proof_of(), "--key", KEY, value=VALUE)
    assert done.exit_code == Exit.OK, done.stderr
    answer = msgspec.convert(done.answer, shapes.Verified)
    assert answer.verified
    assert answer.leaf is not None
    assert (answer.leaf.key, answer.leaf.version) == (KEY, HEAD.version)
    assert answer.key_history == [format_verifier_key(LOG_KEY.verifier_key)]
    assert done.checks["value"] == "passed"
    assert (done.checks["witnesses"], done.checks["consistency"]) == ("not_checked", "not_checked")
    assert any("Later entries" in text for text in answer.assumptions)
    assert not verify.memory.path.exists()


def test_for_people_the_keys_and_the_assumptions_are_printed(verify: Verifier, tmp_path: Path) -> None:
    file = tmp_path / "proof"
    file.write_bytes(proof_of())
    result = verify.invoke("proof", str(file))
    assert result.exit_code == Exit.OK, result.stderr
    for words in (format_verifier_key(LOG_KEY.verifier_key), KEY, "The value was not given", "not checked"):
        assert words in result.stdout


def test_the_delete_of_a_key_is_proven(verify: Verifier) -> None:
    done = check(verify, proof_of(leaf_index=3), "--key", "gone")
    assert (done.exit_code, done.answer["leaf"]["op"]) == (Exit.OK, "delete")
    assert check(verify, proof_of(leaf_index=3), value=b"").code == "wrong_value"


def test_witnesses(verify: Verifier) -> None:
    cosigned = proof_of(cosigned=True)
    done = check(verify, cosigned, "--witness-key", WITNESS_KEY)
    assert (done.exit_code, done.checks["witnesses"]) == (Exit.OK, "passed")
    other = format_verifier_key(
        SigningKey("other.example", WITNESS.verifier_key.signature_type, bytes(32)).verifier_key
    )
    one_of_two = ("--witness-key", WITNESS_KEY, "--witness-key", other)
    assert check(verify, cosigned, *one_of_two).exit_code == Exit.OK
    two = check(verify, cosigned, *one_of_two, "--witnesses", "2")
    assert (two.exit_code, two.code) == (Exit.FORGED, "witnesses_missing")
    none_asked = check(verify, proof_of(), "--witness-key", WITNESS_KEY, "--witnesses", "0")
    assert none_asked.exit_code == Exit.OK
    assert check(verify, proof_of(), "--witness-key", WITNESS_KEY).code == "witnesses_missing"


def misplaced() -> bytes:
    """A log that has signed a leaf which says that it stands elsewhere."""
    log = some_log(300)
    log.add_bytes(encode_leaf(log.next_leaf(KEY, b"v")._replace(batch_id=400)))
    return proof_of(log, 300)


REFUSED = [
    pytest.param(proof_of(key=FORGER), [], Exit.FORGED, "checkpoint_unsigned", id="another key of the same name"),
    pytest.param(proof_of(key=OTHER_LOG), [], Exit.WRONG_LOG, "wrong_origin", id="another log"),
    pytest.param(
        flipped(proof_of(), len(proof_of()) - 9), [], Exit.FORGED, "checkpoint_forged", id="a forged signature"
    ),
    pytest.param(
        proof_of().replace(b"\n300\n", b"\n301\n"), [], Exit.FORGED, "checkpoint_forged", id="a changed checkpoint"
    ),
    pytest.param(proof_of(), ["--key", "key-014"], Exit.WRONG_PROOF, "wrong_key", id="a proof for another key"),
    pytest.param(
        format_proof(parse_proof(proof_of())._replace(leaf_index=HEAD.leaf_index - 1)),
        [],
        Exit.WRONG_PROOF,
        "wrong_path",
        id="another place",
    ),
    pytest.param(misplaced(), [], Exit.WRONG_PROOF, "leaf_malformed", id="a leaf that says it stands elsewhere"),
    pytest.param(b"", [], Exit.WRONG_PROOF, "proof_malformed", id="empty"),
    pytest.param(b"x" * 2_000_001, [], Exit.WRONG_PROOF, "proof_malformed", id="too long"),
    pytest.param(proof_of()[:100], [], Exit.WRONG_PROOF, "proof_malformed", id="truncated"),
    pytest.param(with_extra(proof_of(), b""), [], Exit.WRONG_PROOF, "proof_malformed", id="no leaf in it"),
    pytest.param(with_extra(proof_of(), b"[]"), [], Exit.WRONG_PROOF, "proof_malformed", id="a stranger's extra data"),
]


@pytest.mark.parametrize(("data", "words", "exit_code", "code"), REFUSED)
def test_what_is_no_proof_is_refused_by_name(
    data: bytes, words: list[str], exit_code: Exit, code: str, verify: Verifier
) -> None:
    done = check(verify, data, *words)
    assert (done.exit_code, done.code) == (exit_code, code), done.stderr
    assert done.answer["verified"] is False


@pytest.mark.parametrize(
    ("data", "value", "why"),
    [
        pytest.param(proof_of(), VALUE + b"!", "are not the value of the entry", id="another value"),
        pytest.param(proof_of(), b"", "are not the value of the entry", id="nothing"),
        pytest.param(saltless(proof_of()), VALUE, "without the salt", id="no salt in the file"),
        pytest.param(short_salt(proof_of()), VALUE, "without the salt of 16 bytes", id="a short salt"),
    ],
)
def test_a_value_that_is_not_the_entrys_is_refused(data: bytes, value: bytes, why: str, verify: Verifier) -> None:
    done = check(verify, data, value=value)
    assert (done.exit_code, done.code) == (Exit.WRONG_PROOF, "wrong_value")
    assert why in done.detail
    assert check(verify, data).exit_code == Exit.OK


def test_a_proof_of_another_key_names_the_keys_of_its_history(verify: Verifier) -> None:
    history = ProofExtra(
        LOG.leaves[HEAD.leaf_index], salt_of(HEAD.leaf_index), (LOG_KEY.verifier_key, OTHER_LOG.verifier_key)
    )
    done = check(verify, with_extra(proof_of(key=OTHER_LOG), encode_extra(history)))
    assert done.exit_code == Exit.WRONG_LOG
    assert done.error is not None
    assert OTHER_LOG.verifier_key.name in done.error.hint
    trusted = check(
        verify,
        with_extra(proof_of(key=OTHER_LOG), encode_extra(history)),
        "--verifier-key",
        format_verifier_key(OTHER_LOG.verifier_key),
    )
    assert trusted.exit_code == Exit.OK
    assert len(trusted.answer["key_history"]) == 2


def test_a_file_that_is_not_there(verify: Verifier) -> None:
    assert verify.run("proof", str(verify.home / "none")).exit_code == Exit.NOT_FOUND
    (verify.home / "proof").write_bytes(proof_of())
    missing = verify.run("proof", str(verify.home / "proof"), "--value", str(verify.home / "none"))
    assert missing.exit_code == Exit.NOT_FOUND


def test_a_recovered_log_is_another_one_and_the_error_says_what_to_do(verify: Verifier) -> None:
    done = check(verify, proof_of(key=LOG_KEY.after((7,))))
    assert (done.exit_code, done.code) == (Exit.WRONG_LOG, "wrong_origin")
    assert "/recovered-1-" in done.detail
    assert done.error is not None
    assert "an operator recovered the cluster" in done.error.hint
