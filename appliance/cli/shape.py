"""What all answers of `--output json` have in common."""

from __future__ import annotations

from msgspec import Struct


class Shape(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A JSON answer of the CLI."""
