"""The HTTP client of the CLI: `Client` for single calls, `AsyncClient` for many at once, both over `failover`."""

from __future__ import annotations

import asyncio
import random
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Final, Self

import httpx

from appliance import __version__
from appliance.cli.exits import CliError, Exit
from appliance.cli.failover import Answer, Call, Rotation

CONNECT_TIMEOUT_S: Final = 2.0
ANSWER_TIMEOUT_S: Final = 30.0
REFUSED_ROUNDS_MAX: Final = 3
TOO_LONG: Final = "answer_too_long"  # code of the error when an answer is longer than it may be
_SAFE_METHODS: Final = frozenset({"GET", "HEAD"})
_NOT_SENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


class _Base:
    """What both clients share: headers, addresses, the start of a call."""

    def __init__(
        self,
        urls: Sequence[str],
        api_key: str,
        *,
        timeout_s: float,
        ca_file: str = "",
        chance: random.Random | None = None,
        answer_timeout_s: float = ANSWER_TIMEOUT_S,
        patient: bool = False,
        refused_rounds_max: int | None = REFUSED_ROUNDS_MAX,
        on_trouble: Callable[[CliError], None] | None = None,
    ) -> None:
        self.rotation = Rotation(urls, chance or random.Random())  # noqa: S311 - jitter, no secret
        self.timeout_s = timeout_s
        headers = {"User-Agent": f"appliance/{__version__}"}
        if api_key:
            headers["X-API-Key"] = api_key
        verify: ssl.SSLContext | bool = False
        if ca_file or any(url.startswith("https:") for url in urls):
            try:
                verify = ssl.create_default_context(cafile=ca_file or None)
            except (OSError, ssl.SSLError) as error:
                raise CliError(Exit.USAGE, f"cannot use the CA file {ca_file}: {error}", code="usage") from None
        # trust_env=False: a proxy of the environment must not see the API key, and the nodes are near
        self._options = {"headers": _encoded(headers), "verify": verify, "trust_env": False, "follow_redirects": False}
        self._answer_timeout_s = answer_timeout_s
        self._patient = patient
        self._refused_rounds_max = refused_rounds_max
        self._on_trouble = on_trouble

    def _call(
        self, method: str, path: str, idempotency_key: str | None, *, safe: bool | None, repeatable: bool = False
    ) -> Call:
        return Call(
            rotation=self.rotation,
            what=f"{method} {path}",
            safe=method in _SAFE_METHODS if safe is None else safe,
            idempotency_key=idempotency_key,
            deadline_s=time.monotonic() + self.timeout_s,
            refused_rounds_max=self._refused_rounds_max,
            repeatable=repeatable,
        )

    def _tell(self, call: Call) -> None:
        if self._on_trouble is not None and call.last_error is not None:
            self._on_trouble(call.last_error)

    def _timeout(self, call: Call) -> httpx.Timeout:
        left_s = max(call.deadline_s - time.monotonic(), 0.1)
        answer_s = self._answer_timeout_s if self._patient else min(self._answer_timeout_s, left_s)
        return httpx.Timeout(answer_s, connect=min(CONNECT_TIMEOUT_S, left_s))


def _encoded(headers: Mapping[str, str]) -> dict[bytes, bytes]:
    """Headers with the very bytes that were typed: what is wrong with them, the node says best."""
    return {name.encode(): value.encode("utf-8", "surrogateescape") for name, value in headers.items()}


def _headers(headers: Mapping[str, str] | None, idempotency_key: str | None) -> dict[bytes, bytes]:
    out = dict(headers or {})
    if idempotency_key is not None:
        out["Idempotency-Key"] = idempotency_key
    return _encoded(out)


def _read(answer: httpx.Response, bytes_max: int | None, deadline_s: float) -> bytes:
    """The body. One that comes drop by drop is given up like one that does not come."""
    if bytes_max is None:
        return answer.read()
    parts, count = [], 0
    for part in answer.iter_raw():
        count += len(part)
        if count > bytes_max:
            raise CliError(
                Exit.FAILURE,
                f"{answer.url} answered more than {bytes_max} bytes",
                code=TOO_LONG,
                status=answer.status_code,
            )
        parts.append(part)
        if time.monotonic() > deadline_s:
            raise httpx.ReadTimeout("the answer takes too long", request=answer.request)
    return b"".join(parts)


def _reason(error: httpx.TransportError) -> str:
    return str(error) or type(error).__name__


class Client(_Base):
    """One call at a time in each thread.

    Args:
        urls: the nodes' URLs, the preferred one first.
        api_key: sent as `X-API-Key`; empty for none.
        timeout_s: how long a call may take with everything, waits and retries included.
        ca_file: PEM file that https nodes are checked against; empty for the system's.
        chance: draws the jitter of the back-off.
        answer_timeout_s: silence after which one node's answer is given up.
        patient: an answer under way is waited for as long as that, also when `timeout_s` is over, which then says only
            until when a request may be sent again.
        refused_rounds_max: how often every node may refuse the connection in a row; None waits out `timeout_s`.
        on_trouble: is told of each failure that is followed by another attempt.
    """

    def __enter__(self) -> Self:
        self._http = httpx.Client(**self._options)  # type: ignore[arg-type]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str | int] | None = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
        safe: bool | None = None,
        repeatable: bool = False,
        bytes_max: int | None = None,
    ) -> Answer:
        """Send a request until a node carries it out. Raises `CliError` for a refusal, or when time is over.

        With `bytes_max` nobody is trusted: the body is read as it comes, never unpacked, not beyond that many bytes
        (else a `CliError` with `TOO_LONG`), and not for longer than a call may take.
        """
        call = self._call(method, path, idempotency_key, safe=safe, repeatable=repeatable)
        wanted = headers if bytes_max is None else {**(headers or {}), "Accept-Encoding": "identity"}
        while True:
            url, wait_s = call.next(time.monotonic())
            if wait_s:
                time.sleep(wait_s)
            try:
                with self._http.stream(
                    method,
                    url + path,
                    params=params,
                    content=content,
                    headers=_headers(wanted, idempotency_key),
                    timeout=self._timeout(call),
                ) as answer:
                    body = _read(answer, bytes_max, call.deadline_s)
            except httpx.InvalidURL as error:  # a redirection to nowhere, which is not followed, but looked at
                call.lost(url, str(error), time.monotonic(), sent=True)
            except httpx.TransportError as error:
                call.lost(url, _reason(error), time.monotonic(), sent=not isinstance(error, _NOT_SENT))
            else:
                done = call.answered(url, answer.status_code, answer.headers, body, time.monotonic())
                if done:
                    return done
            self._tell(call)


class AsyncClient(_Base):
    """Many calls at the same time over shared connections; arguments as for `Client`."""

    async def __aenter__(self) -> Self:
        limits = httpx.Limits(max_connections=256, max_keepalive_connections=256)
        self._http = httpx.AsyncClient(limits=limits, **self._options)  # type: ignore[arg-type]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str | int] | None = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
        safe: bool | None = None,
    ) -> Answer:
        """Send a request until a node carries it out. Raises `CliError` for a refusal, or when time is over."""
        call = self._call(method, path, idempotency_key, safe=safe)
        while True:
            url, wait_s = call.next(time.monotonic())
            if wait_s:
                await asyncio.sleep(wait_s)
            try:
                answer = await self._http.request(
                    method,
                    url + path,
                    params=params,
                    content=content,
                    headers=_headers(headers, idempotency_key),
                    timeout=self._timeout(call),
                )
            except httpx.TransportError as error:
                call.lost(url, _reason(error), time.monotonic(), sent=not isinstance(error, _NOT_SENT))
            else:
                done = call.answered(url, answer.status_code, answer.headers, answer.content, time.monotonic())
                if done:
                    return done
            self._tell(call)
