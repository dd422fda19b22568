"""Addresses of the form host:port, as settings and hellos carry them."""

from __future__ import annotations

import ipaddress


def split_address(text: str) -> tuple[str, int]:
    """Split `host:port` (`[host]:port` for IPv6) into its parts.

    Raises:
        ValueError: when the text has no host or no port from 1 to 65535.
    """
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"{text!r} needs brackets around its IPv6 address: [host]:port")
    if not colon or not host or any(c.isspace() for c in host):
        raise ValueError(f"{text!r} is not host:port")
    if not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
        raise ValueError(f"{text!r} has no port from 1 to 65535")
    return host, int(port)


def join_address(host: str, port: int) -> str:
    """Make `host:port`, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Tell whether a host is `localhost` or a literal loopback address; other names are never looked up."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_wildcard(host: str) -> bool:
    """Tell whether a host means every interface, so that it cannot be told to others as an address."""
    return host in {"0.0.0.0", "::"}  # noqa: S104 - compared, not bound
