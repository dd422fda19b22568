"""One call's way over the nodes, without sockets or a clock: whom to ask next, when, and when to stop.

A request may be sent again when it changes nothing (`safe`), when an idempotency key binds it, when carrying it out
twice comes to the same as once (`repeatable`), or when it surely was not carried out: the connection was never made, or
the node said so with a code of the table of errors whose outcome is known. After anything else a write without a key is
left alone: its outcome is unknown.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from appliance.cli.exits import CliError, Exit, exit_of, no_node_known
from appliance.ledger.canonical import read_decimal
from appliance.tables.errors import ERRORS

BACKOFF_S_MIN: Final = 0.1
BACKOFF_S_MAX: Final = 2.0
RETRY_AFTER_S_MAX: Final = 60.0
BODY_CHARS_MAX: Final = 300


@dataclass(frozen=True, slots=True)
class Answer:
    """What a node answered. `url` is the node's, `attempts` counts requests sent for this call."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    url: str
    attempts: int

    def json(self) -> Any:
        """Decode the body. Raises `CliError` when it is no JSON (something else listens at that URL)."""
        try:
            return msgspec.json.decode(self.body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise CliError(
                Exit.FAILURE, f"{self.url} answered something that is no JSON: {error}", hint="check --url"
            ) from None


class Rotation:
    """The nodes of a cluster and when each may be asked again. Shared by calls that run at the same time."""

    def __init__(self, urls: Sequence[str], chance: random.Random) -> None:
        if not urls:
            raise no_node_known()
        self._urls = tuple(urls)
        self._chance = chance
        self._current = 0
        self._ready_at_s = dict.fromkeys(self._urls, 0.0)
        self._failures = dict.fromkeys(self._urls, 0)

    @property
    def node_count(self) -> int:
        """How many nodes there are."""
        return len(self._urls)

    def choose(self, now_s: float) -> tuple[str, float]:
        """The node to ask next and how long to wait before: the last good one, else the first that is ready."""
        order = [self._urls[(self._current + step) % len(self._urls)] for step in range(len(self._urls))]
        best = min(order, key=lambda url: max(self._ready_at_s[url] - now_s, 0.0))
        return best, max(self._ready_at_s[best] - now_s, 0.0)

    def succeeded(self, url: str) -> None:
        """A node answered: ask it first from now on."""
        self._current = self._urls.index(url)
        self._failures[url] = 0
        self._ready_at_s[url] = 0.0

    def failed(self, url: str, now_s: float, retry_after_s: float | None) -> None:
        """A node did not do it: leave it alone for a while that doubles each time, or as long as it asked for.

        Calls that run at the same time fail together; only the first of them counts.
        """
        if self._failures[url] and now_s < self._ready_at_s[url]:
            return
        self._failures[url] += 1
        backoff_s = min(BACKOFF_S_MIN * 2 ** (self._failures[url] - 1), BACKOFF_S_MAX)
        backoff_s *= self._chance.uniform(0.5, 1.0)
        wanted_s = backoff_s if retry_after_s is None else min(retry_after_s, RETRY_AFTER_S_MAX)
        self._ready_at_s[url] = now_s + max(wanted_s, BACKOFF_S_MIN / 2)

    def hold_all(self, until_s: float) -> None:
        """Leave every node alone until then (the limit is on the caller, not on a node)."""
        for url in self._urls:
            self._ready_at_s[url] = max(self._ready_at_s[url], until_s)


@dataclass(slots=True)
class Call:
    """One request on its way. Ask `next`, send, then report `answered` or `lost`, until an answer stands.

    Attributes:
        safe: it changes nothing (a read, an audit query).
        idempotency_key: the key that binds it, or None.
        repeatable: it changes something, and twice is the same as once (a change of the cluster).
        deadline_s: monotonic time after which nothing is sent any more.
        refused_rounds_max: give up when every node refused the connection that often in a row; None for never.
        maybe_applied: a node may have carried out an earlier attempt.
    """

    rotation: Rotation
    what: str
    safe: bool
    idempotency_key: str | None
    deadline_s: float
    refused_rounds_max: int | None = None
    repeatable: bool = False
    maybe_applied: bool = False
    attempts: int = 0
    refused: int = 0
    last_error: CliError | None = field(default=None)

    @property
    def resendable(self) -> bool:
        """Whether sending it again can do no harm."""
        return self.safe or self.repeatable or self.idempotency_key is not None

    def next(self, now_s: float) -> tuple[str, float]:
        """The node to ask and the seconds to wait before. Raises `CliError` when the deadline would pass."""
        url, wait_s = self.rotation.choose(now_s)
        if self.attempts and now_s + wait_s >= self.deadline_s:
            raise self._given_up()
        return url, wait_s

    def answered(self, url: str, status: int, headers: Mapping[str, str], body: bytes, now_s: float) -> Answer | None:
        """Take an answer: the `Answer` when it stands, None to go on. Raises `CliError` when it is a refusal."""
        self.attempts += 1
        self.refused = 0
        if status < 400:
            self.rotation.succeeded(url)
            return Answer(status, headers, body, url, self.attempts)
        error, outcome_known = error_of(url, status, body)
        if not outcome_known:
            self.maybe_applied = True
        retry_after_s = _seconds(headers.get("retry-after"))
        self.last_error = error
        again = error.retryable if outcome_known else self.resendable
        if not again:
            raise self._given_up() if not outcome_known else error
        self.rotation.failed(url, now_s, retry_after_s)
        if status == 429:
            self.rotation.hold_all(now_s + min(retry_after_s or BACKOFF_S_MIN, RETRY_AFTER_S_MAX))
        return None

    def lost(self, url: str, reason: str, now_s: float, *, sent: bool) -> None:
        """Take a lost connection; `sent` tells whether the node may have got the request. When the deadline alone cut
        the attempt short, what a node answered before says more.
        """
        self.attempts += 1
        if self.last_error is None or not self.last_error.status or now_s < self.deadline_s:
            self.last_error = CliError(
                Exit.UNAVAILABLE,
                f"{url} does not answer: {reason}",
                hint="is the cluster running? `appliance ps`, `appliance up`",
                code="no_connection",
                retryable=True,
            )
        self.rotation.failed(url, now_s, None)
        self.refused = 0 if sent else self.refused + 1
        if sent and not self.safe:
            self.maybe_applied = True
            if not self.resendable:
                raise self._given_up()
        if self.refused_rounds_max and self.refused >= self.refused_rounds_max * self.rotation.node_count:
            raise self._given_up()

    def _given_up(self) -> CliError:
        last = self.last_error
        reason = last.message if last else "no node was asked"
        if self.maybe_applied and not self.safe:
            key = self.idempotency_key
            if self.repeatable:
                hint = "the same command again is safe; `appliance cluster nodes` and `appliance status` show what is"
            elif key:
                hint = f"the same command with --idempotency-key {key} tells, and applies nothing twice"
            else:
                hint = "read the key before you write again; with an idempotency key a retry is safe"
            return CliError(
                Exit.OUTCOME_UNKNOWN,
                f"it is not known whether {self.what} took effect ({reason})",
                hint=hint,
                code="outcome_unknown",
                retryable=self.resendable,
            )
        if last is None:  # pragma: no cover - next() is asked before the first attempt without a deadline
            return CliError(Exit.UNAVAILABLE, reason)
        return CliError(
            last.exit_code,
            f"{last.message} (tried {self.attempts} times)" if self.attempts > 1 else last.message,
            hint=last.hint,
            code=last.code,
            retryable=True,
            status=last.status,
        )


def error_of(url: str, status: int, body: bytes) -> tuple[CliError, bool]:
    """Read a problem document: the error, and whether the request's outcome is known (it was not carried out).

    An answer of 5xx that is none of ours (a gateway between) says nothing about the outcome.
    """
    try:
        problem = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        problem = None
    if not isinstance(problem, dict):
        problem = {}
    code = str(problem.get("code", ""))
    row = ERRORS.get(code)
    text = body[:BODY_CHARS_MAX].decode("utf-8", "replace").strip()
    detail = str(problem.get("detail") or problem.get("title") or problem.get("error") or text or "no reason given")
    request_id = problem.get("request_id")
    if request_id and status >= 500 and status != 503:
        detail += f" (request {request_id} at {url})"
    error = CliError(
        exit_of(code, status),
        detail,
        code=code or f"http_{status}",
        retryable=bool(problem.get("retryable", row.retryable if row else status in (429, 502, 503, 504))),
        status=status,
    )
    outcome_known = row.outcome_known if row else status < 500
    return error, outcome_known


def _seconds(text: str | None) -> float | None:
    """Seconds of a `Retry-After` header; our nodes send whole seconds, a date counts as none."""
    seconds = read_decimal(text or "")
    return None if seconds is None else float(seconds)
