"""Passes over what is stored: when they run, how fast, what they make of findings, and what ends them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from driver_rig import WAIT_S, Rig, put, until

from appliance.adapters.telemetry.metrics import Registry
from appliance.node import scrubbing
from appliance.node.api import ScrubFigures
from appliance.node.check_ports import Rot, ScrubSlice
from appliance.node.ports import FileAway
from appliance.node.scrubbing import DETAILS_MAX, Scrubbing
from appliance.node.view import health_of
from appliance.tables.errors import ApplianceError

pytestmark = pytest.mark.anyio

RATE = 2**30
DAY_S = 86_400.0


class Part:
    """Something that is scrubbed: what each pass over it finds, slice by slice."""

    def __init__(self, *slices: ScrubSlice | Exception) -> None:
        self.slices = list(slices)
        self.passes = 0
        self.taken = 0
        self.hold: Callable[[], None] = lambda: None

    def scrub(self) -> Iterator[ScrubSlice]:
        self.passes += 1
        for one in tuple(self.slices):
            self.hold()
            self.taken += 1
            if isinstance(one, Exception):
                raise one
            yield one


@pytest.fixture
def part() -> Part:
    return Part(ScrubSlice(1000, 0.0), ScrubSlice(1000, 0.5))


@pytest.fixture
def registry() -> Registry:
    return Registry(1)


@pytest.fixture
async def make(rig: Rig, registry: Registry) -> AsyncIterator[Callable[..., Scrubbing]]:
    """Makes a running scrubbing of one part."""
    tasks: list[asyncio.Task[None]] = []

    def start(part: Part, *, rate: int = 0, interval_s: float = DAY_S) -> Scrubbing:
        one = Scrubbing(
            rig.driver, (part, Part(), Part()), rate=rate, interval_s=interval_s, instruments=registry, log=rig.log
        )
        tasks.append(asyncio.create_task(one.run()))
        return one

    yield start
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


Make = Callable[..., Scrubbing]


async def a_pass(one: Scrubbing, rate: int = RATE) -> ScrubFigures:
    return await asyncio.wait_for(one.scrub(rate, wait=True), WAIT_S)


def alarms(rig: Rig) -> tuple[str, ...]:
    return health_of(rig.driver).alarms


async def test_a_pass_that_is_asked_for_runs_at_once_and_says_how_it_went(make: Make, part: Part, rig: Rig) -> None:
    one = make(part)
    assert one.figures == ScrubFigures()
    figures = await a_pass(one)
    assert (figures.running, figures.number, figures.rate, figures.share) == (False, 1, RATE, 1.0)
    assert (figures.bytes_read, figures.findings, figures.details) == (2000, 0, ())
    assert figures.completed_us > 0
    assert "storage.scrubbed" in rig.log.events
    assert alarms(rig) == ()
    assert (await a_pass(one)).number == 2


async def test_passes_come_by_themselves_at_their_interval(
    make: Make, part: Part, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scrubbing, "START_DELAY_S", 0.01)
    one = make(part, rate=RATE, interval_s=0.01)
    await until(lambda: part.passes >= 3, "three passes")
    assert one.figures.rate == RATE


async def test_without_a_rate_none_comes_by_itself(make: Make, part: Part, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrubbing, "START_DELAY_S", 0.0)
    make(part, interval_s=0.01)
    other = Part(ScrubSlice(1000, 0.0))
    make(other, rate=RATE, interval_s=0.01)
    await until(lambda: other.passes >= 3, "passes of one that has a rate")
    assert part.passes == 0


async def test_a_pass_keeps_to_its_rate(make: Make, rig: Rig) -> None:
    one = make(Part(*(ScrubSlice(10_000, n / 30) for n in range(30))))
    began_s = rig.clock.monotonic_s()
    await a_pass(one, 1_000_000)
    assert rig.clock.monotonic_s() - began_s >= 0.25, "300,000 bytes, less what is not worth a pause"


async def test_the_loop_goes_on_while_a_slice_is_read(make: Make, part: Part) -> None:
    import threading

    release = threading.Event()
    part.hold = lambda: release.wait(WAIT_S) and None
    one = make(part)
    asked = asyncio.create_task(a_pass(one))
    await until(lambda: part.passes == 1, "the pass to begin")
    for _ in range(100):
        await asyncio.sleep(0)
    assert one.figures.running
    with pytest.raises(ApplianceError) as caught:
        await one.scrub(RATE, wait=False)
    assert caught.value.code == "conflict"
    release.set()
    await asked


async def test_a_pass_of_its_own_gives_way_to_one_that_is_asked_for(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scrubbing, "START_DELAY_S", 0.0)
    part = Part(*(ScrubSlice(1000, n / 1000) for n in range(1000)))
    one = make(part, rate=10_000)
    await until(lambda: part.taken > 0, "the slow pass to begin")
    figures = await a_pass(one)
    assert (figures.bytes_read, part.passes) == (1_000_000, 2)
    assert one.figures.rate == RATE


async def test_what_has_rotted_is_named_counted_and_withdrawn_once_it_is_whole(
    make: Make, rig: Rig, registry: Registry
) -> None:
    part = Part(ScrubSlice(10, 0.0, (Rot("leaf 7 has rotted", 7),)), ScrubSlice(10, 0.5, (Rot("a head"),)))
    one = make(part)
    figures = await a_pass(one)
    assert (figures.findings, figures.details) == (2, ("leaf 7 has rotted", "a head"))
    assert alarms(rig) == ("storage_rotten",)
    assert rig.log.events.count("ledger.integrity") == 2
    assert rig.driver.findings.rotten_leaves == {7}
    assert b"scribe_scrub_findings 2.0" in registry.render("")[0]
    part.slices = [ScrubSlice(10, 0.0)]
    await a_pass(one)
    assert alarms(rig) == ()
    assert rig.driver.findings.rotten_leaves == frozenset()


async def test_not_each_of_many_findings_is_named(make: Make, rig: Rig) -> None:
    many = tuple(Rot(f"leaf {n}", n) for n in range(DETAILS_MAX + 5))
    figures = await a_pass(make(Part(ScrubSlice(10, 0.0, many))))
    assert (figures.findings, len(figures.details)) == (DETAILS_MAX + 5, DETAILS_MAX)
    assert rig.log.events.count("ledger.integrity") == DETAILS_MAX
    assert len(rig.driver.findings.rotten_leaves) == DETAILS_MAX + 5


async def test_the_value_of_a_rotten_leaf_is_not_told(make: Make, rig: Rig) -> None:
    rig.take([put(2), put(3)], commit=3)
    await until(lambda: rig.driver.applier.applied_index == 3, "the entries to be applied")
    await a_pass(make(Part(ScrubSlice(10, 0.0, (Rot("the value of leaf 0", 0),)))))
    for work in (
        rig.service.read("k2", linearizable=False),
        rig.service.history("k2", None, 1, linearizable=False),
    ):
        with pytest.raises(ApplianceError) as caught:
            await work
        assert caught.value.code == "verification_failed"
    assert (await rig.service.read("k3", linearizable=False)).value == b"v"
    rig.driver.fitness.divergence.replaced()
    assert (await rig.service.read("k2", linearizable=False)).value == b"v", "of the file that was installed"


async def test_another_file_in_its_place_is_read_from_the_beginning(
    make: Make, part: Part, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scrubbing, "AWAY_S", 0.01)
    part.slices = [ScrubSlice(10, 0.0), FileAway("it is being closed")]
    one = make(part)
    asked = asyncio.create_task(a_pass(one))
    await until(lambda: part.passes >= 2, "another try")
    part.slices = [ScrubSlice(10, 0.0)]
    assert (await asked).bytes_read == 10
    assert one.figures.findings == 0


async def test_who_waits_is_told_that_the_node_stops(part: Part, rig: Rig, registry: Registry) -> None:
    one = Scrubbing(rig.driver, (part,), rate=0, interval_s=DAY_S, instruments=registry, log=rig.log)
    running = asyncio.create_task(one.run())
    part.slices = [ScrubSlice(2**20, n / 100) for n in range(100)]
    asked = asyncio.create_task(one.scrub(2**20, wait=True))
    await until(lambda: part.taken > 0, "the pass to begin")
    running.cancel()
    with pytest.raises(ApplianceError) as caught:
        await asyncio.wait_for(asked, WAIT_S)
    assert caught.value.code == "shutting_down"


async def test_the_stores_of_a_node_are_whole(rig: Rig) -> None:
    rig.take([put(n) for n in range(2, 60)], commit=59)
    await until(lambda: rig.driver.applier.applied_index == 59, "the entries to be applied")
    await until(lambda: rig.stable_index == 59, "the log to be stored")
    await rig.driver.keeper.flushed()
    running = asyncio.create_task(rig.scrubbing.run())
    figures = await asyncio.wait_for(rig.service.scrub(RATE, wait=True), WAIT_S)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert figures.findings == 0
    assert figures.bytes_read > 0
    assert rig.service.figures().scrub == figures
