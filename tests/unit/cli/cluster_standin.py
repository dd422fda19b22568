"""What the stand-in nodes know of their cluster: members that come, catch up and go, and a pause of writes.

The first member leads and is the node that is asked. A learner becomes a voter when it was looked at `looks` times.
"""

from __future__ import annotations

import threading
from typing import Any

Row = dict[str, Any]


def row(node_id: int, role: str = "voter", *, connected: bool = True, address: str = "") -> Row:
    """A member as GET /cluster/nodes shows it."""
    return {
        "node_id": node_id,
        "incarnation": f"{node_id:016x}",
        "role": role,
        "address": address or f"10.0.1.{node_id}:8001",
        "raft_address": f"10.0.1.{node_id}:9001",
        "is_leader": node_id == 1,
        "is_self": node_id == 1,
        "connected": connected,
        "match_index": 7,
        "lag": 1234 if role == "learner" else 0,
        "last_contact_s": 0.1,
        "version": "0.1.0",
    }


class Roster:
    """The members of a stand-in cluster. `refuse` maps a path to the error code that it answers."""

    def __init__(self, *members: Row, looks: int = 0, unsettled: tuple[int, ...] = ()) -> None:
        self.members = {member["node_id"]: member for member in members or (row(1), row(2), row(3))}
        self.looks = looks
        self.unsettled = list(unsettled)
        self.refuse: dict[str, str] = {}
        self.resynced = False
        self.asked: list[tuple[str, Row]] = []
        self._lock = threading.Lock()

    def look(self) -> list[Row]:
        """The members, and one look less until learners are voters."""
        with self._lock:
            self.looks -= 1
            if self.looks < 0:
                for member in self.members.values():
                    member["role"] = "voter"
            return list(self.members.values())

    def info(self) -> Row:
        """What node 1 says of itself: another incarnation once it was resynced."""
        me = self.members[1]
        return {"node_id": 1, "role": me["role"], "incarnation": f"{9 if self.resynced else 1:016x}"}

    def change(self, path: str, asked: Row) -> tuple[str, Row]:
        """Carry out a change: an error code or its answer."""
        with self._lock:
            self.asked.append((path, asked))
            if path in self.refuse:
                return self.refuse[path], {}
            return "", {"status": "ok", **self._carry_out(path, asked)}

    def _carry_out(self, path: str, asked: Row) -> Row:
        node_id = asked.get("node_id")
        match path:
            case "/cluster/nodes/add":
                changed = node_id not in self.members
                if changed:
                    self.members[node_id] = row(node_id, "learner", address=asked["address"])
                return self._changed(node_id, self.members[node_id]["role"], changed)
            case "/cluster/nodes/remove":
                return self._changed(node_id, "removed", self.members.pop(node_id, None) is not None)
            case "/cluster/leader/transfer":
                return {"leader_id": node_id or 2, "term": str(2**60), "changed": node_id != 1}
            case "/admin/pause-writes":
                return self._paused("2026-11-23T19:40:31.123456Z")
            case "/admin/resume-writes":
                return self._paused(None)
            case "/admin/scrub" | "/admin/resync" | "/admin/compact":
                return self._work(path)
        raise AssertionError(path)

    def _work(self, path: str) -> Row:
        """What one node does to its own data."""
        match path:
            case "/admin/scrub":
                return {"number": 4, "running": True}
            case "/admin/resync":
                self.resynced = True
                return {"node_id": 1, "changed": True, "incarnation": f"{1:016x}"}
            case _:
                figures = ("snapshot_index", "entries_dropped", "log_bytes_before", "log_bytes_after")
                return {
                    **dict.fromkeys(figures, 2048),
                    "ledger_bytes_before": str(2**60),
                    "ledger_bytes_after": 4096,
                    "seconds": 1.5,
                }

    def _changed(self, node_id: Any, role: str, changed: bool) -> Row:
        members = list(self.members.values())
        return {"node_id": node_id, "role": role, "changed": changed, "index": 11, "members": members}

    def _paused(self, until: str | None) -> Row:
        settled = [node_id for node_id in self.members if node_id not in self.unsettled]
        unsettled = self.unsettled if until else []
        paused = until is not None
        return {"paused": paused, "paused_until": until, "index": 12, "settled": settled, "unsettled": unsettled}
