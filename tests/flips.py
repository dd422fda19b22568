"""Damage done to files by tests."""

from __future__ import annotations

from pathlib import Path


def flip(path: Path, text: bytes, at: int = 0) -> bytes:
    """Change one bit of some bytes, and of copies of them that pages have left behind; answers what they are now."""
    data = path.read_bytes()
    place = data.find(text)
    assert place >= 0, f"{text!r} is not in {path}"
    with path.open("r+b") as file:
        while place >= 0:
            file.seek(place + at)
            file.write(bytes([data[place + at] ^ 1]))
            place = data.find(text, place + 1)
    return text[:at] + bytes([text[at] ^ 1]) + text[at + 1 :]
