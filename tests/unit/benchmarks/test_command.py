"""`make bench` where programs are missing, up to where clusters would be started."""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import machine, results
from benchmarks.__main__ import arguments_of, bench
from benchmarks.clusters import Cluster
from benchmarks.groups import base
from tests.unit.benchmarks.readings import reading

ROW = "PUT c=1"


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the clusters that are measured; no process is started."""
    names: list[str] = []

    @contextlib.contextmanager
    def running(self: Cluster) -> Iterator[Cluster]:
        yield self

    def measure(cluster: Cluster, *_: Any) -> dict[str, Any]:
        names.append(cluster.name)
        return reading(300 if cluster.name == "ours" else 200)

    monkeypatch.setattr(Cluster, "running", running)
    monkeypatch.setattr(Cluster, "rest", lambda self: None)
    monkeypatch.setattr(base, "measure", measure)
    monkeypatch.setattr(machine, "describe", lambda directory: {"cpu": "some", "cores": 2})
    monkeypatch.setattr(results, "committed", lambda: [])
    return names


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Lets these programs be there, and no others."""

    def only(*programs: str) -> None:
        monkeypatch.setattr("shutil.which", lambda name, *_, **__: f"/usr/bin/{name}" if name in programs else None)

    return only


def run(tmp_path: Path, *words: str) -> tuple[int, dict[str, Any] | None]:
    """The exit code, and the figures where some were written."""
    figures = tmp_path / "figures.json"
    common = ("--groups", "speed", "--rows", ROW, "--rounds", "1", "--directory", str(tmp_path), "--json", str(figures))
    code = bench(arguments_of([*common, *words]))
    return code, json.loads(figures.read_text()) if figures.exists() else None


@pytest.mark.parametrize("programs", [(), ("etcd",)])
def test_without_wrk_it_says_how_to_get_it_and_measures_nothing(
    programs: tuple[str, ...],
    tmp_path: Path,
    measured: list[str],
    installed: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    installed(*programs)
    assert run(tmp_path) == (2, None)
    assert measured == []
    assert list(tmp_path.iterdir()) == []
    said = capsys.readouterr().err
    assert "wrk is missing" in said
    assert "apt-get install wrk" in said


@pytest.mark.parametrize(
    ("programs", "words", "says", "advises"),
    [
        (("wrk",), (), "etcd is missing: measuring this cluster alone", True),
        (("wrk", "etcd"), ("--no-etcd",), "etcd is not wanted: measuring this cluster alone", False),
        (("wrk",), ("--no-etcd",), "etcd is not wanted: measuring this cluster alone", False),
    ],
)
def test_without_etcd_this_cluster_is_measured_alone(
    programs: tuple[str, ...],
    words: tuple[str, ...],
    says: str,
    advises: bool,
    tmp_path: Path,
    measured: list[str],
    installed: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    installed(*programs)
    code, figures = run(tmp_path, *words)
    assert code == 0
    assert set(measured) == {"ours"}
    assert figures is not None
    assert figures["options"]["etcd"] is False
    assert [(found["row"], list(found["sides"]), found["ratios"]) for found in figures["rows"]] == [(ROW, ["ours"], {})]
    captured = capsys.readouterr()
    assert says in captured.err
    assert ("apt-get install etcd-server" in captured.err) == advises
    assert "not measured" in captured.out  # the targets that are ratios


def test_with_both_programs_both_sides_are_measured(
    tmp_path: Path, measured: list[str], installed: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    installed("wrk", "etcd")
    code, figures = run(tmp_path)
    assert code == 0
    assert set(measured) == {"ours", "etcd"}
    assert figures is not None
    assert figures["options"]["etcd"] is True
    assert figures["rows"][0]["ratios"]["rate"] == 1.5
    captured = capsys.readouterr()
    assert "alone" not in captured.err
    assert f"no committed ratios beside those of: {ROW}" in captured.out


def test_figures_are_written_though_the_report_fails(
    tmp_path: Path, measured: list[str], installed: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def committed() -> list[dict[str, Any]]:
        raise ValueError("what is committed is no JSON")

    installed("wrk", "etcd")
    monkeypatch.setattr(results, "committed", committed)
    with pytest.raises(ValueError, match="no JSON"):
        run(tmp_path)
    assert json.loads((tmp_path / "figures.json").read_text())["rows"][0]["row"] == ROW


def test_where_no_row_is_chosen_it_names_those_that_there_are(
    tmp_path: Path, measured: list[str], installed: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    installed("wrk", "etcd")
    assert run(tmp_path, "--rows", "DELETE") == (2, None)
    assert measured == []
    assert ROW in capsys.readouterr().err
