"""The one table of roles: which role of an API key opens which kind of route."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class Role(StrEnum):
    """The role of an API key."""

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"
    AUDIT = "audit"
    METRICS = "metrics"


class Access(StrEnum):
    """What a route asks for."""

    NOBODY = "nobody"  # open, no key needed
    READ = "read"
    WRITE = "write"
    ADMIN = "admin"
    AUDIT = "audit"
    METRICS = "metrics"
    LOG = "log"  # the ledger as a transparency log: who may read, or nobody by setting


GRANTS: Mapping[Role, frozenset[Access]] = {
    Role.READ: frozenset({Access.NOBODY, Access.READ, Access.LOG}),
    Role.WRITE: frozenset({Access.NOBODY, Access.READ, Access.LOG, Access.WRITE}),
    Role.AUDIT: frozenset({Access.NOBODY, Access.AUDIT}),
    Role.METRICS: frozenset({Access.NOBODY, Access.METRICS}),
    Role.ADMIN: frozenset(Access),
}


def allows(role: Role, access: Access) -> bool:
    """Tell whether a key of `role` may use a route that asks for `access`."""
    return access in GRANTS[role]
