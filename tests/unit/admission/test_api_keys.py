"""The registry of API keys."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any

import pytest

from appliance.admission.keys import ApiKey, BadKeysFileError, KeyRegistry
from appliance.tables.roles import Role


def _row(name: str = "ann", role: str = "read", key: str = "secret", **more: Any) -> dict[str, Any]:
    return {"name": name, "role": role, "sha256": sha256(key.encode()).hexdigest(), **more}


def _file(*rows: Any, **more: Any) -> bytes:
    return json.dumps({"format": 1, "keys": rows, **more}).encode()


def test_a_key_is_found_by_its_text_and_nothing_else() -> None:
    registry = KeyRegistry.parse(_file(_row(), _row("böb", "admin", "other")))
    assert len(registry) == 2
    assert registry.find(b"secret") == ApiKey("ann", Role.READ)
    assert registry.find(b"other") == ApiKey("böb", Role.ADMIN)
    for wrong in (b"", b"Secret", b"secret ", b"secre", sha256(b"secret").hexdigest().encode(), b"\xff"):
        assert registry.find(wrong) is None


def test_a_registry_may_be_empty() -> None:
    assert KeyRegistry.parse(_file()).find(b"secret") is None


def test_no_key_text_is_held() -> None:
    held = repr(vars(KeyRegistry.parse(_file(_row()))))
    assert "secret" not in held


BAD = {
    "not json": (b"{", "cannot be read"),
    "empty": (b"", "cannot be read"),
    "not utf-8": (b'{"format":1,"keys":"\xff"}', "cannot be read"),
    "another format": (_file(format=2), "format 2"),
    "no format": (b'{"keys":[]}', "format"),
    "an unknown field": (_file(comment="x"), "comment"),
    "an unknown field of a key": (_file(_row(key_text="secret")), "key_text"),
    "an unknown role": (_file(_row(role="root")), "root"),
    "a hash too short": (_file({"name": "a", "role": "read", "sha256": "ab"}), "sha256"),
    "a hash in upper case": (_file({"name": "a", "role": "read", "sha256": "AB" * 32}), "sha256"),
    "no name": (_file(_row("")), "name"),
    "a name too long": (_file(_row("é" * 129)), "256 bytes"),
    "a name that breaks lines": (_file(_row("a\nb")), "printed"),
    "a name with half a character": (b'{"format":1,"keys":[{"name":"\\ud800","role":"read","sha256":""}]}', "read"),
    "a name twice": (_file(_row(), _row(key="other")), "twice"),
    "a key twice": (_file(_row(), _row("bob")), "same API key"),
    "too many keys": (_file(*[_row()] * 10_001), "10000"),
}


@pytest.mark.parametrize(("data", "named"), BAD.values(), ids=BAD.keys())
def test_a_file_that_cannot_be_used_is_refused_with_the_reason(data: bytes, named: str) -> None:
    with pytest.raises(BadKeysFileError, match=named):
        KeyRegistry.parse(data)
