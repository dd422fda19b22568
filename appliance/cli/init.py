"""What a cluster needs before its first start: ids, secrets, certificates, and a configuration for each node.

Everything here may be run again: secrets that exist stay, what is derived from them is brought up to date.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer
from msgspec import Struct

from appliance.adapters.ed25519 import SigningKeyError, generate_key, read_key_file, write_key_file
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
from appliance.cli.session import VERIFIER_KEY_VARIABLE, Session
from appliance.ledger.checkpoint import is_recovery
from appliance.ledger.note import SignatureType, VerifierKeyError, format_verifier_key, parse_verifier_key
from appliance.tables.roles import Role

PEER_PORT_OFFSET: Final = 1000  # a node's peer port, seen from its client port (interface.md)
CREDENTIALS_FILE: Final = "credentials.env"
LOG_KEY_FILE: Final = "log.key"
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
        configs: the configuration file of each node, in the order of their numbers.
        urls: the client URL of each.
        credentials: the file with the URLs and the API keys, mode 0600.
    """

    directory: Path
    cluster_id: str
    configs: tuple[Path, ...]
    urls: tuple[str, ...]
    credentials: Path


def initialise_local(
    directory: Path,
    *,
    base_port: int = 8001,
    nodes: int = 3,
    founders: int | None = None,
    numbers: Sequence[int] | None = None,
) -> LocalCluster:
    """Write everything that nodes on loopback need into `directory` (`.scribe/`).

    The client port of node N is `base_port` + N - 1, its peer port 1000 above. The nodes prove themselves to each other
    by a cluster secret. A second call keeps ids, secrets and keys that were added to the configurations, and moves the
    ports.

    Args:
        directory: made when it is missing.
        base_port: client port of node 1.
        nodes: how many nodes, counted from 1.
        founders: how many of them, counted from 1, found the cluster (all). The others are told its seeds and nothing
            else, and are added to it by `appliance cluster add`.
        numbers: the nodes, where they are not just 1 to `nodes`.
    """
    root = make_private_dir(directory.resolve())
    numbers = tuple(numbers or range(1, nodes + 1))
    founding = range(1, (founders or nodes) + 1)
    ports = {number: base_port + number - 1 for number in {*numbers, *founding}}
    urls = tuple(f"http://127.0.0.1:{ports[number]}" for number in numbers)
    cluster_id = ensure_secret(root / "cluster.id", 16)
    ensure_secret(root / "cluster.secret", 32)
    verifier_key = ensure_verifier_key(root, cluster_id)
    ensure_credentials(root, {"APPLIANCE_URL": ",".join(urls), VERIFIER_KEY_VARIABLE: verifier_key})
    known = [number for number in founding if number in numbers] or list(numbers)
    configs = []
    for number in numbers:
        home = make_private_dir(root / f"node{number}")
        config = _local_config(root, home, number, ports[number])
        seeds: Sequence[int] = founding
        if number in founding:
            config["node"]["cluster_id"] = cluster_id
        else:
            seeds = [peer for peer in known if peer != number]
        config["network"]["seed_peers"] = [f"127.0.0.1:{ports[seed] + PEER_PORT_OFFSET}" for seed in seeds]
        write_config(home / "config.toml", CONFIG_HEADING, config)
        configs.append(home / "config.toml")
    return LocalCluster(root, cluster_id, tuple(configs), urls, root / CREDENTIALS_FILE)


def _local_config(root: Path, home: Path, number: int, port: int) -> dict[str, dict[str, Any]]:
    """The keys of a local node's configuration that `init` owns, but for whom it knows."""
    return {
        "node": {
            "id": number,
            "address": f"127.0.0.1:{port}",
            "data_dir": str(make_private_dir(home / "data")),
        },
        "network": {
            "client_host": "127.0.0.1",
            "client_port": port,
            "raft_host": "127.0.0.1",
            "raft_port": port + PEER_PORT_OFFSET,
            "peer_auth": "secret",
        },
        "security": {
            "api_keys_file": str(root / "api-keys.json"),
            "cluster_secret_file": str(root / "cluster.secret"),
        },
        "log": {"key_file": str(root / LOG_KEY_FILE)},
        "logging": {"directory": str(make_private_dir(home / "log")), "stdout": False},
    }


def initialise_stack(directory: Path, *, urls: Sequence[str], joining: Sequence[int] = ()) -> Path:
    """Write everything that the container stack needs, one directory for each consumer, and answer the credentials.

    `operator/` has the authority's key and the API keys and is mounted by nobody but `init`; `node1/` and its like
    have a node's configuration, certificate and the hashed keys; `grafana/` and `elastic/` have passwords that
    their group may read; `targets/` has what Prometheus scrapes beside nodes 1 to 3. Existing secrets stay, as with
    `initialise_local`.

    Args:
        directory: where the volumes are mounted.
        urls: the nodes' client URLs as the host sees them.
        joining: numbers of nodes beyond the three that found the cluster.
    """
    operator = make_private_dir(directory / "operator")
    cluster_id = ensure_secret(operator / "cluster.id", 16)
    passwords = {name: ensure_secret(operator / f"{name}.password", 16) for name in ("grafana", "elastic")}
    ensure_credentials(
        operator,
        {
            "APPLIANCE_URL": ",".join(urls),
            VERIFIER_KEY_VARIABLE: ensure_verifier_key(operator, cluster_id),
            "GRAFANA_ADMIN_PASSWORD": passwords["grafana"],
            "ELASTIC_PASSWORD": passwords["elastic"],
        },
    )
    make_ca(operator, cluster_id)
    for number in (*range(1, STACK_NODES + 1), *joining):
        config = _stack_config(number)
        if number <= STACK_NODES:
            config["node"]["cluster_id"] = cluster_id
        home = make_private_dir(directory / f"node{number}")
        write_node_secrets(operator, home, number, [f"node{number}", "localhost", "127.0.0.1"])
        write_config(home / "config.toml", CONFIG_HEADING, config)
    for consumer, names in {"grafana": ("grafana", "elastic"), "elastic": ("elastic",)}.items():
        home = make_private_dir(directory / consumer)
        home.chmod(0o750)
        for name in names:
            write_file(home / f"{name}-password", passwords[name].encode(), GROUP_FILE)
    _write_targets(directory / "targets", joining)
    return operator / CREDENTIALS_FILE


def write_node_secrets(operator: Path, home: Path, number: int, hosts: Sequence[str]) -> None:
    """Give a node its certificate of the cluster's authority, the authority's own, the hashed API keys, and the key
    that checkpoints are signed with.

    Args:
        operator: the directory of the authority, of `api-keys.json` and of the log's key.
        home: the node's directory, made when it is missing.
        number: of the node.
        hosts: names and addresses at which other nodes reach it.

    Raises:
        PkiError: the authority cannot be used.
    """
    make_node_certificate(operator, home, number, hosts)
    write_file(home / "ca.crt", (operator / "ca.crt").read_bytes(), OPEN_FILE)
    for name in ("api-keys.json", LOG_KEY_FILE):
        write_file(home / name, (operator / name).read_bytes())


def _write_targets(home: Path, joining: Sequence[int]) -> None:
    """What Prometheus scrapes beside its fixed targets (file_sd); it looks again whenever the file changes."""
    make_private_dir(home).chmod(0o755)  # read by the uid of Prometheus
    targets = [f"node{number}:{STACK_CLIENT_PORT + number}" for number in joining]
    write_file(home / "nodes.json", msgspec.json.encode([{"targets": targets}] if targets else []) + b"\n", OPEN_FILE)


def _stack_config(number: int) -> dict[str, dict[str, Any]]:
    """The keys of a stack node's configuration that `init` owns, but for the cluster's id."""
    client_port = STACK_CLIENT_PORT + number
    peer_port = client_port + PEER_PORT_OFFSET
    return {
        "node": {
            "id": number,
            "address": f"node{number}:{client_port}",
            "data_dir": "/var/lib/scribe-ledger",
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
        "security": secrets_at(NODE_FILES),
        "log": {"key_file": str(NODE_FILES / LOG_KEY_FILE)},
        "logging": {"directory": "/var/log/scribe-ledger"},
    }


def secrets_at(home: Path) -> dict[str, str]:
    """The section `[security]` of a node whose files, as `write_node_secrets` leaves them, lie in `home`."""
    return {
        "api_keys_file": str(home / "api-keys.json"),
        "peer_cert_file": str(home / "peer.crt"),
        "peer_key_file": str(home / "peer.key"),
        "peer_ca_file": str(home / "ca.crt"),
    }


def ensure_secret(path: Path, size_bytes: int) -> str:
    """Answer the secret of a file, as hex digits, drawing it when the file is not there."""
    if not path.exists():
        write_file(path, secrets.token_hex(size_bytes).encode() + b"\n")
    return path.read_text(encoding="ascii").strip()


def ensure_verifier_key(root: Path, cluster_id: str) -> str:
    """Answer the verifier key of the log, making its private key when the file is not there. Where `credentials.env`
    has the key that the log got by a recovery, that one. Raises `CliError`.
    """
    path, held = root / LOG_KEY_FILE, read_env_file(root / CREDENTIALS_FILE).get(VERIFIER_KEY_VARIABLE, "")
    try:
        if not path.exists():
            write_key_file(path, generate_key(f"scribe-ledger/{cluster_id}/1", SignatureType.ED25519))
        key = read_key_file(path).verifier_key
        with suppress(VerifierKeyError):
            if is_recovery(parse_verifier_key(held).name, key.name):
                return held
    except SigningKeyError as error:
        raise CliError(Exit.FAILURE, str(error), code="log_key") from None
    return format_verifier_key(key)


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
        *,
        stack: Annotated[
            bool, typer.Option("--stack", help="For the container stack; its `init` service runs it.")
        ] = False,
        joining: Annotated[
            str,
            typer.Option(
                help="With --stack: numbers of nodes beyond the three, comma-separated.", envvar="APPLIANCE_JOINING"
            ),
        ] = "",
        base_port: Annotated[
            int, typer.Option(help="Client port of node 1; peer ports are 1000 above.", min=1, max=64_000)
        ] = 8001,
        join: Annotated[str, typer.Option(help="URL of a node of the cluster that a new node is to join.")] = "",
        node: Annotated[int, typer.Option(help="With --join: number of the new node.", min=0, max=65_535)] = 0,
        address: Annotated[
            str, typer.Option(help="With --join: its client address, host:port; its peer port is 1000 above.")
        ] = "",
        authority: Annotated[
            Path | None,
            typer.Option(
                help="With --join: directory with the cluster's ca.key and api-keys.json, or its .scribe.",
                show_default=False,
            ),
        ] = None,
    ) -> None:
        """Write ids, secrets, certificates and configurations into --dir; what exists stays.

        With --join, what one new node needs to join a running cluster: a configuration that names peers of it and
        nothing else, its certificate, and the hashed API keys. Put them on the node's machine (/etc/scribe-ledger),
        start it, and `appliance cluster add` makes it a member.
        """
        if join:
            _join(ctx.obj, join, node, address, authority)
            return
        try:
            if stack:
                numbers = _joining_numbers(joining)
                credentials = initialise_stack(ctx.obj.directory, urls=ctx.obj.urls, joining=numbers)
            else:
                credentials = initialise_local(ctx.obj.directory, base_port=base_port).credentials
        except PkiError as error:
            raise CliError(Exit.FAILURE, str(error)) from None
        say(f"{credentials}: ready")


def _join(session: Session, join: str, number: int, address: str, authority: Path | None) -> None:
    from appliance.cli.joining import initialise_joining

    if not number or not address or authority is None:
        raise CliError(
            Exit.USAGE,
            "--join needs --node, --address and --authority",
            hint="appliance --dir node4 init --join URL --node 4 --address HOST:8004 --authority DIRECTORY",
            code="usage",
        )
    config = initialise_joining(session, join=join, number=number, address=address, authority=authority)
    say(f"{config}: ready")
    say(f"start the node with it (scribe-node --config ...), then: appliance cluster add {number} {address}")


def _joining_numbers(text: str) -> tuple[int, ...]:
    """Read the numbers of nodes beyond the three. Raises `CliError`."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not all(word.isdecimal() and int(word) > STACK_NODES for word in words):
        raise CliError(
            Exit.USAGE, f"--joining {text}: numbers from {STACK_NODES + 1} on, comma-separated", code="usage"
        )
    return tuple(sorted({int(word) for word in words}))
