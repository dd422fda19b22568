"""Puts a node together and runs it until it is told to stop."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import secrets
import signal
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final

import uvloop

from appliance import __version__
from appliance.adapters.audit.engine import DuckDbAudit
from appliance.adapters.clock import SystemClock
from appliance.adapters.ed25519 import SigningKeyError, read_key_file
from appliance.adapters.identity import AUDIT_DIRECTORY, DataDirectory
from appliance.adapters.ledger_checker import verify_apart
from appliance.adapters.peer_network import TcpPeerNetwork
from appliance.adapters.peer_settings import peer_settings_from
from appliance.adapters.scrubber import SegmentScrub
from appliance.adapters.telemetry.logs import EcsLog, route_stdlib
from appliance.adapters.telemetry.loop_lag import sample_loop_lag
from appliance.adapters.telemetry.metrics import Registry
from appliance.adapters.telemetry.tracing import GatewayTracer, make_tracer
from appliance.adapters.witness_address import parse_witness
from appliance.admission.keys import KeyRegistry
from appliance.admission.rate import RateLimiter
from appliance.http.app import create_app
from appliance.http.gateway import GatewayDeps
from appliance.http.server import HttpServer
from appliance.node.driver import Driver
from appliance.node.driver_settings import DriverSettings
from appliance.node.handover import hand_over
from appliance.node.leadership import Leadership
from appliance.node.ports import (
    LEDGER_NAME,
    Identity,
    Log,
    StorageError,
    StorageFailed,
    Tracer,
)
from appliance.node.publishing import Publishing
from appliance.node.reading import Reading
from appliance.node.recovery import Opened
from appliance.node.sampler import Sampler
from appliance.node.scrubbing import Scrubbing
from appliance.node.service import Service
from appliance.node.witnessing import Witnessing
from appliance.tables.settings import Settings
from appliance.wiring.directory import Place, claim, open_stores, renew, seek, whose

STOP_GRACE_S: Final = 10.0  # for requests in flight at SIGTERM
EXIT_FAILED: Final = 1
EXIT_AGAIN: Final = 75  # sysexits.h EX_TEMPFAIL: no failure, and whoever restarts after failures alone does so, too
GC_THRESHOLDS: Final = (20_000, 20, 20)  # little here is garbage in a ring, so it is looked for less often
UMASK: Final = 0o027  # whatever the service manager set: the ledger's values are no business of other users
LATENCY: Final = "scribe_request_latency_seconds"


def run_node(settings: Settings, reread: Callable[[], Settings]) -> int:
    """Run one node until SIGTERM or SIGINT; answers the exit code.

    Args:
        settings: the configuration to start with.
        reread: answers the configuration as it is now, for SIGHUP; raises `ValueError` when it is not acceptable.
    """
    os.umask(UMASK)
    registry = Registry(settings.node.id)
    log = EcsLog(settings.logging, settings.node.id, registry)
    route_stdlib(log)
    log.info("node.starting", node_id=settings.node.id, version=__version__, data_dir=settings.node.data_dir)
    try:
        return uvloop.run(_run(settings, reread, registry, log))
    except (StorageError, OSError, ValueError) as error:
        log.error("node.failed", reason=str(error), error=error)
        if not settings.logging.stdout:  # else whoever started it by hand sees nothing at all
            sys.stderr.write(f"error: {error}\n")
        return EXIT_FAILED
    finally:
        log.close()


class _End:
    """That a node is to end, why, and with which exit code: the first that says so counts, unless the node fails."""

    def __init__(self) -> None:
        self.wanted = asyncio.Event()
        self.reason = "asked to"
        self.exit_code = 0

    def fail(self, reason: str) -> None:
        """It cannot go on."""
        self.reason, self.exit_code = reason, EXIT_FAILED
        self.wanted.set()

    def restart(self, reason: str) -> None:
        """It is to be started again."""
        if not self.exit_code:
            self.reason, self.exit_code = reason, EXIT_AGAIN
        self.wanted.set()


async def _run(settings: Settings, reread: Callable[[], Settings], registry: Registry, log: EcsLog) -> int:
    """Put the node together, run it until it is told to stop or cannot go on, and take it apart in good order."""
    end = _End()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end.wanted.set)
    limiter = RateLimiter(**_limits(settings))
    loop.add_signal_handler(signal.SIGHUP, _reload, reread, limiter, log)

    node_id = settings.node.id
    tracer = make_tracer(
        settings.telemetry, node_id=node_id, log=log, instruments=registry, chance=random.SystemRandom()
    )
    directory = DataDirectory(Path(settings.node.data_dir))
    check = directory.check()
    cluster_found = await _unless(end.wanted, seek(settings, check, registry, log))
    if cluster_found is None:
        directory.close()
        log.info("node.stopped", node_id=node_id)
        return 0
    cluster_id = whose(directory, settings, check, cluster_found)
    opened = open_stores(directory, settings, check, cluster_id, log)
    identity = claim(directory, check, opened, log, cluster_id=cluster_id, node_id=node_id)
    driver = _make_driver(
        settings, directory, opened, identity, tracer=tracer, registry=registry, log=log, on_fatal=end.fail
    )
    publishing = _make_publishing(settings, driver)
    witnessing = _make_witnessing(settings, driver, publishing, registry, log)
    scrubbing = _make_scrubbing(settings, driver, registry, log)
    service = _make_service(settings, driver, registry, publishing=publishing, scrubbing=scrubbing, restart=end.restart)
    audit = DuckDbAudit(directory.path, settings.audit, log, registry, service.settle)
    server = _make_server(settings, service, audit, limiter, tracer=tracer, registry=registry, log=log)
    await driver.start()
    await server.start()
    sampler = Sampler(driver, registry, settings.storage.capacity_keys, time.time())
    lag = sample_loop_lag(registry, log, lambda: registry.mark(LATENCY))
    tasks = [
        _watch(sampler.run(), "sampler", log),
        _watch(lag, "loop_lag", log),
        _watch(publishing.run(), "publishing", log),
        _watch(scrubbing.run(), "scrubbing", log),
    ]
    if witnessing is not None:
        tasks.append(_watch(witnessing.run(), "witnessing", log))
    log.info(
        "node.started",
        node_id=node_id,
        cluster_id=driver.identity.cluster_id,
        address=driver.settings.address,
        raft_address=driver.settings.raft_address,
    )
    gc.collect()
    gc.freeze()  # what lives as long as the process is not looked at again
    gc.set_threshold(*GC_THRESHOLDS)
    await end.wanted.wait()
    log.info("node.stopping", node_id=node_id, reason=end.reason)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await hand_over(driver)
    await server.stop(STOP_GRACE_S)
    await audit.close()
    await driver.stop()
    await asyncio.to_thread(tracer.close)  # it waits for the last export
    directory.close()
    log.info("node.stopped", node_id=node_id)
    return end.exit_code


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, str]) -> str | None:
    """The outcome of `work`, or None when the node is told to stop before it is there."""
    working, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        return None if stop.is_set() else await working
    finally:
        for task in (working, stopping):
            task.cancel()
        await asyncio.gather(working, stopping, return_exceptions=True)


def _reload(reread: Callable[[], Settings], limiter: RateLimiter, log: EcsLog) -> None:
    """SIGHUP: open the log file anew and apply the settings that the table marks so. Nothing of it ends the node."""
    log.reopen()
    try:
        settings = reread()
    except ValueError as error:
        log.error("node.reload_failed", reason=str(error))
        return
    log.set_level(settings.logging.level)
    limiter.configure(**_limits(settings))
    applied = {"level": settings.logging.level, **_limits(settings)}
    log.info("node.reloaded", applied=", ".join(f"{name} {value}" for name, value in applied.items()))


def _limits(settings: Settings) -> dict[str, int]:
    limit = settings.security.rate_limit
    return {"max_requests": limit.max_requests, "window_secs": limit.window_secs, "burst_size": limit.burst_size}


def _watch(work: Coroutine[Any, Any, None], name: str, log: Log) -> asyncio.Task[None]:
    """Run a task of the node's own; its end by an error is told, it takes nothing with it."""

    def tell(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            log.error("node.task_failed", task=name, error=task.exception())

    task = asyncio.create_task(work, name=name)
    task.add_done_callback(tell)
    return task


def _make_driver(
    settings: Settings,
    directory: DataDirectory,
    opened: Opened,
    identity: Identity,
    *,
    tracer: Tracer,
    registry: Registry,
    log: Log,
    on_fatal: Callable[[str], None],
) -> Driver:
    storage, place = settings.storage, Place.of(settings)
    return Driver(
        settings=DriverSettings(
            address=place.address,
            raft_address=place.raft_address,
            seeds=place.seeds,
            founder=place.founder,
            directory=directory.path,
            version=__version__,
            election_timeout_s=settings.consensus.election_timeout,
            heartbeat_timeout_s=settings.consensus.heartbeat_timeout,
            write_timeout_s=settings.performance.write_timeout,
            flush_interval_s=storage.flush_interval,
            batch_size=settings.performance.batch_size,
            idempotency_keys=storage.idempotency_keys,
            compact_log_entries=storage.compact_log_entries,
            keep_log_entries=storage.keep_log_entries,
        ),
        identity=identity,
        renew_identity=lambda: renew(directory, identity.cluster_id, identity.node_id),
        opened=opened,
        standing=directory.standing,
        reserve=directory,
        network=TcpPeerNetwork(peer_settings_from(settings), registry, log),
        verify_snapshot=lambda path: verify_apart(path, identity.cluster_id),
        clock=SystemClock(),
        random=random.Random(secrets.randbits(64)),  # noqa: S311 - election time-outs are no secret
        instruments=registry,
        log=log,
        tracer=tracer,
        on_fatal=on_fatal,
    )


def _make_publishing(settings: Settings, driver: Driver) -> Publishing:
    """Checkpoints, signed with the log's key. Raises `StorageFailed` when that key is another log's or unusable."""
    key = None
    if settings.log.key_file:
        try:
            key = read_key_file(Path(settings.log.key_file))
        except SigningKeyError as error:
            raise StorageFailed(str(error)) from error
        if driver.identity.cluster_id not in key.verifier_key.name:
            raise StorageFailed(
                f"{settings.log.key_file} is the key of the log {key.verifier_key.name}, and this node belongs to "
                f"cluster {driver.identity.cluster_id}. Set log.key_file to the key that `appliance init` made for it."
            )
    return Publishing(driver, key, settings.log.checkpoint_interval, settings.performance.write_timeout)


def _make_witnessing(
    settings: Settings, driver: Driver, publishing: Publishing, registry: Registry, log: Log
) -> Witnessing | None:
    if not settings.log.witnesses:
        return None
    from appliance.adapters.witness_client import WitnessClient  # httpx takes 60 ms to import

    return Witnessing(
        driver,
        publishing=publishing,
        reading=Reading(driver, Leadership(driver), settings.performance.write_timeout),
        witnesses=[WitnessClient(parse_witness(text)) for text in settings.log.witnesses],
        timeout_s=settings.log.witness_timeout,
        instruments=registry,
        log=log,
    )


def _make_scrubbing(settings: Settings, driver: Driver, registry: Registry, log: Log) -> Scrubbing:
    """Reads back what is stored, the largest file first."""
    segments = SegmentScrub(driver.settings.directory / AUDIT_DIRECTORY)
    return Scrubbing(
        driver,
        (driver.ledger_store, driver.log_store, segments),
        rate=settings.storage.scrub_rate,
        interval_s=settings.storage.scrub_interval,
        instruments=registry,
        log=log,
    )


def _make_service(
    settings: Settings,
    driver: Driver,
    registry: Registry,
    *,
    publishing: Publishing,
    scrubbing: Scrubbing,
    restart: Callable[[str], None],
) -> Service:
    return Service(
        driver,
        ledger_path=driver.settings.directory / LEDGER_NAME,
        capacity_keys=settings.storage.capacity_keys,
        idempotency_keys=settings.storage.idempotency_keys,
        concurrency_max=settings.performance.max_concurrency,
        write_timeout_s=settings.performance.write_timeout,
        publishing=publishing,
        scrubbing=scrubbing,
        restart=restart,
        instruments=registry,
    )


def _make_server(
    settings: Settings,
    service: Service,
    audit: DuckDbAudit,
    limiter: RateLimiter,
    *,
    tracer: GatewayTracer,
    registry: Registry,
    log: Log,
) -> HttpServer:
    app = create_app(
        GatewayDeps(
            node=service,
            audit=audit,
            keys=KeyRegistry.parse(Path(settings.security.api_keys_file).read_bytes()),
            limiter=limiter,
            settings=settings,
            instruments=registry,
            tracer=tracer,
            log=log,
            clock=SystemClock(),
            render_metrics=registry.render,
            version=__version__,
        )
    )
    return HttpServer(
        app,
        app.gateway,
        host=settings.network.client_host,
        port=settings.network.client_port,
        tls=settings.security.tls,
        log=log,
    )
