"""Each deliberate bug is caught, by the right invariant; the committed commands show it; failures are made shorter."""

from __future__ import annotations

import re
import shlex

import pytest

from .__main__ import main
from .batch import run_range
from .bugs import BUGS, Bug, switched_on
from .histories import HISTORY_INVARIANT
from .outcome import run
from .plan import draw
from .reports.figures import DIRECTORY
from .reports.given_away import find, section
from .shrink import replay_command, shrink
from .transcript import STORY_LINES_MAX, WIDTH_MAX, story

RENEW = "run `python -m tests.sim.reports` after a change of what a seed exercises"
PAGE = (DIRECTORY / "simulator-bugs.md").read_text()
SECTIONS = {part.partition("\n")[0]: part for part in PAGE.split("\n## ")[1:]}


@pytest.mark.parametrize("bug", BUGS.values(), ids=BUGS.keys())
def test_a_deliberate_bug_is_caught(bug: Bug) -> None:
    with switched_on(bug.name):
        failed = find(bug.name)
    assert failed.invariant in bug.invariants, failed.detail
    assert not run(failed.plan).invariant, "without the bug all is well"


def test_every_bug_has_its_section() -> None:
    assert list(SECTIONS) == list(BUGS)
    assert "lost the disk of" in SECTIONS["wiped-voter-votes"], "it is to be seen how the vote came about"


@pytest.mark.parametrize("name", SECTIONS)
def test_a_committed_command_shows_its_violation(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    section = SECTIONS[name]
    words = shlex.split(re.findall(r"^- `python -m tests\.sim (.*)`$", section, re.MULTILINE)[0])
    invariant = re.findall(r"^- violated: (.*)$", section, re.MULTILINE)[0]
    events = re.findall(r"^- shortest run found: (\d+) events", section, re.MULTILINE)[0]
    assert main(words) == 1, RENEW
    printed = capsys.readouterr().out
    seed = words[words.index("--seed") + 1]
    assert f"VIOLATED in seed {seed} after {events} events: {invariant}: " in printed, RENEW
    transcript = section.split("```")[1].strip("\n").splitlines()
    assert len(transcript) <= STORY_LINES_MAX
    until = next(n for n, line in enumerate(transcript) if " VIOLATED " in line)
    assert set(transcript[:until]) <= {line[:WIDTH_MAX] for line in printed.splitlines()}, RENEW


def test_a_section_of_the_page_names_a_command_that_shows_the_violation(capsys: pytest.CaptureFixture[str]) -> None:
    lines = section("answer-before-fsync")
    command = next(line for line in lines if line.startswith("- `python"))
    assert main(shlex.split(command.strip("- `"))[3:]) == 1
    assert "answers come after durability" in capsys.readouterr().out
    assert len(lines) <= STORY_LINES_MAX + 12


def test_bugs_are_listed_and_a_range_can_have_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list-bugs"]) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if not line.startswith(" ")] == list(BUGS)
    assert main(["--seeds", "0:1", "--bug", "answer-before-fsync", "--no-shrink"]) == 1
    assert "answers come after durability" in capsys.readouterr().out
    assert not run(draw(0)).invariant, "it is switched off again"
    assert run_range(0, 2, jobs=2, bug="answer-before-fsync").failures, "in other processes too"
    assert not run_range(0, 2, jobs=2).failures


def test_a_failure_is_shrunk_and_can_be_replayed() -> None:
    name = "vote-twice-after-a-restart"
    with switched_on(name):
        failed = find(name)
        shortest = shrink(failed, runs_max=25)
        assert run(shortest.plan).detail == shortest.detail
    assert shortest.invariant == failed.invariant
    assert len(shortest.plan.faults) < len(failed.plan.faults)
    assert "VIOLATED" in shortest.lines[-1]
    command = replay_command(draw(failed.plan.seed), shortest.plan, name)
    assert f"--seed {failed.plan.seed} --bug {name} --faults" in command


def test_what_is_judged_at_the_end_is_cut_short() -> None:
    with switched_on("read-without-a-heartbeat-round-by-its-history"):
        failed = find("read-without-a-heartbeat-round-by-its-history")
        shortest = shrink(failed)
    assert shortest.invariant == HISTORY_INVARIANT
    assert shortest.plan.events_max == shortest.events < failed.events
    assert "--events" in replay_command(draw(failed.plan.seed), shortest.plan)


def test_a_story_keeps_what_tells_it_and_the_end() -> None:
    def line(event: int, text: str) -> str:
        return f"{event:6} {event / 10:8.2f}  {text}"

    lines = [line(1, "lost the disk of 1 which is now 1'")]
    lines += [line(n, "deliver 1>2 Heartbeat, term 1") for n in range(2, 500)]
    lines += [line(n, "votes 1 for 2 in term 1") for n in range(500, 700)]
    lines += [line(700, "client 0 put key3 r1 at 2"), line(701, "client 0 put key30 r2 at 2")]
    lines += [line(n, "deliver 1>2 Heartbeat, term 1") for n in range(702, 800)]
    violated = line(800, "VIOLATED linearizable reads read of 'key3' answers the value of 0")
    told = story([*lines, violated], 60)
    assert len(told) == 60
    assert told[0] == lines[0]
    assert line(700, "client 0 put key3 r1 at 2") in told
    assert line(701, "client 0 put key30 r2 at 2") not in told
    assert line(699, "votes 1 for 2 in term 1") in told
    assert line(500, "votes 1 for 2 in term 1") not in told
    assert told[-17:] == [*lines[-16:], violated]
