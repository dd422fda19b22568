"""The gate that every request passes, whichever way it came: API key, role, rate limit."""

from __future__ import annotations

from math import ceil
from typing import Final

from appliance.admission.keys import ApiKey, KeyRegistry
from appliance.admission.rate import RateLimiter
from appliance.http.exchange import Exchange
from appliance.http.problems import RefusedError
from appliance.http.route import Route
from appliance.node.ports import Instruments, Log
from appliance.tables.errors import ApplianceError
from appliance.tables.roles import GRANTS, Access
from appliance.tables.settings import Settings

HOW_TO_SHOW_A_KEY: Final = (
    "Send one as X-API-Key or as Authorization: Bearer. The bundled stack keeps its keys in .scribe/credentials.env: "
    '`. .scribe/credentials.env && export APPLIANCE_API_KEY`, then `curl -H "X-API-Key: $APPLIANCE_API_KEY" ...`; '
    "elsewhere `export APPLIANCE_API_KEY=...` with a key that the operator gave you."
)
_CHALLENGE: Final = [(b"www-authenticate", b'Bearer realm="scribe-ledger"')]
_AUTH_LOG_INTERVAL_S: Final = 1.0  # one line a second at most: a flood of bad keys must not fill the disk


class Gate:
    """Lets a request through or raises `unauthenticated`, `forbidden` or `rate_limited`."""

    def __init__(
        self, *, keys: KeyRegistry, limiter: RateLimiter, opened: frozenset[Access], instruments: Instruments, log: Log
    ) -> None:
        self._keys = keys
        self._limiter = limiter
        self._opened = opened
        self._log = log
        self._logged_s = float("-inf")
        self._limited = instruments.counter("scribe_rate_limited_total")
        self._failures = {
            reason: instruments.counter("scribe_auth_failures_total", reason=reason)
            for reason in ("missing", "unknown", "role")
        }

    def admit(self, exchange: Exchange, route: Route, now_s: float) -> None:
        """Admit a request to `route` at `now_s` (monotonic) and note its actor on the exchange.

        A request that shows no known key is counted by its address before it is refused, so that guessing is limited.
        On a route that is open by setting, who shows a key that would do is known by it all the same.
        """
        access = route.access
        if access in self._opened:
            if route.limited:
                self._limit(self._limiter.wait_for_address_s(exchange.request.client, now_s))
            if access is not Access.NOBODY:
                exchange.actor = self._known(exchange, access)
            return
        presented = _presented(exchange.head)
        key = self._keys.find(presented) if presented else None
        if key is None:
            self._limit(self._limiter.wait_for_address_s(exchange.request.client, now_s))
            raise self._unauthenticated(exchange, route, "unknown" if presented else "missing", now_s)
        self._limit(self._limiter.wait_for_key_s(key.name, now_s))
        if access not in GRANTS[key.role]:
            raise self._forbidden(exchange, route, key, access, now_s)
        exchange.actor = key.name

    def _known(self, exchange: Exchange, access: Access) -> str:
        """Name of the key that a request shows, if that allows the access; else an empty text."""
        presented = _presented(exchange.head)
        key = self._keys.find(presented) if presented else None
        return key.name if key is not None and access in GRANTS[key.role] else ""

    def _limit(self, wait_s: float) -> None:
        if wait_s > 0.0:
            self._limited.inc()
            raise ApplianceError(
                "rate_limited",
                f"The rate limit is reached; the next request may pass in {wait_s:.3f} s ([security.rate_limit]).",
                retry_after_s=max(1, ceil(wait_s)),
            )

    def _unauthenticated(self, exchange: Exchange, route: Route, reason: str, now_s: float) -> ApplianceError:
        self._failures[reason].inc()
        self._note(exchange, route, reason, "", now_s)
        what = "This route needs an API key." if reason == "missing" else "The API key is not known here."
        return RefusedError("unauthenticated", f"{what} {HOW_TO_SHOW_A_KEY}", headers=list(_CHALLENGE))

    def _forbidden(self, exchange: Exchange, route: Route, key: ApiKey, access: Access, now_s: float) -> ApplianceError:
        self._failures["role"].inc()
        self._note(exchange, route, "role", key.name, now_s)
        roles = " or ".join(role.value for role in GRANTS if access in GRANTS[role])
        return ApplianceError(
            "forbidden",
            f"{route.method} {route.path} needs a key with the role {roles}; "
            f"the key {key.name!r} has the role {key.role.value}.",
        )

    def _note(self, exchange: Exchange, route: Route, reason: str, actor: str, now_s: float) -> None:
        if now_s - self._logged_s >= _AUTH_LOG_INTERVAL_S:
            self._logged_s = now_s
            self._log.warning(
                "http.auth_failed",
                reason=reason,
                address=exchange.request.client,
                actor=actor,
                route=f"{route.method} {route.path}",
                request_id=exchange.request_id,
            )


def opened_by(settings: Settings) -> frozenset[Access]:
    """What needs no API key by these settings."""
    opened = {Access.NOBODY}
    if settings.security.metrics_access == Access.NOBODY:
        opened.add(Access.METRICS)
    if settings.log.public:
        opened.add(Access.LOG)
    return frozenset(opened)


def _presented(head: dict[bytes, bytes]) -> bytes:
    """The key that a request shows, or nothing."""
    key = head.get(b"x-api-key")
    if key is not None:
        return key.strip()
    scheme, _, token = head.get(b"authorization", b"").partition(b" ")
    return token.strip() if scheme.lower() == b"bearer" else b""
