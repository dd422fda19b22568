"""A client that writes all the time, through all nodes in turn, while a test does things to them."""

from __future__ import annotations

import threading

import httpx

from tests.cluster.harness import CLIENT_S, STEP_S, Cluster, await_value

WAIT_S = 60.0


class Writer:
    """Writes one key after the other until it is told to end; keeps what was acknowledged.

    Args:
        cluster: where to.
        name: its keys begin with it.
        node: the only node that it asks, else all in turn.
    """

    def __init__(self, cluster: Cluster, name: str, *, node: int | None = None) -> None:
        self._cluster = cluster
        self._name = name
        self._node = node
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.acknowledged: list[str] = []
        self.unexpected: list[str] = []
        self._errors: list[Exception] = []

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        if self._errors:
            raise self._errors[0]

    def _run(self) -> None:
        try:
            self._write()
        except Exception as error:
            self._errors.append(error)  # for whoever waits for the end of this thread

    def _write(self) -> None:
        number = 0
        with httpx.Client(headers={"X-API-Key": self._cluster.key}, timeout=CLIENT_S) as client:
            while not self._end.is_set():
                number += 1
                nodes = sorted(self._cluster.processes) if self._node is None else [self._node]
                if not nodes:
                    self._end.wait(STEP_S)
                    continue
                node = nodes[number % len(nodes)]
                key = f"{self._name}-{number}"
                try:
                    answer = client.put(self._cluster.url(node, f"/kv/{key}"), content=key.encode())
                except httpx.TransportError:
                    continue  # its outcome is not known
                if answer.status_code == 200:
                    self.acknowledged.append(key)
                elif answer.status_code not in {503, 504}:
                    self.unexpected.append(answer.text)

    def wait(self, count: int) -> None:
        """Until so many more writes are acknowledged."""
        goal = len(self.acknowledged) + count
        await_value(lambda: len(self.acknowledged) >= goal, f"{count} more writes", WAIT_S)

    def check(self, *nodes: int) -> None:
        """Everything acknowledged is there, on these nodes or else on all that run, and nothing odd was answered."""
        assert not self.unexpected
        assert len(self.acknowledged) >= 20
        for node in nodes or self._cluster.processes:
            lost = [key for key in self.acknowledged if not self._is_there(node, key)]
            assert not lost

    def _is_there(self, node: int, key: str) -> bool:
        """Whether a node holds what was written; one that cannot tell at the moment is asked again."""

        def read() -> httpx.Response | None:
            answer = self._cluster.get(node, f"/kv/{key}")
            assert answer.status_code in {200, 404, 503}, answer.text
            return answer if answer.status_code != 503 else None

        answer = await_value(read, f"node {node} to read {key}")
        return answer.status_code == 200 and answer.content == key.encode()
