"""Witnesses as the settings name them: where one takes submissions, and whose cosignatures it gives."""

from __future__ import annotations

from typing import Final, NamedTuple
from urllib.parse import urlsplit

from appliance.ledger.note import SignatureType, VerifierKey, parse_verifier_key, require_type

NAME_CHARACTERS_MAX: Final = 256  # a cosignature's line has to fit into the log's entry, and the name is a label


class WitnessAddress(NamedTuple):
    """One witness.

    Attributes:
        url: its submission prefix, without a slash at the end.
        key: whose cosignatures are taken from it, of type 0x04.
    """

    url: str
    key: VerifierKey


def parse_witness(text: str) -> WitnessAddress:
    """Read "<submission prefix> <verifier key>". Raises `ValueError`."""
    url, _, key_text = text.strip().partition(" ")
    pieces = urlsplit(url)
    if pieces.scheme not in ("http", "https") or not pieces.hostname or (pieces.port or 1) < 1:
        raise ValueError(f"{url!r:.200} is no http or https URL")
    if pieces.query or pieces.fragment or pieces.username is not None:
        raise ValueError(f"{url!r:.200} is no prefix of URLs: it has a user, a query or a fragment")
    key = require_type(parse_verifier_key(key_text.strip()), SignatureType.COSIGNATURE_V1)
    if len(key.name) > NAME_CHARACTERS_MAX:
        raise ValueError(f"the name {key.name!r:.100} is longer than {NAME_CHARACTERS_MAX} characters")
    return WitnessAddress(url.rstrip("/"), key)
