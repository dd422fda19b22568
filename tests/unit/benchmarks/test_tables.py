"""The benchmarks' tables of rows, targets and stages hold together and follow the code."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import plot, stages
from benchmarks.__main__ import GROUPS
from benchmarks.clusters import metric
from benchmarks.options import Options, short
from benchmarks.stages import Frame, Stack, by_stage, hottest, parse, stage_of
from benchmarks.targets import TARGETS

ROOT = Path(__file__).parents[3]
OPTIONS = Options(Path("unused"))
NAMES = [name for group in GROUPS.values() for name in group.rows(OPTIONS)]


def test_every_row_has_a_name_of_its_own_and_a_length() -> None:
    assert len(set(NAMES)) == len(NAMES)
    assert not any("," in name for name in NAMES)  # --rows parts them by commas
    for group in GROUPS.values():
        assert group.seconds(OPTIONS) > 0
        assert group.chosen(OPTIONS) == group.rows(OPTIONS)


def test_every_target_is_of_a_row() -> None:
    assert {target.row for target in TARGETS} <= set(NAMES)


def test_under_a_scale_rows_keep_their_own_names() -> None:
    for group in GROUPS.values():
        names = group.rows(Options(Path("unused"), scale=0.001))
        assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [
        ((), ["PUT c=1", "PUT c=16", "GET c=16"]),
        (("PUT c=1",), ["PUT c=1"]),
        (("PUT",), ["PUT c=1", "PUT c=16"]),
        (("c=16",), ["PUT c=16", "GET c=16"]),
        (("GET", "PUT c=1"), ["PUT c=1", "GET c=16"]),
        (("DELETE",), []),
    ],
)
def test_rows_are_chosen_by_parts_and_a_whole_name_is_that_row_alone(
    wanted: tuple[str, ...], chosen: list[str]
) -> None:
    assert Options(Path("unused"), rows=wanted).chosen(["PUT c=1", "PUT c=16", "GET c=16"]) == chosen


@pytest.mark.parametrize(
    ("count", "name"), [(5_000_000, "5M"), (100_000, "100k"), (1_500_000, "1500k"), (1234, "1234"), (0, "0")]
)
def test_a_count_is_named_in_short(count: int, name: str) -> None:
    assert short(count) == name


def test_a_scale_leaves_small_counts_alone() -> None:
    options = Options(Path("unused"), scale=0.01)
    assert [options.scaled(count) for count in (10, 10_000, 1_000_000)] == [10, 1000, 10_000]


OUTER = [Frame("run", "appliance/cli/node_main.py"), Frame("Runner.run", "asyncio/runners.py")]


@pytest.mark.parametrize(
    ("inner", "stage"),
    [
        ([], stages.LOOP),
        ([Frame("HttpToolsProtocol.data_received", "uvicorn/protocols/http/httptools_impl.py")], stages.HTTP),
        ([Frame("GatewayProtocol.data_received", "appliance/http/protocol.py")], stages.HTTP),
        ([Frame("Gate.admit", "appliance/http/gate.py")], stages.ROUTE),
        (
            [Frame("Gate.admit", "/srv/x/appliance/http/gate.py"), Frame("f", "appliance/admission/rate.py")],
            stages.ROUTE,
        ),
        ([Frame("Gateway.end", "appliance/http/gateway.py"), Frame("f", "appliance/http/meter.py")], stages.METRICS),
        ([Frame("Service.write", "appliance/node/service.py")], stages.SERVICE),
        ([Frame("Service.write", "appliance/node/service.py"), Frame("encode", "msgspec/x.py")], stages.SERVICE),
        ([Frame("Driver._pump", "appliance/node/driver.py")], stages.RAFT),
        ([Frame("Driver._pump", "appliance/node/driver.py"), Frame("f", "appliance/raft/core.py")], stages.RAFT),
        ([Frame("ApplyQueue.run", "appliance/node/apply_queue.py")], stages.APPLY),
        (
            [Frame("ApplyQueue.run", "appliance/node/apply_queue.py"), Frame("f", "appliance/ledger/machine.py")],
            stages.APPLY,
        ),
        ([Frame("Link._flush", "appliance/adapters/peer_link.py")], stages.PEERS),
        ([Frame("put", "appliance/adapters/ledger_cache.py")], stages.STORE),
        ([Frame("f", "appliance/node/log_writer.py"), Frame("g", "appliance/adapters/sqlite.py")], stages.WRITER),
        ([Frame("LedgerKeeper.hurry", "appliance/node/keeper.py")], stages.KEEPER),
        ([Frame("emit", "appliance/adapters/telemetry/logs.py"), Frame("info", "logging/__init__.py")], stages.METRICS),
    ],
)
def test_a_stack_belongs_to_its_innermost_frame_that_the_table_names(inner: list[Frame], stage: str) -> None:
    assert stage_of([*OUTER, *inner]) == stage


def test_a_stack_without_any_known_frame_is_other() -> None:
    assert stage_of([Frame("f", "somewhere.py")]) == stages.OTHER
    assert stage_of([]) == stages.OTHER


def test_every_file_of_ours_that_a_stage_names_is_there() -> None:
    files = [path.relative_to(ROOT).as_posix() for path in (ROOT / "appliance").rglob("*.py")]
    unused = [file for file in stages.patterns("appliance/") if not any(file.search(path) for path in files)]
    assert unused == []


def test_raw_stacks_are_read_and_waiting_ones_left_out() -> None:
    text = (
        "thread (4711): MainThread;run (asyncio/runners.py:118);Link._flush (appliance/adapters/peer_link.py:70) 5\n"
        "thread (4712): log-writer;work (appliance/node/log_writer.py) 2\n"
        "thread (4712): log-writer;work (appliance/node/log_writer.py);Condition.wait (threading.py:327) 9\n"
        "thread (4713);<lambda> (a (b).py:1) 1\n"
    )
    stacks = parse(text)
    assert stacks == [
        Stack(
            "MainThread",
            "4711",
            (Frame("run", "asyncio/runners.py"), Frame("Link._flush", "appliance/adapters/peer_link.py")),
            5,
        ),
        Stack("log-writer", "4712", (Frame("work", "appliance/node/log_writer.py"),), 2),
        Stack("4713", "4713", (Frame("<lambda> (a", "b).py"),), 1),
    ]
    counts = by_stage(stacks)
    assert counts["MainThread"] == {stages.PEERS: 5}
    assert counts["log-writer"] == {stages.WRITER: 2}
    assert hottest(stacks, 1) == [
        ("MainThread", Frame("Link._flush", "appliance/adapters/peer_link.py"), stages.PEERS, 5)
    ]


@pytest.mark.parametrize("line", ["nothing of the kind", "thread (1): x;f (a.py) many", "f (a.py) 3"])
def test_what_is_no_raw_stack_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="raw format"):
        parse(line)


def test_a_metric_is_read_from_an_exposition() -> None:
    text = (
        "# TYPE scribe_x gauge\nscribe_x 0.25\n"
        'scribe_y_total{direction="sent",outcome="ok"} 2.0\nscribe_y_total{direction="sent",outcome="failed"} 1.0\n'
    )
    assert metric(text, "scribe_x") == 0.25
    assert metric(text, "scribe_y_total") == 3.0
    assert metric(text, "scribe_y_total", 'outcome="ok"') == 2.0
    assert metric(text, "scribe_z") == 0.0


FOUND = {
    "commit": "abc1234",
    "time": "2030-01-02T03:04:05Z",
    "targets": [{"row": "PUT <c=1>", "figure": "rate", "bound": 1.25, "aim": False}],
    "rows": [
        {"row": "PUT <c=1>", "ratios": {"rate": 1.5}, "failures": [], "sides": {"ours": {}}},
        {"row": "failed", "ratios": {"rate": 9.75}, "failures": ["no 200"], "sides": {}},
        {
            "row": "resident with a cache of 32 MiB",
            "ratios": {},
            "failures": [],
            "sides": {"ours": {"samples": [{"writes": w, "resident_mib": [w / 10, 2.0]} for w in (0, 500, 1000)]}},
        },
    ],
}


@pytest.mark.parametrize(
    ("drawing", "words", "absent"),
    [
        (plot.ratios_svg(FOUND), ["PUT <c=1>", "1.50", "1.25", "abc1234"], "9.75"),
        (plot.memory_svg(FOUND), ["ours", "32 MiB"], "PUT"),
    ],
)
def test_a_drawing_is_well_formed_and_says_what_was_measured(drawing: str, words: list[str], absent: str) -> None:
    root = ElementTree.fromstring(drawing)
    assert root.tag.endswith("svg")
    text = " ".join(root.itertext())
    assert [word for word in words if word not in text] == []
    assert absent not in text
    assert not any(element.tag.endswith("script") for element in root.iter())
