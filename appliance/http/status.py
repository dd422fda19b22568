"""Health, figures and the cluster, as this node sees them; no quorum is asked."""

from __future__ import annotations

import asyncio
from typing import Any

from msgspec.structs import asdict

from appliance.http.exchange import Exchange, GatewayResponse
from appliance.http.meter import Meter
from appliance.http.ports import RenderMetrics
from appliance.http.problems import RefusedError
from appliance.http.query import parse_query
from appliance.http.wire import json_response, rfc3339, safe_integer
from appliance.node.api import Health, MemberInfo, NodeService, ScrubFigures
from appliance.tables.errors import ApplianceError


class StatusRoutes:
    """What the routes under /health, /metrics and /cluster do."""

    def __init__(self, node: NodeService, meter: Meter, render_metrics: RenderMetrics) -> None:
        self._node = node
        self._meter = meter
        self._render_metrics = render_metrics

    async def health(self, exchange: Exchange) -> GatewayResponse:
        """200 when the node can serve linearizable reads, else 503 `unhealthy` with the reasons."""
        parse_query(exchange.request.query, ())
        health = self._node.health()
        if health.healthy:
            return json_response({"status": "ok", **_health(health)})
        reasons = "; ".join(health.reasons)
        raise RefusedError(
            "unhealthy",
            f"This node cannot serve linearizable reads: {reasons}.",
            members={**_health(health), "reasons": list(health.reasons)},
        )

    async def live(self, exchange: Exchange) -> GatewayResponse:
        """The process answers."""
        parse_query(exchange.request.query, ())
        return json_response({"status": "ok"})

    async def figures(self, exchange: Exchange) -> GatewayResponse:
        """Figures of storage, Raft, tree and latency as JSON."""
        parse_query(exchange.request.query, ())
        figures, cluster = self._node.figures(), self._node.cluster()
        content = {
            "storage": {
                "keys": safe_integer(figures.key_count),
                "capacity_keys": safe_integer(figures.capacity_keys),
                "ledger_bytes": safe_integer(figures.ledger_bytes),
                "log_bytes": safe_integer(figures.log_bytes),
                "pending_bytes": safe_integer(figures.pending_bytes),
                "cache_bytes": safe_integer(figures.cache_bytes),
            },
            "raft": {
                "node_id": cluster.identity.node_id,
                "role": cluster.role,
                "leader_id": cluster.leader_id,
                "term": safe_integer(cluster.term),
                "commit_index": safe_integer(cluster.commit_index),
                "applied_index": safe_integer(cluster.applied_index),
                "last_index": safe_integer(cluster.last_index),
                "snapshot_index": safe_integer(cluster.snapshot_index),
            },
            "merkle": {
                "tree_size": safe_integer(figures.tree_size),
                "root_hash": figures.root_hash,
                "published_size": safe_integer(figures.published_size),
                "state_hash": figures.state_hash,
            },
            "compaction": {
                "running": figures.compaction.running,
                "entries_left": safe_integer(figures.compaction.entries_left),
                "bytes_left": safe_integer(figures.compaction.bytes_left),
                "freed_bytes": safe_integer(figures.compaction.freed_bytes),
                "seconds": figures.compaction.seconds,
            },
            "scrub": scrub_content(figures.scrub),
            "latency_ms": self._meter.latency_ms(),
        }
        return json_response(content)

    async def exposition(self, exchange: Exchange) -> GatewayResponse:
        """Prometheus text or OpenMetrics; rendered on a worker thread, because it takes tens of milliseconds."""
        parse_query(exchange.request.query, ())
        accept = exchange.head.get(b"accept", b"").decode("latin-1")
        body, content_type = await asyncio.to_thread(self._render_metrics, accept)
        return GatewayResponse(200, [(b"content-type", content_type.encode())], body)

    async def cluster(self, exchange: Exchange) -> GatewayResponse:
        """The cluster with all its members."""
        parse_query(exchange.request.query, ())
        cluster = self._node.cluster()
        content = {
            "cluster_id": cluster.identity.cluster_id,
            "node_id": cluster.identity.node_id,
            "incarnation": f"{cluster.identity.incarnation:016x}",
            "version": cluster.version,
            "role": cluster.role,
            "term": safe_integer(cluster.term),
            "leader_id": cluster.leader_id,
            "leader_address": cluster.leader_address,
            "commit_index": safe_integer(cluster.commit_index),
            "applied_index": safe_integer(cluster.applied_index),
            "last_index": safe_integer(cluster.last_index),
            "snapshot_index": safe_integer(cluster.snapshot_index),
            "quorum": cluster.quorum,
            "verifier_key": cluster.verifier_key or None,
            "key_history": cluster.key_history,
            "members": [asdict(member) for member in cluster.members],
        }
        return json_response(content)

    async def nodes(self, exchange: Exchange) -> GatewayResponse:
        """The members of the cluster."""
        parse_query(exchange.request.query, ())
        return json_response({"nodes": [asdict(member) for member in self._node.cluster().members]})

    async def leader(self, exchange: Exchange) -> GatewayResponse:
        """The leader that this node knows. Raises `no_leader`."""
        parse_query(exchange.request.query, ())
        cluster = self._node.cluster()
        if not cluster.leader_id:
            raise ApplianceError("no_leader", f"This node knows no leader in term {cluster.term}; try again shortly.")
        leader: MemberInfo | None = next((m for m in cluster.members if m.node_id == cluster.leader_id), None)
        content = {
            "leader_id": cluster.leader_id,
            "address": cluster.leader_address,
            "raft_address": leader.raft_address if leader else None,
            "version": leader.version if leader else None,
            "term": safe_integer(cluster.term),
            "is_self": cluster.leader_id == cluster.identity.node_id,
        }
        return json_response(content)


def scrub_content(figures: ScrubFigures) -> dict[str, Any]:
    """How a scrub stands."""
    return {
        "running": figures.running,
        "number": figures.number,
        "rate": safe_integer(figures.rate),
        "share": round(figures.share, 4),
        "bytes_read": safe_integer(figures.bytes_read),
        "findings": safe_integer(figures.findings),
        "details": list(figures.details),
        "completed_at": rfc3339(figures.completed_us) if figures.completed_us else None,
        "seconds": round(figures.seconds, 3),
    }


def _health(health: Health) -> dict[str, Any]:
    return {
        "node_id": health.node_id,
        "role": health.role,
        "leader_id": health.leader_id,
        "term": safe_integer(health.term),
        "commit_index": safe_integer(health.commit_index),
        "applied_index": safe_integer(health.applied_index),
        "lag": safe_integer(health.lag),
        "alarms": list(health.alarms),
    }
