"""POST /cluster/...: members come and go, leadership moves."""

from __future__ import annotations

import asyncio
import re
from typing import Final

from msgspec import Struct
from msgspec.structs import asdict, replace

from appliance.http.bodies import read_fields
from appliance.http.errands import Errands, while_client_waits
from appliance.http.exchange import Exchange, GatewayResponse
from appliance.http.limits import ADD_RETRY_S, ADD_WAIT_S
from appliance.http.query import flag, parse_query
from appliance.http.wire import json_response, safe_integer
from appliance.node.api import ChangeAnswer, NodeService
from appliance.tables.errors import ApplianceError

NODE_ID_MAX: Final = 65_535  # as [node] id
ADDRESS_CHARS_MAX: Final = 300  # a host name has at most 253
_ADDRESS: Final = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^\s:/@\[\]]+):(?P<port>[0-9]{1,5})", re.ASCII)
_WILDCARDS: Final = frozenset({"0.0.0.0", "[::]"})  # noqa: S104 - compared, not bound
_LEARNER: Final = "learner"


class Add(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of POST /cluster/nodes/add."""

    node_id: int
    address: str
    raft_address: str | None = None


class Remove(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of POST /cluster/nodes/remove."""

    node_id: int


class Transfer(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of POST /cluster/leader/transfer."""

    node_id: int | None = None


class MembershipRoutes:
    """What the routes under /cluster do that change it."""

    def __init__(self, node: NodeService, errands: Errands) -> None:
        self._node = node
        self._errands = errands

    async def add(self, exchange: Exchange) -> GatewayResponse:
        """Add a member; `?wait=false` answers as soon as it is a learner."""
        wait = flag(parse_query(exchange.request.query, ("wait",)), "wait", default=True)
        asked = await read_fields(exchange, Add)
        _check_node_id(asked.node_id)
        _check_address("address", asked.address)
        if asked.raft_address:
            _check_address("raft_address", asked.raft_address)
        work = self._node.add_member(asked.node_id, asked.address, asked.raft_address or "", wait=False)
        answer = await self._errands.run(exchange, work)
        if wait and answer.role == _LEARNER:
            answer = await self._until_voter(exchange, asked, answer)
        return _changed(answer)

    async def remove(self, exchange: Exchange) -> GatewayResponse:
        """Remove a member."""
        parse_query(exchange.request.query, ())
        node_id = _check_node_id((await read_fields(exchange, Remove)).node_id)
        return _changed(await self._errands.run(exchange, self._node.remove_member(node_id)))

    async def transfer(self, exchange: Exchange) -> GatewayResponse:
        """Let another voter lead."""
        parse_query(exchange.request.query, ())
        node_id = (await read_fields(exchange, Transfer)).node_id
        if node_id is not None:
            _check_node_id(node_id)
        answer = await self._errands.run(exchange, self._node.transfer_leadership(node_id))
        content = {
            "status": "ok",
            "leader_id": answer.leader_id,
            "term": safe_integer(answer.term),
            "changed": answer.changed,
        }
        return json_response(content)

    async def _until_voter(self, exchange: Exchange, asked: Add, begun: ChangeAnswer) -> ChangeAnswer:
        """Wait for the promotion, across changes of the leader; a learner is answered when time is over."""
        answer = begun
        try:
            async with asyncio.timeout(ADD_WAIT_S):
                while answer.role == _LEARNER:
                    work = self._node.add_member(asked.node_id, asked.address, asked.raft_address or "", wait=True)
                    try:
                        answer = await while_client_waits(exchange, work)
                    except ApplianceError as error:
                        if error.row.outcome_known and not error.row.retryable:
                            raise
                    if answer.role == _LEARNER:
                        await asyncio.sleep(ADD_RETRY_S)
        except TimeoutError:
            answer = replace(answer, members=self._node.cluster().members)
        return replace(answer, changed=begun.changed)


def _check_node_id(node_id: int) -> int:
    if not 1 <= node_id <= NODE_ID_MAX:
        raise ApplianceError("bad_request", f"node_id is from 1 to {NODE_ID_MAX}.")
    return node_id


def _check_address(name: str, text: str) -> None:
    """See that it is an address that other nodes can dial. Raises `bad_request` that names the field."""
    found = _ADDRESS.fullmatch(text) if len(text) <= ADDRESS_CHARS_MAX else None
    if found is None or not 1 <= int(found["port"]) <= 65_535:
        raise ApplianceError("bad_request", f"{name} is host:port or [IPv6]:port, not {text[:64]!r}.")
    if found["host"] in _WILDCARDS:
        raise ApplianceError(
            "bad_request", f"{name}: {text} is no address that other nodes can dial; write the node's own."
        )


def _changed(answer: ChangeAnswer) -> GatewayResponse:
    content = {
        "status": "ok",
        "node_id": answer.node_id,
        "role": answer.role,
        "changed": answer.changed,
        "index": safe_integer(answer.index),
        "members": [asdict(member) for member in answer.members],
    }
    return json_response(content)
