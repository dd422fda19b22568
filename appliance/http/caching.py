"""Answers that clients and caches may keep: entity tags over the bytes, and 304 for who has these already."""

from __future__ import annotations

import gzip
import re
from hashlib import sha256
from typing import Final

from appliance.http.exchange import Exchange, GatewayResponse, Headers

IMMUTABLE: Final = b"max-age=31536000, immutable"  # a year, and RFC 8246
IDENTITY: Final = b""
GZIP: Final = b"gzip"

_GZIP_LEVEL: Final = 6
_NOSNIFF: Final = (b"x-content-type-options", b"nosniff")
_TAG: Final = re.compile(rb'"[\x21\x23-\x7e\x80-\xff]*"')
_REFUSED: Final = re.compile(rb"q=0(\.0{0,3})?")


def cacheable(
    exchange: Exchange, content_type: bytes, cache_control: bytes, body: bytes, coding: bytes | None = None
) -> GatewayResponse:
    """An answer with a strong entity tag, made of the very bytes; 304 when the client has them (RFC 9110, 13.1.2).

    Args:
        exchange: the request.
        content_type: of the body before it was coded.
        cache_control: who may keep it, and how long.
        body: the bytes as they go out.
        coding: how they are coded, which the client chose; `IDENTITY` for not at all; None when there is no choice.
    """
    tag = b'"%s"' % sha256(body).hexdigest()[:32].encode()
    headers: Headers = [(b"cache-control", cache_control), (b"etag", tag)]
    if coding is not None:
        headers.append((b"vary", b"accept-encoding"))
    if _has(_joined(exchange, b"if-none-match"), tag):
        return GatewayResponse(304, headers)
    if coding:
        headers.append((b"content-encoding", coding))
    return GatewayResponse(200, [(b"content-type", content_type), _NOSNIFF, *headers], body)


def takes_gzip(exchange: Exchange) -> bool:
    """Whether the client asks for gzip, or takes any coding, by Accept-Encoding (RFC 9110, 12.5.3)."""
    found: dict[bytes, bool] = {}
    for element in _joined(exchange, b"accept-encoding").lower().split(b","):
        coding, _, weight = element.partition(b";")
        found[coding.strip()] = _REFUSED.fullmatch(weight.strip()) is None
    return found.get(GZIP, found.get(b"*", False))


def compress(body: bytes) -> bytes:
    """The bytes in gzip; the same for the same."""
    return gzip.compress(body, _GZIP_LEVEL, mtime=0)


def _has(if_none_match: bytes, tag: bytes) -> bool:
    return if_none_match.strip() == b"*" or tag in _TAG.findall(if_none_match)


def _joined(exchange: Exchange, name: bytes) -> bytes:
    """The value of a header that may come as several lines (RFC 9110, 5.3)."""
    return b",".join(value for found, value in exchange.request.headers if found == name)
