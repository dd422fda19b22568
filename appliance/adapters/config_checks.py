"""Rules that one key's own bounds cannot state: between keys, and between a key and the files it names."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from appliance.adapters.peer_address import is_loopback, is_wildcard, split_address
from appliance.adapters.witness_address import parse_witness
from appliance.tables.settings import Settings

Problem = tuple[str, str]  # dotted key, what is wrong and what to do


@dataclass(frozen=True, slots=True)
class CrossCheck:
    """One rule.

    Attributes:
        rule: the rule in one sentence, for the reference page.
        keys: the dotted keys it reads; it is not tried when one of them is wrong already.
        find: yields the problems of otherwise valid settings.
        files: whether it looks at the file system.
    """

    rule: str
    keys: tuple[str, ...]
    find: Callable[[Settings], Iterable[Problem]]
    files: bool = False


def _addresses(settings: Settings) -> Iterator[Problem]:
    single = (("node.address", settings.node.address), ("network.raft_address", settings.network.raft_address))
    for key, text in (*single, *(("network.seed_peers", text) for text in settings.network.seed_peers)):
        if text or key == "network.seed_peers":
            try:
                host, _ = split_address(text)
            except ValueError as error:
                yield key, f"{error}; write host:port"
            else:
                if is_wildcard(host):
                    yield key, f"{text!r} is not an address that another node can dial; write a name or an address"


def _reachable(settings: Settings) -> Iterator[Problem]:
    network = settings.network
    if is_wildcard(network.client_host) and not settings.node.address:
        yield "node.address", f"must be set, because client_host {network.client_host} is no address to tell others"
    if is_wildcard(network.raft_host) and not network.raft_address:
        yield (
            "network.raft_address",
            f"must be set, because raft_host {network.raft_host} is no address to tell others",
        )


def _ports(settings: Settings) -> Iterator[Problem]:
    if settings.network.client_port == settings.network.raft_port:
        yield (
            "network.raft_port",
            f"{settings.network.raft_port} is client_port too; each needs its own (9001 beside 8001)",
        )


def _heartbeat(settings: Settings) -> Iterator[Problem]:
    consensus = settings.consensus
    limit = consensus.election_timeout / 3
    if consensus.heartbeat_timeout > limit + 1e-9:
        yield (
            "consensus.heartbeat_timeout",
            f"{consensus.heartbeat_timeout} must be at most a third of consensus.election_timeout "
            f"({consensus.election_timeout} / 3 = {limit:.4g} s), or one lost heartbeat starts an election",
        )


def _compaction(settings: Settings) -> Iterator[Problem]:
    storage = settings.storage
    if storage.keep_log_entries >= storage.compact_log_entries:
        yield (
            "storage.keep_log_entries",
            f"{storage.keep_log_entries} must be below storage.compact_log_entries ({storage.compact_log_entries})",
        )


def _peer_tls(settings: Settings) -> Iterator[Problem]:
    if settings.network.peer_auth == "tls":
        for name in ("peer_cert_file", "peer_key_file", "peer_ca_file"):
            if not getattr(settings.security, name):
                yield f"security.{name}", 'must name a file, because network.peer_auth is "tls"'


def _peer_secret(settings: Settings) -> Iterator[Problem]:
    network = settings.network
    if network.peer_auth != "secret":
        return
    if not settings.security.cluster_secret_file:
        yield "security.cluster_secret_file", 'must name a file, because network.peer_auth is "secret"'
    advice = 'must be loopback (127.0.0.1), because network.peer_auth is "secret"; use "tls" between machines'
    if not is_loopback(network.raft_host):
        yield "network.raft_host", f"{network.raft_host!r} {advice}"
    addresses = [("network.seed_peers", text) for text in network.seed_peers]
    if network.raft_address:
        addresses.append(("network.raft_address", network.raft_address))
    for key, text in addresses:
        try:
            loopback = is_loopback(split_address(text)[0])
        except ValueError:
            continue  # the rule about addresses reports it
        if not loopback:
            yield key, f"{text!r} {advice}"


def _client_tls(settings: Settings) -> Iterator[Problem]:
    tls = settings.security.tls
    for missing, given in (("key_file", "cert_file"), ("cert_file", "key_file")):
        if getattr(tls, given) and not getattr(tls, missing):
            yield f"security.tls.{missing}", f"must be set together with security.tls.{given}"
    network = settings.network
    if not (is_loopback(network.client_host) or tls.cert_file or network.behind_gateway):
        yield (
            "network.client_host",
            f"{network.client_host!r} is not loopback: set cert_file and key_file in [security.tls], or "
            "network.behind_gateway = true when only a gateway or a container network reaches the port",
        )


def _witnesses(settings: Settings) -> Iterator[Problem]:
    names: set[str] = set()
    for text in settings.log.witnesses:
        try:
            name = parse_witness(text).key.name
        except ValueError as error:
            yield "log.witnesses", f"{text!r:.300}: {error}; write its submission prefix, a space and its verifier key"
            continue
        if name in names:
            yield "log.witnesses", f"there are two of the name {name}; each has a name and a key of its own"
        names.add(name)
    if settings.log.witnesses and not settings.log.key_file:
        yield "log.key_file", "must name a file, because log.witnesses cosign what is signed with it"


def _files(settings: Settings) -> Iterator[Problem]:
    security, network = settings.security, settings.network
    secret_files = {"security.api_keys_file": security.api_keys_file, "security.tls.key_file": security.tls.key_file}
    secret_files["log.key_file"] = settings.log.key_file
    open_files = {"security.tls.cert_file": security.tls.cert_file}
    if network.peer_auth == "tls":
        secret_files["security.peer_key_file"] = security.peer_key_file
        open_files["security.peer_cert_file"] = security.peer_cert_file
        open_files["security.peer_ca_file"] = security.peer_ca_file
    else:
        secret_files["security.cluster_secret_file"] = security.cluster_secret_file
    for files, private in ((secret_files, True), (open_files, False)):
        for key, name in files.items():
            wrong = _file_problem(Path(name), private=private) if name else ""
            if wrong:
                yield key, f"{name}: {wrong}"


def _file_problem(path: Path, *, private: bool) -> str:
    """Say what is wrong with a file that must be there and, when `private`, be its owner's alone."""
    try:
        with path.open("rb"):
            mode = path.stat().st_mode
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if private and stat.S_IMODE(mode) & 0o077:
        return f"its mode is {stat.S_IMODE(mode):04o}, but a key must be its owner's alone: chmod 600 {path}"
    return ""


_ADDRESSES = ("node.address", "network.raft_address", "network.seed_peers")

CROSS_CHECKS: tuple[CrossCheck, ...] = (
    CrossCheck("`address`, `raft_address` and each of `seed_peers` are host:port.", _ADDRESSES, _addresses),
    CrossCheck(
        "A node bound to every interface (`0.0.0.0`) needs `address` and `raft_address`, to tell others.",
        (*_ADDRESSES, "network.client_host", "network.raft_host"),
        _reachable,
    ),
    CrossCheck("`client_port` and `raft_port` differ.", ("network.client_port", "network.raft_port"), _ports),
    CrossCheck(
        "`heartbeat_timeout` is at most a third of `election_timeout`.",
        ("consensus.heartbeat_timeout", "consensus.election_timeout"),
        _heartbeat,
    ),
    CrossCheck(
        "`keep_log_entries` is below `compact_log_entries`.",
        ("storage.keep_log_entries", "storage.compact_log_entries"),
        _compaction,
    ),
    CrossCheck(
        '`peer_auth = "tls"` needs `peer_cert_file`, `peer_key_file` and `peer_ca_file`.',
        ("network.peer_auth",),
        _peer_tls,
    ),
    CrossCheck(
        '`peer_auth = "secret"` needs `cluster_secret_file`, and `raft_host`, `raft_address` and seeds on loopback.',
        ("network.peer_auth", "network.raft_host", "network.raft_address", "network.seed_peers"),
        _peer_secret,
    ),
    CrossCheck(
        "`client_host` leaves loopback only with `[security.tls]` or `behind_gateway = true`.",
        ("network.client_host", "network.behind_gateway", "security.tls.cert_file", "security.tls.key_file"),
        _client_tls,
    ),
    CrossCheck(
        "Each of `witnesses` is a URL, a space and a verifier key of type 0x04; their names differ, and there is a "
        "`key_file`.",
        ("log.witnesses", "log.key_file"),
        _witnesses,
    ),
    CrossCheck(
        "Every file that is named exists; files with keys are mode 0600.",
        ("network.peer_auth", "security.api_keys_file"),
        _files,
        files=True,
    ),
)
