"""Bounds of the gateway that are no settings. What a client may make larger without end has its bound here."""

from __future__ import annotations

from typing import Final

MIB = 1024 * 1024

HEAD_BYTES_MAX: Final = 65_536
"""Request line and headers; nginx allows 32 KiB. A key of 1,024 bytes takes 3 KiB when it is percent-encoded."""

HEAD_TIMEOUT_S: Final = 20.0
"""Time for a request's head to come in once the connection is open or its first byte is there."""

BODY_TIMEOUT_S: Final = 60.0
"""Time for a request's body to come in, from when it is first waited for."""

BODIES_BYTES_MAX: Final = 256 * MIB
"""Bodies that are still coming in, of all connections together: sixteen of the largest batch, or four of the largest
value that can be configured. Beyond it 503 `overloaded`. What the connections' own buffers hold is not counted: each
has 64 KiB and one read.
"""

LAST_CALL_S: Final = 0.25
"""How long an idle connection stays open when the server stops, for a request that is on its way."""

LINGER_S: Final = 2.0
"""How long a connection on which a request was refused is kept for the client to read what was answered before."""

KEEP_ALIVE_S: Final = 75
"""How long an idle connection stays open (nginx: 75), and a client may read nothing of an answer."""

HOT_TARGET_BYTES_MAX: Final = 4096
"""Target of a request on the fast path: the longest key, percent-encoded, and some more. A longer one, refused or not,
goes the long way, whose parser takes 65,535.
"""

PIPELINE_MAX: Final = 1000
"""Requests that wait on one connection for their turn; each takes some KiB. A client that sends more is closed."""

CONNECTIONS_MAX: Final = 10_000
"""Open client connections; a further one is answered with 503 `overloaded`."""

BATCH_BYTES_MAX: Final = 16 * MIB
"""Body of POST /batch, and the values in it together; it becomes one entry of the log."""

AUDIT_BYTES_MAX: Final = 256 * 1024
"""Body of POST /audit/query."""

CHANGE_BYTES_MAX: Final = 64 * 1024
"""Body of a request that changes the cluster or a node: a few short fields."""

ERRANDS_MAX: Final = 64
"""Changes of the cluster or a node under way at once, those included whose clients have gone away."""

ADD_WAIT_S: Final = 600.0
"""How long POST /cluster/nodes/add waits for the new member to catch up; then it answers that it is a learner yet."""

ADD_RETRY_S: Final = 0.5
"""Pause of that wait when it has to be begun anew: the leader has changed, say."""

PAUSE_TTL_DEFAULT_S: Final = 900
PAUSE_TTL_MAX_S: Final = 86_400
"""How long writes may be paused; the least is one second."""

SCRUB_RATE_DEFAULT: Final = 16 * MIB
SCRUB_RATE_MIN: Final = 64 * 1024
SCRUB_RATE_MAX: Final = 2**40
"""Bytes a second of a scrub that is asked for: as many as a pass can take, in the end."""

PAGE_DEFAULT: Final = 100
PAGE_MAX: Final = 1000
"""Items on one page of GET /kv and GET /history/{key}."""

LATENCY_SAMPLES: Final = 4096
"""Requests that the percentiles of GET /metrics look back on."""
