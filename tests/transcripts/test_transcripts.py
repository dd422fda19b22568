"""Every transcript still happens as it is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from .script import FOLDER, ScriptError, replay

TRANSCRIPTS = sorted(FOLDER.glob("*.txt"))


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda p: p.stem)
def test_transcript(path: Path) -> None:
    text = path.read_text()
    assert replay(text) == text, f"if this is right: python -m tests.transcripts --rewrite {path.stem}"


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda p: p.stem)
def test_a_transcript_says_what_it_shows(path: Path) -> None:
    paragraph = path.read_text().split("\n\n", 1)[0]
    assert not paragraph.startswith(">")
    assert len(paragraph) > 80


def test_an_unknown_command_is_refused() -> None:
    with pytest.raises(ScriptError, match="no command"):
        replay("A script.\n\n> cluster voters=1\n\n> dance 1\n")
