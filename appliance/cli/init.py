"""What a cluster needs before its first start: ids, secrets, certificates, and a configuration for each node.

Everything here may be run again: secrets that exist stay, what is derived from them is brought up to date.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer
from msgspec import Struct

from appliance.adapters.pki import PkiError, make_ca, make_node_certificate
from appliance.cli.exits import CliError, Exit
from appliance.cli.init_files import (
    GROUP_FILE,
    OPEN_FILE,
    make_private_dir,
    read_env_file,
    write_config,
    write_env_file,
    write_file,
)
from appliance.cli.output import say
from appliance.tables.roles import Role

PEER_PORT_OFFSET: Final = 1000  # a node's peer port, seen from its client port (interface.md)
CREDENTIALS_FILE: Final = "credentials.env"
CONFIG_HEADING: Final = "Written by `appliance init`. Keys that you add stay; docs/CONFIGURATION.md lists them all."
CREDENTIALS_HEADING: Final = "Written by `appliance init`. The keys open the cluster: keep this file to yourself."

STACK_NODES: Final = 3
STACK_CLIENT_PORT: Final = 8000  # node N of the stack has client port 800N and peer port 900N (interface.md)
NODE_FILES: Final = Path("/etc/scribe-ledger")  # where a node of the stack sees its directory

_KEY_NAMES: Final[Mapping[Role, str]] = {
    Role.ADMIN: "APPLIANCE_API_KEY",
    Role.READ: "APPLIANCE_API_KEY_READ",
    Role.WRITE: "APPLIANCE_API_KEY_WRITE",
    Role.AUDIT: "APPLIANCE_API_KEY_AUDIT",
    Role.METRICS: "APPLIANCE_API_KEY_METRICS",
}


class LocalCluster(Struct, frozen=True):
    """The files of a cluster whose nodes are plain processes of this machine.

    Attributes:
        directory: the state directory, absolute.
        cluster_id: 32 hex digits.
        configs: the configuration file of node 1, 2, ...
        urls: the client URL of node 1, 2, ...
        credentials: the file with the URLs and the API keys, mode 0600.
    """

    directory: Path
    cluster_id: str
    configs: tuple[Path, ...]
    urls: tuple[str, ...]
    credentials: Path


def initialise_local(
    directory: Path, *, base_port: int = 8001, nodes: int = 3, founders: int | None = None
) -> LocalCluster:
    """Write everything that `nodes` nodes on loopback need into `directory` (`.scribe/`).

    The first `founders` of them (all) found the cluster, the others are added to it by `appliance cluster add`.
    Client ports start at `base_port`, peer ports 1000 above. The nodes prove themselves to each other by a cluster
    secret. A second call keeps ids, secrets and keys that were added to the configurations, and moves the ports.
    """
    root = make_private_dir(directory.resolve())
    ports = range(base_port, base_port + nodes)
    urls = tuple(f"http://127.0.0.1:{port}" for port in ports)
    cluster_id = ensure_secret(root / "cluster.id", 16)
    ensure_secret(root / "cluster.secret", 32)
    ensure_credentials(root, {"APPLIANCE_URL": ",".join(urls)})
    seeds = [f"127.0.0.1:{port + PEER_PORT_OFFSET}" for port in ports[:founders]]
    configs = []
    for number, port in enumerate(ports, start=1):
        home = make_private_dir(root / f"node{number}")
        config: dict[str, dict[str, Any]] = {
            "node": {
                "id": number,
                "address": f"127.0.0.1:{port}",
                "data_dir": str(make_private_dir(home / "data")),
                "cluster_id": cluster_id,
            },
            "network": {
                "client_host": "127.0.0.1",
                "client_port": port,
                "raft_host": "127.0.0.1",
                "raft_port": port + PEER_PORT_OFFSET,
                "seed_peers": seeds,
                "peer_auth": "secret",
            },
            "security": {
                "api_keys_file": str(root / "api-keys.json"),
                "cluster_secret_file": str(root / "cluster.secret"),
            },
            "logging": {"directory": str(make_private_dir(home / "log")), "stdout": False},
        }
        write_config(home / "config.toml", CONFIG_HEADING, config)
        configs.append(home / "config.toml")
    return LocalCluster(root, cluster_id, tuple(configs), urls, root / CREDENTIALS_FILE)


def initialise_stack(directory: Path, *, urls: Sequence[str]) -> Path:
    """Write everything that the container stack needs, one directory for each consumer, and answer the credentials.

    `operator/` has the authority's key and the API keys and is mounted by nobody but `init`; `node1/` to `node3/`
    have a node's configuration, certificate and the hashed keys; `grafana/` and `elastic/` have passwords that
    their group may read. Existing secrets stay, as with `initialise_local`.

    Args:
        directory: where the volumes are mounted.
        urls: the nodes' client URLs as the host sees them.
    """
    operator = make_private_dir(directory / "operator")
    cluster_id = ensure_secret(operator / "cluster.id", 16)
    passwords = {name: ensure_secret(operator / f"{name}.password", 16) for name in ("grafana", "elastic")}
    ensure_credentials(
        operator,
        {
            "APPLIANCE_URL": ",".join(urls),
            "GRAFANA_ADMIN_PASSWORD": passwords["grafana"],
            "ELASTIC_PASSWORD": passwords["elastic"],
        },
    )
    authority = make_ca(operator, cluster_id)
    for number in range(1, STACK_NODES + 1):
        home = make_private_dir(directory / f"node{number}")
        make_node_certificate(operator, home, number, [f"node{number}", "localhost", "127.0.0.1"])
        write_file(home / "ca.crt", authority.cert_file.read_bytes(), OPEN_FILE)
        write_file(home / "api-keys.json", (operator / "api-keys.json").read_bytes())
        write_config(home / "config.toml", CONFIG_HEADING, _stack_config(number, cluster_id))
    for consumer, names in {"grafana": ("grafana", "elastic"), "elastic": ("elastic",)}.items():
        home = make_private_dir(directory / consumer)
        home.chmod(0o750)
        for name in names:
            write_file(home / f"{name}-password", passwords[name].encode(), GROUP_FILE)
    return operator / CREDENTIALS_FILE


def _stack_config(number: int, cluster_id: str) -> dict[str, dict[str, Any]]:
    """The keys of a stack node's configuration that `init` owns."""
    client_port = STACK_CLIENT_PORT + number
    peer_port = client_port + PEER_PORT_OFFSET
    return {
        "node": {
            "id": number,
            "address": f"node{number}:{client_port}",
            "data_dir": "/var/lib/scribe-ledger",
            "cluster_id": cluster_id,
        },
        "network": {
            "client_host": "0.0.0.0",  # noqa: S104 - the container's own network; published on 127.0.0.1 only
            "client_port": client_port,
            "behind_gateway": True,
            "raft_host": "0.0.0.0",  # noqa: S104 - peers prove themselves by certificate
            "raft_port": peer_port,
            "raft_address": f"node{number}:{peer_port}",
            "seed_peers": [
                f"node{peer}:{STACK_CLIENT_PORT + PEER_PORT_OFFSET + peer}" for peer in range(1, STACK_NODES + 1)
            ],
            "peer_auth": "tls",
        },
        "security": {
            "api_keys_file": str(NODE_FILES / "api-keys.json"),
            "peer_cert_file": str(NODE_FILES / "peer.crt"),
            "peer_key_file": str(NODE_FILES / "peer.key"),
            "peer_ca_file": str(NODE_FILES / "ca.crt"),
        },
        "logging": {"directory": "/var/log/scribe-ledger"},
    }


def ensure_secret(path: Path, size_bytes: int) -> str:
    """Answer the secret of a file, as hex digits, drawing it when the file is not there."""
    if not path.exists():
        write_file(path, secrets.token_hex(size_bytes).encode() + b"\n")
    return path.read_text(encoding="ascii").strip()


def ensure_credentials(root: Path, extra: Mapping[str, str]) -> dict[str, str]:
    """Make sure that `credentials.env` has an API key for each role, and `api-keys.json` its hash.

    Args:
        root: directory of both files.
        extra: other lines of `credentials.env`, such as the nodes' URLs; they replace what is there.
    """
    held = read_env_file(root / CREDENTIALS_FILE)
    fresh = {variable: secrets.token_hex(32) for variable in _KEY_NAMES.values() if not held.get(variable)}
    lines = {**extra, **held, **fresh, **extra}
    _record_hashes(root / "api-keys.json", lines, {role for role, name in _KEY_NAMES.items() if name in fresh})
    write_env_file(root / CREDENTIALS_FILE, CREDENTIALS_HEADING, lines)
    return lines


def _record_hashes(path: Path, credentials: Mapping[str, str], drawn: set[Role]) -> None:
    """Bring `api-keys.json` up to date: rows of keys just drawn are replaced, missing ones added, others kept."""
    held: list[dict[str, Any]] = msgspec.json.decode(path.read_bytes())["keys"] if path.exists() else []
    kept = [row for row in held if row["name"] not in drawn]
    names = {row["name"] for row in kept}
    added = [
        {"name": role.value, "role": role.value, "sha256": hashlib.sha256(credentials[name].encode()).hexdigest()}
        for role, name in _KEY_NAMES.items()
        if role.value not in names
    ]
    text = msgspec.json.format(msgspec.json.encode({"format": 1, "keys": kept + added}), indent=2)
    write_file(path, text + b"\n")


def register(app: typer.Typer) -> None:
    """Add the command `init`."""

    @app.command("init")
    def init(
        ctx: typer.Context,
        stack: Annotated[
            bool, typer.Option("--stack", help="For the container stack; its `init` service runs it.")
        ] = False,
        base_port: Annotated[
            int, typer.Option(help="Client port of node 1; peer ports are 1000 above.", min=1, max=64_000)
        ] = 8001,
    ) -> None:
        """Write ids, secrets, certificates and configurations into --dir; what exists stays."""
        try:
            if stack:
                credentials = initialise_stack(ctx.obj.directory, urls=ctx.obj.urls)
            else:
                credentials = initialise_local(ctx.obj.directory, base_port=base_port).credentials
        except PkiError as error:
            raise CliError(Exit.FAILURE, str(error)) from None
        say(f"{credentials}: ready")
