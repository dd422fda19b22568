"""The part of the tests' node that changes the cluster: it keeps the rules of `NodeService` and does nothing else."""

from __future__ import annotations

import asyncio

from msgspec.structs import replace

from appliance.node.api import (
    ChangeAnswer,
    ClusterInfo,
    CompactAnswer,
    MemberInfo,
    PauseAnswer,
    ResyncAnswer,
    ScrubFigures,
    TransferAnswer,
)

PAUSED_UNTIL_US = 1_795_462_831_123_456  # 2026-11-23T19:40:31.123456Z
FOUNDERS = (1, 2)


class ClusterCalls:
    """Members beside the founders, and what was asked. `change_fault` is raised by every change; with `change_hold` a
    change waits before it is made, and until `promoted` is set a new member stays a learner. `wait_faults` are raised,
    one each, by those who wait for that.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[object, ...]] = []
        self.joined: dict[int, MemberInfo] = {}
        self.change_fault: Exception | None = None
        self.change_hold: asyncio.Event | None = None
        self.promoted = asyncio.Event()
        self.promoted.set()
        self.wait_faults: list[Exception] = []
        self.waiting = 0
        self.done: list[str] = []

    def cluster(self) -> ClusterInfo:
        raise NotImplementedError

    async def pause_writes(self, ttl_s: float, actor: str, request_id: str) -> PauseAnswer:
        await self._change("pause", ttl_s, actor, request_id)
        return PauseAnswer(PAUSED_UNTIL_US, 2**60, (1,), (2,))

    async def resume_writes(self, actor: str, request_id: str) -> PauseAnswer:
        await self._change("resume", actor, request_id)
        return PauseAnswer(0, 12, (1, 2), ())

    async def compact(self) -> CompactAnswer:
        await self._change("compact")
        return CompactAnswer(900, 850, 2**21, 2**20, 2**60, 2**23, 1.23456)

    async def scrub(self, rate: int, *, wait: bool) -> ScrubFigures:
        await self._change("scrub", rate, wait)
        return ScrubFigures(
            running=not wait, number=3, rate=rate, share=0.25, bytes_read=2**60, findings=1, details=("leaf 3",)
        )

    async def resync(self, incarnation: int | None) -> ResyncAnswer:
        await self._change("resync", incarnation)
        return ResyncAnswer(1, incarnation in (None, 7), 7)

    async def add_member(self, node_id: int, address: str, raft_address: str, *, wait: bool) -> ChangeAnswer:
        if not wait:
            await self._change("add", node_id, address, raft_address)
        changed = node_id not in FOUNDERS and node_id not in self.joined
        if changed:
            self.joined[node_id] = MemberInfo(
                node_id, "7", "learner", address, raft_address, False, False, True, 3, 9, 0.1, "0.1.0"
            )
        if wait:
            await self._wait_for_promotion(node_id)
        role = self.joined[node_id].role if node_id in self.joined else "voter"
        return ChangeAnswer(node_id, role, changed, 11, self.cluster().members)

    async def _wait_for_promotion(self, node_id: int) -> None:
        if self.wait_faults:
            raise self.wait_faults.pop(0)
        self.waiting += 1
        try:
            await self.promoted.wait()
        finally:
            self.waiting -= 1
        self.joined[node_id] = replace(self.joined[node_id], role="voter")

    async def remove_member(self, node_id: int) -> ChangeAnswer:
        await self._change("remove", node_id)
        changed = self.joined.pop(node_id, None) is not None
        return ChangeAnswer(node_id, "removed", changed, 12, self.cluster().members)

    async def transfer_leadership(self, node_id: int | None) -> TransferAnswer:
        await self._change("transfer", node_id)
        return TransferAnswer(node_id or 2, 8, node_id != 1)

    async def _change(self, *what: object) -> None:
        self.asked.append(what)
        if self.change_hold is not None:
            await self.change_hold.wait()
        if self.change_fault is not None:
            raise self.change_fault
        self.done.append(str(what[0]))
