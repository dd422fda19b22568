"""Keys that are there before a row reads them, written in batches over a few connections."""

from __future__ import annotations

import http.client
from concurrent.futures import ThreadPoolExecutor
from typing import Final
from urllib.parse import urlsplit

from benchmarks.clusters import Cluster

CONNECTIONS: Final = 4
TIMEOUT_S: Final = 60.0


def key_at(number: int) -> str:
    """The key with a number, as the load's script names it."""
    return f"bench/{number:09d}"


def fill(cluster: Cluster, keys: int, *, begin: int = 0, value_bytes: int = 128) -> None:
    """Put the keys with numbers from `begin` up to `keys`, wait for what they leave to do, and see that they are there.

    Raises:
        RuntimeError: a batch was refused, or keys are missing afterwards.
    """
    if keys <= begin:
        return
    starts = range(begin, keys, cluster.batch_max)
    address = urlsplit(cluster.urls[cluster.leader()]).netloc
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        shares = [starts[share::CONNECTIONS] for share in range(CONNECTIONS)]
        for done in [pool.submit(_fill_share, cluster, address, share, keys, value_bytes) for share in shares]:
            done.result()
    cluster.rest()
    found = cluster.key_count()
    if found < keys:
        raise RuntimeError(f"{cluster.name} has {found} keys after a fill of {keys}")


def _fill_share(cluster: Cluster, address: str, starts: range, end: int, value_bytes: int) -> None:
    value = "v" * value_bytes
    connection = http.client.HTTPConnection(address, timeout=TIMEOUT_S)
    headers = {"X-API-Key": cluster.token, "Content-Type": "application/json"}
    try:
        for start in starts:
            pairs = [(key_at(number), value) for number in range(start, min(start + cluster.batch_max, end))]
            path, body = cluster.batch(pairs)
            connection.request("POST", path, body, headers)
            answer = connection.getresponse()
            text = answer.read()
            if answer.status != 200:
                raise RuntimeError(f"{cluster.name} refused a batch of the fill: {answer.status} {text[:200]!r}")
    finally:
        connection.close()
