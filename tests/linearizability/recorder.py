"""Clients of real nodes that do a bit of everything, and the history of what they were told."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Final

import httpx

from .history import Outcome, Part, Record

KINDS: Final = ("put", "get", "cas", "delete", "batch")
WEIGHTS: Final = (30, 35, 15, 8, 12)
TIMEOUT_S: Final = 10.0
RETRY_S: Final = 30.0  # a client that may ask again does so for this long
PAUSE_S: Final = 0.05  # before another try
NOT_DONE: Final = frozenset({429, 503})  # surely not done, and said so by whoever was asked


@dataclass(slots=True)
class Clients:
    """Threads that ask the nodes for random operations until they are stopped.

    Args:
        urls: of the nodes that run at the moment; called for each attempt.
        key: API key.
        clients: how many threads.
        keys: how many keys they share, named `{name}-0` and so on.
        name: of this history; values and idempotency keys begin with it.
        seed: of the clients' choices.

    Attributes:
        records: what was asked and told, in the order of answers.
        gave_up: last attempts of operations that were tried again and again in vain.
        terms: of each acknowledged write, when its answer came (monotonic nanoseconds) and the term of its entry; of a
            write that was repeated that is its first entry's.
    """

    urls: Callable[[], Sequence[str]]
    key: str
    clients: int = 6
    keys: int = 12
    name: str = "h"
    seed: int = 0
    records: list[Record] = field(default_factory=list)
    gave_up: list[Record] = field(default_factory=list)
    terms: list[tuple[int, int]] = field(default_factory=list)
    _end: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)
    _errors: list[Exception] = field(default_factory=list)

    def __enter__(self) -> Clients:
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(self.clients)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()
        if self._errors:
            raise self._errors[0]

    def read_all(self) -> None:
        """Read every key at every node, as part of the history: after the last write, so that none may be missing."""
        with httpx.Client(headers={"X-API-Key": self.key}, timeout=TIMEOUT_S) as client:
            for url in self.urls():
                for number in range(self.keys):
                    parts = (Part("get", f"{self.name}-{number}"),)
                    record = self._attempt(client, url, self.clients, parts, None)
                    assert record.outcome in {Outcome.OK, Outcome.NOT_FOUND}, f"{url} does not answer: {record}"
                    self.records.append(record)

    def acknowledged(self) -> int:
        """How many writes were acknowledged so far."""
        return sum(record.outcome is Outcome.OK and not record.is_get for record in list(self.records))

    def longest_gap_s(self) -> float:
        """Longest time between two acknowledged writes."""
        ends = sorted(r.returned for r in self.records if r.outcome is Outcome.OK and not r.is_get and r.returned)
        return max((later - earlier for earlier, later in pairwise(ends)), default=0) / 1e9

    def _run(self, number: int) -> None:
        chance = random.Random(f"{self.seed}/{self.name}/{number}")
        known: dict[str, int] = {}
        count = 0
        with httpx.Client(headers={"X-API-Key": self.key}, timeout=TIMEOUT_S) as client:
            try:
                while not self._end.is_set():
                    count += 1
                    self._operation(client, chance, number, count, known)
            except Exception as error:
                self._errors.append(error)

    def _operation(
        self, client: httpx.Client, chance: random.Random, number: int, count: int, known: dict[str, int]
    ) -> None:
        parts = self._parts(chance, f"{number}.{count}", known)
        is_get = parts[0].op == "get"
        name = f"{self.name}-{number}-{count}" if not is_get and chance.random() < 0.5 else None
        give_up_s = time.monotonic() + RETRY_S
        while True:
            record = self._attempt(client, chance.choice(self.urls()), number, parts, name)
            self.records.append(record)
            if record.outcome is Outcome.OK:
                versions = (record.version,) if is_get else record.versions
                known.update({p.key: v for p, v in zip(parts, versions, strict=True) if v is not None})
            again = record.outcome is Outcome.REFUSED or (
                record.outcome is Outcome.UNKNOWN and (is_get or name is not None)
            )
            if not again or self._end.is_set():
                return
            if time.monotonic() > give_up_s:
                self.gave_up.append(record)
                return
            self._end.wait(PAUSE_S)

    def _parts(self, chance: random.Random, value: str, known: Mapping[str, int]) -> tuple[Part, ...]:
        kind = chance.choices(KINDS, WEIGHTS)[0]
        one, two = (f"{self.name}-{n}" for n in chance.sample(range(self.keys), 2))
        if kind == "get":
            return (Part("get", one),)
        if kind == "delete":
            return (Part("delete", one),)
        if kind == "cas":
            return (Part("put", one, value, known.get(one, 0)),)
        if kind == "batch":
            return (Part("put", one, value), Part("put", two, f"{value}'"))
        return (Part("put", one, value),)

    def _attempt(
        self, client: httpx.Client, url: str, number: int, parts: tuple[Part, ...], name: str | None
    ) -> Record:
        asked = Record(number, time.monotonic_ns(), None, parts, Outcome.UNKNOWN, idempotency_key=name)
        try:
            answer = _send(client, url, parts, name)
        except httpx.ConnectError:
            return replace(asked, outcome=Outcome.REFUSED, returned=time.monotonic_ns())
        except httpx.TransportError:
            return asked  # it may have been carried out
        record = _answered(replace(asked, returned=time.monotonic_ns()), answer)
        if record.outcome is Outcome.OK and not record.is_get and record.returned is not None:
            self.terms.append((record.returned, int(answer.json()["term"])))
        return record


def _send(client: httpx.Client, url: str, parts: tuple[Part, ...], name: str | None) -> httpx.Response:
    headers = {} if name is None else {"Idempotency-Key": name}
    first = parts[0]
    place = f"{url}/kv/{first.key}"
    if len(parts) > 1:
        operations = [{"op": "put", "key": part.key, "value": part.value} for part in parts]
        return client.post(f"{url}/batch", json={"operations": operations}, headers=headers)
    if first.op == "get":
        return client.get(place)
    if first.op == "delete":
        return client.delete(place, headers=headers)
    if first.if_version == 0:
        headers["If-None-Match"] = "*"
    elif first.if_version is not None:
        headers["If-Match"] = f'"{first.if_version}"'
    return client.put(place, content=(first.value or "").encode(), headers=headers)


def _answered(asked: Record, answer: httpx.Response) -> Record:
    """The record with what an answer says."""
    status = answer.status_code
    if status in NOT_DONE:
        return replace(asked, outcome=Outcome.REFUSED)
    if status == 504:
        return replace(asked, outcome=Outcome.UNKNOWN, returned=None)
    if status == 404:
        return replace(asked, outcome=Outcome.NOT_FOUND)
    if status == 412:
        return replace(asked, outcome=Outcome.CONDITION_FAILED, current_version=answer.json()["current_version"])
    if status != 200:
        raise AssertionError(f"{status} to {asked}: {answer.text}")
    if asked.is_get:
        version = int(answer.headers["ETag"].strip('"'))
        return replace(asked, outcome=Outcome.OK, version=version, value=answer.text)
    told: dict[str, Any] = answer.json()
    results = told["results"] if len(asked.parts) > 1 else [told]
    return replace(
        asked,
        outcome=Outcome.OK,
        versions=tuple(int(one["version"]) for one in results),
        leaf_indexes=tuple(int(one["leaf_index"]) for one in results),
        index=int(told["index"]),
    )
