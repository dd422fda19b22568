"""Paths of the API that hold keys."""

from __future__ import annotations

from urllib.parse import quote


def key_path(route: str, key: str) -> str:
    """Put a key behind a route so that the node decodes it to the same bytes (`..` and `.` segments survive)."""
    return f"{route}/{'/'.join(_dots(quote(segment, safe='')) for segment in key.split('/'))}"


def _dots(segment: str) -> str:
    return segment.replace(".", "%2E") if segment in (".", "..") else segment
