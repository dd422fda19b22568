"""Paths of the API that hold keys."""

from __future__ import annotations

from urllib.parse import quote


def key_path(route: str, key: str) -> str:
    """Put a key behind a route so that the node decodes it to the same bytes (`..` and `.` segments survive).

    Bytes of the command line that are not UTF-8 go as they are; the node refuses them by place.
    """
    return f"{route}/{'/'.join(_dots(_quoted(segment)) for segment in key.split('/'))}"


def _quoted(segment: str) -> str:
    return quote(segment, safe="", errors="surrogateescape")


def _dots(segment: str) -> str:
    return segment.replace(".", "%2E") if segment in (".", "..") else segment
