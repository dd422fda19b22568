"""Quick looks at nodes: one attempt each, all at once. Plain `http.client`, so that a health check starts fast."""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import msgspec

from appliance.cli.exits import no_node_known
from appliance.cli.session import Session
from appliance.cli.shapes import NodeHealth, NodeStatus

PROBE_TIMEOUT_S: Final = 3.0
BODY_BYTES_MAX: Final = 1024 * 1024

_T = TypeVar("_T")


def health_of(url: str, session: Session) -> NodeHealth:
    """Ask a node for its health; one that does not answer is `unreachable`."""
    try:
        status, body = _get(url, "/health", session, with_key=False)
    except (OSError, http.client.HTTPException) as error:
        return _without_figures(url, "unreachable", str(error) or type(error).__name__)
    try:
        found = msgspec.json.decode(body)
        return NodeHealth(
            url=url,
            healthy=status == 200,
            status="ok" if status == 200 else str(found.get("code") or found.get("status")),
            node_id=found["node_id"],
            role=found["role"],
            leader_id=found["leader_id"],
            term=int(found["term"]),
            commit_index=int(found["commit_index"]),
            applied_index=int(found["applied_index"]),
            lag=int(found["lag"]),
            alarms=[str(alarm) for alarm in found.get("alarms", ())],
            reasons=[str(reason) for reason in found.get("reasons", ())],
        )
    except (msgspec.MsgspecError, UnicodeDecodeError, KeyError, TypeError, ValueError, AttributeError):
        detail = body[:200].decode("utf-8", "replace")
        return _without_figures(url, "unhealthy", f"HTTP {status}: {detail}")


def status_of(url: str, session: Session) -> NodeStatus:
    """Ask a node for its health and its figures."""
    health = health_of(url, session)
    figures: dict[str, Any] = {}
    if health.status != "unreachable":
        try:
            status, body = _get(url, "/metrics", session, with_key=True)
            figures = msgspec.json.decode(body) if status == 200 else {}
        except (OSError, http.client.HTTPException, msgspec.MsgspecError):
            figures = {}
    merkle, storage = figures.get("merkle", {}), figures.get("storage", {})
    size, keys = merkle.get("tree_size"), storage.get("keys")
    return NodeStatus(
        health=health,
        keys=None if keys is None else int(keys),
        tree_size=None if size is None else int(size),
        root_hash=merkle.get("root_hash"),
    )


def members_of(url: str, session: Session) -> list[dict[str, Any]]:
    """Ask a node for the members as it sees them; none when it does not tell."""
    try:
        status, body = _get(url, "/cluster/nodes", session, with_key=True)
        found = msgspec.json.decode(body) if status == 200 else {}
    except (OSError, http.client.HTTPException, msgspec.MsgspecError):
        return []
    return list(found.get("nodes", ())) if isinstance(found, dict) else []


def info_of(url: str, session: Session) -> dict[str, Any]:
    """Ask a node for the cluster as it sees it, itself included; nothing when it does not tell."""
    return _object_at(url, "/cluster/info", session)


def figures_of(url: str, session: Session) -> dict[str, Any]:
    """Ask a node for its figures; nothing when it does not tell."""
    return _object_at(url, "/metrics", session)


def _object_at(url: str, path: str, session: Session) -> dict[str, Any]:
    try:
        status, body = _get(url, path, session, with_key=True)
        found = msgspec.json.decode(body) if status == 200 else {}
    except (OSError, http.client.HTTPException, msgspec.MsgspecError, UnicodeDecodeError):
        return {}
    return found if isinstance(found, dict) else {}


def probe_all(urls: Sequence[str], session: Session, probe: Callable[[str, Session], _T]) -> list[_T]:
    """Look at all nodes at once. Raises `CliError` when no node is known."""
    if not urls:
        raise no_node_known()
    if len(urls) == 1:
        return [probe(urls[0], session)]
    with ThreadPoolExecutor(max_workers=min(len(urls), 16)) as pool:
        return list(pool.map(lambda url: probe(url, session), urls))


def _without_figures(url: str, status: str, reason: str) -> NodeHealth:
    return NodeHealth(
        url=url,
        healthy=False,
        status=status,
        node_id=None,
        role=None,
        leader_id=None,
        term=None,
        commit_index=None,
        applied_index=None,
        lag=None,
        alarms=[],
        reasons=[reason],
    )


def _get(url: str, path: str, session: Session, *, with_key: bool) -> tuple[int, bytes]:
    pieces = urlsplit(url)
    timeout_s = min(session.timeout_s, PROBE_TIMEOUT_S)
    connection: http.client.HTTPConnection
    host = pieces.hostname or ""
    if pieces.scheme == "https":
        context = ssl.create_default_context(cafile=session.ca_file or None)
        connection = http.client.HTTPSConnection(host, pieces.port, timeout=timeout_s, context=context)
    else:
        connection = http.client.HTTPConnection(host, pieces.port, timeout=timeout_s)
    try:
        headers = {"X-API-Key": session.api_key} if with_key and session.api_key else {}
        connection.request("GET", pieces.path + path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read(BODY_BYTES_MAX)
    finally:
        connection.close()
