"""Clients: they write, compare-and-set and read, wait for an answer, and repeat what may be repeated."""

from __future__ import annotations

from typing import TYPE_CHECKING

from appliance.ledger.commands import (
    MUST_BE_ABSENT,
    SALT_BYTES,
    Op,
    Operation,
    Outcome,
    WriteRequest,
    WriteResult,
    encode_write,
)

from .histories import History
from .plan import TICK
from .state import ANSWERS_MAX, Value

if TYPE_CHECKING:
    from .world import World

TRIES_MAX = 6
PATIENCE_TICKS = 25
REDIRECTS_MAX = 3


class Operations:
    """What a client wants: one operation with everything that stays the same when it is tried again."""

    def __init__(self, number: int, kind: str, operations: tuple[Operation, ...], idempotent: bool) -> None:
        self.number = number
        self.kind = kind
        self.operations = operations
        self.idempotency_key = f"k{number}" if idempotent else None
        self.tries = 0
        self.floors: dict[str, int] = {}


class Attempt:
    """One try of an operation at one node."""

    def __init__(self, client: Client, operation: Operations, number: int) -> None:
        self.client = client
        self.operation = operation
        self.number = number
        self.open = True
        self.redirects = 0
        self.node_id = 0
        self.proposed: tuple[int, int] | None = None
        self.read_context = 0

    @property
    def key(self) -> str:
        return self.operation.operations[0].key

    @property
    def request_id(self) -> str:
        return f"r{self.number}"

    def encode(self, stamp_us: int) -> bytes:
        operation = self.operation
        name = operation.idempotency_key
        request = WriteRequest(
            operation.operations,
            "sim",
            self.request_id,
            len(operation.operations) > 1,
            name,
            name.encode() if name else b"",
        )
        return encode_write(request, stamp_us, bytes(SALT_BYTES * len(operation.operations)), ANSWERS_MAX)


class Client:
    """One client, one operation at a time."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.number = number
        self.chance = world.plan.stream(f"client{number}")
        self.versions: dict[str, int] = {}
        self.node_id = 1 + number % world.plan.nodes
        self.current: Attempt | None = None
        self.last_outcome = ""


class Clients:
    """All clients, and what they were told."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.history = History(world)
        self.clients = [Client(world, n) for n in range(world.plan.clients)]
        self.attempts = 0
        self.operations = 0
        self.stopped = False

    def start(self) -> None:
        for client in self.clients:
            self._think(client)

    def _think(self, client: Client) -> None:
        pause = client.chance.randrange(1, 2 * self.world.plan.think_ticks * TICK)
        self.world.after(pause, self._begin, client)

    def _begin(self, client: Client) -> None:
        if self.stopped:
            return
        self._try(client, self.make_operation(client))

    def make_operation(self, client: Client) -> Operations:
        """Draw the client's next operation."""
        chance = client.chance
        self.operations += 1
        number = self.operations
        kind = chance.choices(("put", "get", "cas", "delete", "batch"), (30, 35, 15, 8, 12))[0]
        keys = chance.sample(range(self.world.plan.keys), 2)
        value = b"%d.%d" % (client.number, number) + b"x" * chance.choice((0, 0, 30, 400))
        key = f"key{keys[0]}"
        known = client.versions.get(key, MUST_BE_ABSENT)
        if kind in ("put", "get"):
            operations: tuple[Operation, ...] = (Operation(Op.PUT, key, value),)
        elif kind == "cas":
            operations = (Operation(Op.PUT, key, value, known),)
        elif kind == "delete":
            operations = (Operation(Op.DELETE, key),)
        else:
            operations = (Operation(Op.PUT, key, value), Operation(Op.PUT, f"key{keys[1]}", value + b"'"))
        operation = Operations(number, kind, operations, kind != "get" and chance.random() < 0.6)
        operation.floors = {o.key: self.world.checker.floors.get(o.key, 0) for o in operations}
        return operation

    def put_now(self, client: Client) -> None:
        """Let an idle client write, whatever it would rather do."""
        self.operations += 1
        put = Operation(Op.PUT, "key0", b"last.%d" % self.operations)
        operation = Operations(self.operations, "put", (put,), True)
        operation.floors = {"key0": self.world.checker.floors.get("key0", 0)}
        self._try(client, operation)

    def _try(self, client: Client, operation: Operations) -> None:
        operation.tries += 1
        self.attempts += 1
        attempt = client.current = Attempt(client, operation, self.attempts)
        if client.chance.random() < 0.3:
            client.node_id = client.chance.randint(1, len(self.world.nodes))
        self.world.count(f"{operation.kind} tried")
        self.world.trace("client", client.number, operation.kind, attempt.key, attempt.request_id, "at", client.node_id)
        self.world.after(PATIENCE_TICKS * TICK, self._out_of_patience, attempt)
        self.history.asked(attempt)
        self._hand_in(attempt, client.node_id)

    def _hand_in(self, attempt: Attempt, node_id: int) -> None:
        attempt.node_id = node_id
        node = self.world.nodes[node_id]
        if node.core is None:
            self.failed(attempt)
        elif attempt.operation.kind == "get":
            node.read(attempt)
        else:
            node.propose(attempt)

    def redirect(self, attempt: Attempt, leader_id: int) -> None:
        """The node does not lead: go to the one that it takes for the leader."""
        if leader_id in (0, attempt.node_id) or attempt.redirects == REDIRECTS_MAX:
            self.failed(attempt)
            return
        attempt.redirects += 1
        attempt.client.node_id = leader_id
        self.world.after(self.world.plan.latency[0], self._hand_in_again, attempt, leader_id)

    def _hand_in_again(self, attempt: Attempt, node_id: int) -> None:
        if attempt.open:
            self._hand_in(attempt, node_id)

    # -- outcomes

    def written(self, attempt: Attempt, result: WriteResult) -> None:
        """The write was applied at its (index, term)."""
        if not attempt.open:
            return
        self.history.written(attempt, result)
        operation = attempt.operation
        for key, floor in operation.floors.items():
            self.world.checker.acknowledge(key, result, floor)
        if result.outcome is Outcome.OK:
            for one in result.results:
                attempt.client.versions[one.key] = one.version
        self._close(attempt, f"{operation.kind} {result.outcome.value}" + (" again" if result.replayed else ""))

    def was_read(self, attempt: Attempt, value: Value) -> None:
        """A linearizable read was answered."""
        if not attempt.open:
            return
        self.history.was_read(attempt, value)
        self.world.checker.check_read(attempt.key, value, attempt.operation.floors[attempt.key])
        attempt.client.versions[attempt.key] = value.version if value.value is not None else MUST_BE_ABSENT
        self._close(attempt, "get ok")

    def failed(self, attempt: Attempt) -> None:
        """It surely did not happen."""
        if not attempt.open:
            return
        self.history.failed(attempt)
        self.world.checker.call_failed(attempt.request_id)
        self._give_up(attempt, "failed")

    def unknown(self, attempt: Attempt) -> None:
        """Nobody can say whether it happened."""
        if attempt.open:
            self.history.unknown(attempt)
            self._give_up(attempt, "unknown")

    def _out_of_patience(self, attempt: Attempt) -> None:
        if attempt.open and attempt.operation.kind == "get":
            self.world.nodes[attempt.node_id].forget_read(attempt)
        self.unknown(attempt)

    def _give_up(self, attempt: Attempt, outcome: str) -> None:
        operation, client = attempt.operation, attempt.client
        attempt.open = False
        again = outcome == "failed" or operation.kind == "get" or operation.idempotency_key is not None
        self.world.trace("client", client.number, attempt.request_id, attempt.key, outcome)
        if again and operation.tries < TRIES_MAX:
            client.node_id = 1 + client.node_id % len(self.world.nodes)
            pause = client.chance.randrange(1, 4 * TICK)
            self.world.after(pause, self._try, client, operation)
            return
        self._finish(client, f"{operation.kind} {outcome}")

    def _close(self, attempt: Attempt, outcome: str) -> None:
        attempt.open = False
        self.world.trace("client", attempt.client.number, attempt.request_id, attempt.key, outcome)
        self._finish(attempt.client, outcome)

    def _finish(self, client: Client, outcome: str) -> None:
        client.current = None
        client.last_outcome = outcome
        self.world.count(outcome)
        self._think(client)
