"""`appliance init --join`: what a node on a machine of its own needs to join a cluster."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from appliance.adapters.peer_address import is_loopback, join_address, split_address
from appliance.adapters.pki import PkiError
from appliance.cli.cluster import read_members
from appliance.cli.exits import CliError, Exit
from appliance.cli.init import (
    CONFIG_HEADING,
    LOG_KEY_FILE,
    NODE_FILES,
    PEER_PORT_OFFSET,
    secrets_at,
    write_node_secrets,
)
from appliance.cli.init_files import make_private_dir, read_env_file, write_config, write_file
from appliance.cli.session import CREDENTIALS_FILE, Session, parse_urls
from appliance.cli.shapes import Member

SECRET_FILE: Final = "cluster.secret"  # noqa: S105 - its name


def initialise_joining(session: Session, *, join: str, number: int, address: str, authority: Path) -> Path:
    """Write the files of a node that is to join a running cluster into the state directory; answers its configuration.

    The configuration says who the node is, where it listens and the peer addresses of the cluster's members, and
    nothing else of the cluster: which one it is the node hears from these. What exists stays.

    Args:
        session: its directory gets the files.
        join: URL of any node of the cluster.
        number: of the new node.
        address: its client address as others will reach it, host:port; its peer port is 1000 above.
        authority: directory with `ca.key`, `ca.crt` and `api-keys.json` of the cluster, or, for a node on the same
            machine, with `cluster.secret` and `api-keys.json`.

    Raises:
        CliError: the cluster does not answer, has another node of this number, or files are missing.
    """
    try:
        host, port = split_address(address)
    except ValueError as error:
        raise CliError(Exit.USAGE, f"--address: {error}", hint="write it as host:8004", code="usage") from None
    members = _members(session, join, authority)
    _refuse_other(members, number, address)
    seeds = [member.raft_address for member in members if member.node_id != number]
    home = make_private_dir(session.directory.resolve())
    config = _place(number, host, port, seeds)
    if (authority / "ca.key").exists():
        try:
            write_node_secrets(authority, home, number, [host])
        except (PkiError, FileNotFoundError) as error:
            raise CliError(Exit.FAILURE, str(error), hint=f"look at {authority}", code="authority") from None
        config["network"] |= {"raft_host": "0.0.0.0", "peer_auth": "tls"}  # noqa: S104 - peers show certificates
        config["security"] = dict(secrets_at(NODE_FILES))
        config["log"] = {"key_file": str(NODE_FILES / LOG_KEY_FILE)}
        config["node"]["data_dir"] = "/var/lib/scribe-ledger"
        config["logging"] = {"directory": "/var/log/scribe-ledger"}
    else:
        config["network"] |= {"raft_host": host, "peer_auth": "secret"}
        config["security"] = _shared_secret(authority, home, host)
        config["log"] = {"key_file": str(home / LOG_KEY_FILE)}
        config["node"]["data_dir"] = str(make_private_dir(home / "data"))
        config["logging"] = {"directory": str(make_private_dir(home / "log")), "stdout": False}
    write_config(home / "config.toml", CONFIG_HEADING, config)
    return home / "config.toml"


def _members(session: Session, join: str, authority: Path) -> list[Member]:
    """The members as the named node sees them; it is asked with the key of the session, else the authority's own."""
    key = session.api_key or read_env_file(authority / CREDENTIALS_FILE).get("APPLIANCE_API_KEY", "")
    from appliance.cli.client import Client

    with Client(parse_urls(join), key, timeout_s=session.timeout_s, ca_file=session.ca_file) as client:
        members = read_members(client.request("GET", "/cluster/nodes").json()["nodes"])
    if not members:
        raise CliError(
            Exit.UNAVAILABLE, f"the node at {join} belongs to no cluster yet", hint="name another", code="unavailable"
        )
    return members


def _refuse_other(members: Sequence[Member], number: int, address: str) -> None:
    held = next((member for member in members if member.node_id == number), None)
    if held is not None and held.address != address:
        raise CliError(
            Exit.CONFLICT,
            f"node {number} is a member at {held.address}",
            hint=f"choose a number that was never used; there are {', '.join(str(m.node_id) for m in members)}",
            code="conflict",
        )


def _place(number: int, host: str, port: int, seeds: Sequence[str]) -> dict[str, dict[str, Any]]:
    peer_port = port + PEER_PORT_OFFSET
    return {
        "node": {"id": number, "address": join_address(host, port)},
        "network": {
            "client_host": "127.0.0.1",
            "client_port": port,
            "raft_port": peer_port,
            "raft_address": join_address(host, peer_port),
            "seed_peers": list(seeds),
        },
    }


def _shared_secret(authority: Path, home: Path, host: str) -> dict[str, str]:
    """Copy the secret of a cluster on this machine, and its hashed keys."""
    if not (authority / SECRET_FILE).exists():
        raise CliError(
            Exit.NOT_FOUND,
            f"{authority} has neither ca.key nor {SECRET_FILE}",
            hint="name the cluster's own directory with --authority: .scribe of a local cluster, the operator's else",
            code="not_found",
        )
    if not is_loopback(host):
        raise CliError(
            Exit.USAGE,
            f"{host} is another machine, and this cluster's nodes share a secret, which is for one machine only",
            hint="nodes on several machines need certificates: `appliance init --stack` makes an authority",
            code="usage",
        )
    files = {"cluster_secret_file": SECRET_FILE, "api_keys_file": "api-keys.json"}
    for name in (*files.values(), LOG_KEY_FILE):
        write_file(home / name, (authority / name).read_bytes())
    return {key: str(home / name) for key, name in files.items()}
