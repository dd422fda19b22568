"""What the pages name exists: files, make targets, commands of the program."""

import re
from pathlib import Path

import pytest
import typer

from appliance.cli.main import app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)")
FILE = re.compile(r"`((?:appliance|benchmarks|compose|docs|filebeat|grafana|prometheus|tests)/[\w./-]+)`")
COMMAND = re.compile(r"^\s*(?:\$ |Next: )?(?:\.venv/bin/)?appliance ((?:[a-z]+ ?){1,2})", re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text()
    missing = [link for link in LINK.findall(text) if not (page.parent / link).exists()]
    missing += [file for file in FILE.findall(text) if not (ROOT / file).exists()]
    assert missing == []


def test_the_readme_leads_to_every_page() -> None:
    linked = set(LINK.findall(PAGES[0].read_text()))
    assert linked >= {f"docs/{page.name}" for page in PAGES[1:]}


def test_make_targets_of_the_readme_exist() -> None:
    text = PAGES[0].read_text()
    targets = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:\$ |`)make ([a-z-]+)", text))
    named |= set(re.findall(r"`([a-z-]+)`", text.partition("`make help` lists")[2]))
    assert named - {"make"} <= targets
    assert {"up", "down", "test", "bench", "lint"} <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_that_a_page_shows_exist(page: Path) -> None:
    root = typer.main.get_command(app)
    for words in COMMAND.findall(page.read_text()):
        first, _, second = words.strip().partition(" ")
        command = root.get_command(None, first)
        assert command is not None, words
        if second and hasattr(command, "get_command"):
            assert command.get_command(None, second) is not None, words
