"""What this ledger's proof files carry as extra data, so that they can be checked with nothing else at hand.

The format of proof files (`appliance.ledger.proof_file`) leaves the extra data to the application: here it is a JSON
object. Nothing in it is signed. The leaf is checked by the inclusion path; the salt by the value hash in the leaf,
where the value is at hand; a key in the history tells only where to look for one that may be trusted.
"""

from __future__ import annotations

import json
from typing import Any, Final, NamedTuple

from appliance.ledger.canonical import read_base64, write_base64
from appliance.ledger.note import VerifierKey, VerifierKeyError, format_verifier_key, parse_verifier_key

FORMAT: Final = 1
_MEMBERS: Final = frozenset({"format", "leaf", "salt", "key_history"})


class ExtraMalformed(ValueError):
    """The extra data of a proof file is not what a ledger of this kind puts there."""


class ProofExtra(NamedTuple):
    """The extra data of a proof file.

    Attributes:
        leaf: the entry that is proven, byte for byte.
        salt: salt of its value hash; empty for a delete, for a value that was retired, and when whoever asked for the
            file may not read the value.
        key_history: the log's keys, the first one first and the one that signs now last.
    """

    leaf: bytes
    salt: bytes
    key_history: tuple[VerifierKey, ...]


def encode_extra(extra: ProofExtra) -> bytes:
    """The extra data as bytes: the same for the same."""
    members = {
        "format": FORMAT,
        "leaf": write_base64(extra.leaf),
        "salt": extra.salt.hex() or None,
        "key_history": [format_verifier_key(key) for key in extra.key_history],
    }
    return json.dumps(members, ensure_ascii=False, separators=(",", ":")).encode()


def decode_extra(data: bytes) -> ProofExtra:
    """Read the extra data back. Raises `ExtraMalformed`."""
    try:
        members: Any = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ExtraMalformed(f"the extra data is not JSON: {error}") from error
    if not isinstance(members, dict) or type(members.get("format")) is not int:
        raise ExtraMalformed("the extra data is no object with a format")
    if members["format"] != FORMAT:
        raise ExtraMalformed(f"the extra data has the format {members['format']}, and only {FORMAT} is known here")
    if members.keys() != _MEMBERS:
        raise ExtraMalformed(f"the members of the extra data are not {', '.join(sorted(_MEMBERS))}")
    leaf = read_base64(members["leaf"]) if isinstance(members["leaf"], str) else None
    if not leaf:
        raise ExtraMalformed("the leaf in the extra data is not base64 of something")
    return ProofExtra(leaf, _salt(members["salt"]), _keys(members["key_history"]))


def _salt(text: object) -> bytes:
    if text is None:
        return b""
    try:
        salt = bytes.fromhex(text) if isinstance(text, str) else b""
    except ValueError:
        salt = b""
    if not salt or salt.hex() != text:
        raise ExtraMalformed("the salt in the extra data is neither null nor lower-case hex")
    return salt


def _keys(texts: object) -> tuple[VerifierKey, ...]:
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ExtraMalformed("the key history in the extra data is no list of texts")
    try:
        return tuple(map(parse_verifier_key, texts))
    except VerifierKeyError as error:
        raise ExtraMalformed(f"a key of the history in the extra data cannot be read: {error}") from error
