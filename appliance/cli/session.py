"""What every command starts from: where the cluster is, who asks, how to answer."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from appliance.cli.exits import CliError, Exit
from appliance.cli.init_files import read_env_file

if TYPE_CHECKING:
    from appliance.cli.client import AsyncClient, Client

STATE_DIR: Final = ".scribe"
CREDENTIALS_FILE: Final = "credentials.env"
VERIFIER_KEY_VARIABLE: Final = "APPLIANCE_VERIFIER_KEY"


class Output(StrEnum):
    """How a command answers on standard output."""

    TABLE = "table"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class Session:
    """The global options, completed from the environment and the credentials file.

    Attributes:
        urls: the nodes' URLs without a slash at the end; may be empty.
        api_key: empty for none.
        directory: the state directory; it need not exist.
        output: table or json.
        timeout_s: how long one call may take, retries included.
        ca_file: PEM file for https nodes, empty for the system's.
        others: the rest of the credentials file (keys of the other roles, the verifier key).
    """

    urls: tuple[str, ...]
    api_key: str
    directory: Path
    output: Output
    timeout_s: float
    ca_file: str = ""
    others: Mapping[str, str] = field(default_factory=dict)

    @property
    def as_json(self) -> bool:
        """Whether a program reads the answer."""
        return self.output is Output.JSON

    def client(self, **options: Any) -> Client:
        """A client for single calls; `options` go to `Client`."""
        from appliance.cli.client import Client

        return Client(self.urls, self.api_key, **{"timeout_s": self.timeout_s, "ca_file": self.ca_file, **options})

    def async_client(self, **options: Any) -> AsyncClient:
        """A client for many calls at once; `options` go to `AsyncClient`."""
        from appliance.cli.client import AsyncClient

        return AsyncClient(self.urls, self.api_key, **{"timeout_s": self.timeout_s, "ca_file": self.ca_file, **options})


def open_session(
    *,
    url: str,
    api_key: str,
    directory: Path | None,
    output: Output,
    timeout_s: float,
    ca_file: str,
    environ: Mapping[str, str] | None = None,
) -> Session:
    """Complete the global options from the environment and the credentials file. Raises `CliError` for a bad URL."""
    environ = os.environ if environ is None else environ
    found = directory or find_directory(Path.cwd())
    stored = read_credentials(found / CREDENTIALS_FILE)
    text = url or environ.get("APPLIANCE_URL", "") or stored.get("APPLIANCE_URL", "")
    return Session(
        urls=parse_urls(text),
        api_key=api_key or environ.get("APPLIANCE_API_KEY", "") or stored.get("APPLIANCE_API_KEY", ""),
        directory=found,
        output=output,
        timeout_s=timeout_s,
        ca_file=ca_file or stored.get("APPLIANCE_CA_FILE", ""),
        others={name: value for name, value in stored.items() if name not in ("APPLIANCE_URL", "APPLIANCE_API_KEY")},
    )


def find_directory(start: Path) -> Path:
    """The state directory of `start` or of the nearest directory above it that has one; else `start`'s own."""
    for folder in (start, *start.parents):
        if (folder / STATE_DIR / CREDENTIALS_FILE).is_file():
            return folder / STATE_DIR
    return start / STATE_DIR


def read_credentials(path: Path) -> dict[str, str]:
    """Read a credentials file; one that is missing, or that belongs to somebody else, is an empty one."""
    try:
        return read_env_file(path)
    except (PermissionError, NotADirectoryError):
        return {}


def parse_urls(text: str) -> tuple[str, ...]:
    """Split a comma-separated list of URLs; `host:port` alone means http. Raises `CliError` for what is no URL."""
    urls = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        whole = part if "://" in part else f"http://{part}"
        try:
            whole.encode()  # bytes that are not UTF-8 are a ValueError too
            pieces = urlsplit(whole)
            valid = pieces.scheme in ("http", "https") and bool(pieces.hostname) and (pieces.port or 1) > 0
        except ValueError:
            valid = False
        if not valid or pieces.query or pieces.fragment:
            raise CliError(
                Exit.USAGE, f"{part!r} is no URL of a node", hint="write it as http://host:8001", code="usage"
            )
        urls.append(whole.rstrip("/"))
    return tuple(urls)
