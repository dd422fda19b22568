"""Gauges that follow the node, sampled once a second so that scraping costs nothing on the event loop."""

from __future__ import annotations

import asyncio
import shutil
from typing import Final

from appliance.node.driver import Driver
from appliance.node.ports import Instruments
from appliance.node.view import figures_of, is_paused, reasons_of
from appliance.raft.messages import NOBODY, Role

SAMPLE_INTERVAL_S: Final = 1.0
DISK_EVERY: Final = 10  # samples between two looks at the file system


class Sampler:
    """Copies a driver's state into gauges.

    Args:
        driver: the node.
        instruments: metrics.
        capacity_keys: number of keys that the node is sized for.
        started_s: Unix time of the start.
    """

    def __init__(self, driver: Driver, instruments: Instruments, capacity_keys: int, started_s: float) -> None:
        self._driver = driver
        self._instruments = instruments
        self._capacity_keys = capacity_keys
        self._gauges = {
            name: instruments.gauge(name)
            for name in (
                "scribe_node_health",
                "scribe_writes_paused",
                "scribe_clock_offset_seconds",
                "scribe_storage_keys_total",
                "scribe_storage_pending_bytes",
                "scribe_storage_set_aside",
                "scribe_disk_free_bytes",
                "scribe_disk_size_bytes",
                "scribe_raft_term",
                "scribe_raft_leader",
                "scribe_raft_has_leader",
                "scribe_raft_voters",
                "scribe_raft_commit_index",
                "scribe_raft_applied_index",
                "scribe_raft_last_index",
                "scribe_raft_durable_index",
                "scribe_raft_snapshot_index",
                "scribe_raft_proposals_pending",
                "scribe_merkle_tree_size",
                "scribe_idempotency_keys",
            )
        }
        self._bytes = {
            part: instruments.gauge("scribe_storage_bytes", part=part) for part in ("ledger", "log", "cache")
        }
        instruments.gauge("scribe_storage_capacity_keys").set(capacity_keys)
        instruments.gauge("scribe_start_time_seconds").set(started_s)
        node_id = str(driver.identity.node_id)
        instruments.gauge("scribe_build_info", version=driver.settings.version, node_id=node_id).set(1)
        self._peers_shown: set[int] = set()

    async def run(self) -> None:
        """Sample until cancelled."""
        count = 0
        while True:
            self.sample()
            if count % DISK_EVERY == 0:
                usage = await asyncio.to_thread(shutil.disk_usage, self._driver.settings.directory)
                self._gauges["scribe_disk_free_bytes"].set(usage.free)
                self._gauges["scribe_disk_size_bytes"].set(usage.total)
            count += 1
            await asyncio.sleep(SAMPLE_INTERVAL_S)

    def sample(self) -> None:
        """Set all gauges now."""
        driver = self._driver
        figures = figures_of(driver, self._capacity_keys)
        state = driver.core.state if driver.core is not None else None
        values: dict[str, float] = {
            "scribe_node_health": 0 if reasons_of(driver) else 1,
            "scribe_writes_paused": is_paused(driver),
            "scribe_clock_offset_seconds": driver.clocks.offset_s,
            "scribe_storage_keys_total": figures.key_count,
            "scribe_storage_pending_bytes": figures.pending_bytes,
            "scribe_storage_set_aside": driver.room.kept,
            "scribe_raft_applied_index": driver.applier.applied_index,
            "scribe_raft_durable_index": driver.keeper.durable_index,
            "scribe_raft_proposals_pending": len(driver.writes),
            "scribe_merkle_tree_size": figures.tree_size,
            "scribe_idempotency_keys": driver.applier.machine.answer_count,
        }
        if state is not None:
            values |= {
                "scribe_raft_term": state.term,
                "scribe_raft_leader": state.role is Role.LEADER,
                "scribe_raft_has_leader": state.leader_id != NOBODY,
                "scribe_raft_voters": len(state.voters),
                "scribe_raft_commit_index": state.commit_index,
                "scribe_raft_last_index": state.log.last_index,
                "scribe_raft_snapshot_index": state.log.snapshot_index,
            }
            lags = {n: state.log.last_index - p.match_index for n, p in state.progress.items()}
            for node_id in self._peers_shown | lags.keys():
                self._instruments.gauge("scribe_raft_peer_lag_entries", peer=str(node_id)).set(lags.get(node_id, 0))
            self._peers_shown = set(lags)
        for name, value in values.items():
            self._gauges[name].set(value)
        self._bytes["ledger"].set(figures.ledger_bytes)
        self._bytes["log"].set(figures.log_bytes)
        self._bytes["cache"].set(figures.cache_bytes)
