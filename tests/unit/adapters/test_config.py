"""The loader of the configuration: where values come from, and what is said about those that cannot be used."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from appliance.adapters.config import ConfigError, load_settings, render_reference
from appliance.adapters.config_rows import setting_rows
from appliance.adapters.ed25519 import SigningKey
from appliance.ledger.note import SignatureType, format_verifier_key
from appliance.tables.settings import Settings

ROOT = Path(__file__).parents[3]
WITNESS = format_verifier_key(SigningKey("w.example", SignatureType.COSIGNATURE_V1, bytes(32)).verifier_key)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for name in ("keys.json", "cluster.secret", "peer.key", "peer.crt", "ca.crt", "client.key", "client.crt"):
        path = tmp_path / name
        path.write_text("x" * 64)
        path.chmod(0o600)
    return tmp_path


def local(files: Path) -> str:
    """A configuration for one host that has nothing wrong."""
    return f"""
[node]
id = 1
[network]
peer_auth = "secret"
[security]
api_keys_file = "{files}/keys.json"
cluster_secret_file = "{files}/cluster.secret"
"""


def load(
    files: Path, extra: str = "", environ: Mapping[str, str] | None = None, *, base: str | None = None
) -> Settings:
    path = files / "config.toml"
    path.write_text((local(files) if base is None else base) + extra)
    return load_settings(path, environ or {})


def problems(files: Path, extra: str = "", environ: Mapping[str, str] | None = None, **kwargs: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load(files, extra, environ, **kwargs)
    assert all(text in str(caught.value) for text in caught.value.problems)
    return caught.value.problems


def test_file_and_defaults(files: Path) -> None:
    settings = load(files, "[consensus]\nelection_timeout = 3\nheartbeat_timeout = 0.5\n")
    assert settings.node.id == 1
    assert settings.consensus.election_timeout == 3.0
    assert settings.storage.max_cache_size == 256 * 1024 * 1024


def test_environment_overrides_the_file(files: Path) -> None:
    settings = load(
        files,
        '[logging]\nlevel = "debug"\n',
        {
            "SCRIBE_NODE__ID": "7",
            "SCRIBE_LOGGING__LEVEL": "error",
            "SCRIBE_SECURITY__RATE_LIMIT__MAX_REQUESTS": "100",
            "SCRIBE_NETWORK__SEED_PEERS": "127.0.0.1:9001, [::1]:9002,",
            "SCRIBE_NETWORK__BEHIND_GATEWAY": "true",
            "SCRIBE_STORAGE__FLUSH_INTERVAL": "0.5",
            "PATH": "/bin",
        },
    )
    assert settings.node.id == 7
    assert settings.logging.level == "error"
    assert settings.security.rate_limit.max_requests == 100
    assert settings.network.seed_peers == ["127.0.0.1:9001", "[::1]:9002"]
    assert settings.network.behind_gateway is True
    assert settings.storage.flush_interval == 0.5


def test_environment_alone(files: Path) -> None:
    settings = load_settings(
        None,
        {
            "SCRIBE_NODE_ID": "3",
            "SCRIBE_NETWORK__PEER_AUTH": "secret",
            "SCRIBE_SECURITY__API_KEYS_FILE": str(files / "keys.json"),
            "SCRIBE_SECURITY__CLUSTER_SECRET_FILE": str(files / "cluster.secret"),
        },
    )
    assert settings.node.id == 3


def test_files_need_not_exist_where_only_values_matter(files: Path) -> None:
    (files / "keys.json").unlink()
    path = files / "config.toml"
    path.write_text(local(files))
    assert load_settings(path, {}, check_files=False).node.id == 1
    with pytest.raises(ConfigError, match=r"keys\.json: cannot be read"):
        load_settings(path, {})


FILE_ROWS = {
    "typo in a key": (
        "[network]\nraft_prot = 9001",
        "network.raft_prot: there is no such key; did you mean network.raft_port?",
    ),
    "key in another section": ("[audit]\ncapacity_keys = 5", "did you mean storage.capacity_keys?"),
    "typo in a section": ("[netwrk]\nraft_port = 9001", "netwrk: there is no such section; did you mean network?"),
    "nothing like it": ("[node]\nxyzzy = 1", "node.xyzzy: there is no such key; docs/CONFIGURATION.md has them all"),
    "section as a value": ("audit = 3", "audit: is a section: write its keys under [audit]"),
    "key as a section": (
        "[network.raft_port]\na = 1",
        "network.raft_port: {'a': 1} is not allowed; it must be: integer",
    ),
    "wrong type": (
        '[network]\nraft_port = "9001"',
        "network.raft_port: '9001' is not allowed; it must be: integer, 1 to 65535",
    ),
    "boolean is no integer": ("[network]\nraft_port = true", "network.raft_port: True is not allowed"),
    "too large": (
        "[network]\nraft_port = 65536",
        "network.raft_port: 65536 is not allowed; it must be: integer, 1 to 65535",
    ),
    "too small, with unit": ("[storage]\nmax_cache_size = 1", "it must be: integer, 1048576 to 1099511627776 bytes"),
    "no number": (
        "[consensus]\nelection_timeout = nan",
        "consensus.election_timeout: nan is not allowed; it must be: number, 0.05 to 60 s",
    ),
    "one of": (
        '[logging]\nlevel = "loud"',
        "logging.level: 'loud' is not allowed; it must be: string, one of debug, info",
    ),
    "newline behind a match": ('[logging]\nlevel = "info\\n"', "logging.level: 'info\\n' is not allowed"),
    "list of something else": (
        "[network]\nseed_peers = [1]",
        "network.seed_peers: [1] is not allowed; it must be: list of strings",
    ),
    "empty": ('[node]\ndata_dir = ""', "node.data_dir: '' is not allowed; it must be: string, not empty"),
    "seed without port": (
        '[network]\nseed_peers = ["127.0.0.1"]',
        "network.seed_peers: '127.0.0.1' is not host:port; write host:port",
    ),
    "address for everybody": ('[node]\naddress = "0.0.0.0:8001"', "node.address: '0.0.0.0:8001' is not an address"),
    "wildcard untold": ('[network]\nclient_host = "0.0.0.0"', "node.address: must be set, because client_host 0.0.0.0"),
    "same port": ("[network]\nclient_port = 9001", "network.raft_port: 9001 is client_port too"),
    "heartbeat": (
        "[consensus]\nheartbeat_timeout = 0.4",
        "consensus.heartbeat_timeout: 0.4 must be at most a third of consensus.election_timeout (1.0 / 3 = 0.3333 s)",
    ),
    "compaction": ("[storage]\nkeep_log_entries = 100000", "storage.keep_log_entries: 100000 must be below"),
    "no witness": (
        '[log]\nkey_file = "keys.json"\nwitnesses = ["http://w.example w"]',
        "log.witnesses: 'http://w.example w': a verifier key is a name",
    ),
    "two witnesses of one name": (
        f'[log]\nkey_file = "keys.json"\nwitnesses = ["http://a.example {WITNESS}", "http://b.example {WITNESS}"]',
        "log.witnesses: there are two of the name w.example",
    ),
    "a witness of nothing": (
        f'[log]\nwitnesses = ["http://a.example {WITNESS}"]',
        "log.key_file: must name a file, because log.witnesses",
    ),
    "too many witnesses": (
        f"[log]\nwitnesses = {['x'] * 17}",
        "it must be: list of strings, at most 16 items",
    ),
    "client port wide open": ('[network]\nclient_host = "10.0.0.1"', "network.client_host: '10.0.0.1' is not loopback"),
    "half of TLS": ('[security.tls]\ncert_file = "client.crt"', "security.tls.key_file: must be set together with"),
}


@pytest.mark.parametrize(("extra", "expected"), FILE_ROWS.values(), ids=FILE_ROWS)
def test_problem_in_the_file(files: Path, extra: str, expected: str) -> None:
    heading, _, keys = extra.partition("\n")
    base = local(files)
    if heading in base:
        found = problems(files, base=base.replace(heading, f"{heading}\n{keys}"))
    else:
        found = problems(files, base=f"{extra}\n{base}")
    mine = [text for text in found if expected in text]
    assert len(mine) == 1, found
    assert mine[0].startswith(f"{files}/config.toml: ")


ENVIRONMENT_ROWS = {
    "typo": ({"SCRIBE_NODE__IDD": "1"}, "SCRIBE_NODE__IDD: node.idd: there is no such key; did you mean node.id?"),
    "no integer": (
        {"SCRIBE_NODE_ID": "one"},
        "SCRIBE_NODE_ID: node.id: 'one' is not allowed; it must be: integer, 1 to 65535",
    ),
    "no boolean": (
        {"SCRIBE_LOGGING__STDOUT": "maybe"},
        "SCRIBE_LOGGING__STDOUT: logging.stdout: 'maybe' is not allowed; it must be: boolean",
    ),
    "two ids": (
        {"SCRIBE_NODE_ID": "1", "SCRIBE_NODE__ID": "2"},
        "SCRIBE_NODE_ID: node.id: differs from SCRIBE_NODE__ID",
    ),
    "one underscore": (
        {"SCRIBE_NODE_DATA_DIR": "/x"},
        "sections are set off by two underscores: SCRIBE_NODE__DATA_DIR",
    ),
    "rule": (
        {"SCRIBE_CONSENSUS__HEARTBEAT_TIMEOUT": "0.5"},
        "SCRIBE_CONSENSUS__HEARTBEAT_TIMEOUT: consensus.heartbeat_timeout: 0.5 must",
    ),
}


@pytest.mark.parametrize(("environ", "expected"), ENVIRONMENT_ROWS.values(), ids=ENVIRONMENT_ROWS)
def test_problem_in_the_environment(files: Path, environ: Mapping[str, str], expected: str) -> None:
    found = problems(files, environ=environ)
    assert len(found) == 1, found
    assert expected in found[0]


def test_all_problems_at_once(files: Path) -> None:
    found = problems(
        files,
        base=f"""
[node]
idd = 1
[network]
raft_port = 0
client_host = "10.1.2.3"
[consensus]
heartbeat_timeout = 0.9
[security]
api_keys_file = "{files}/none.json"
""",
        environ={"SCRIBE_AUDIT__MAX_ROWS": "0"},
    )
    keys = [text.split(": ")[1] for text in found]
    assert keys == [
        "node.idd",
        "network.raft_port",
        "audit.max_rows",
        "node.id",
        "consensus.heartbeat_timeout",
        "security.peer_cert_file",
        "security.peer_key_file",
        "security.peer_ca_file",
        "network.client_host",
        "security.api_keys_file",
    ]


SECRET_ROWS = {
    "raft_host": 'raft_host = "10.0.0.1"',
    "raft_address": 'raft_address = "node1:9001"',
    "seed_peers": 'seed_peers = ["127.0.0.1:9001", "192.0.2.1:9001"]',
}


@pytest.mark.parametrize(("key", "line"), SECRET_ROWS.items(), ids=SECRET_ROWS)
def test_a_shared_secret_stays_on_loopback(files: Path, key: str, line: str) -> None:
    found = problems(files, base=local(files).replace("[network]", "[network]\n" + line))
    assert len(found) == 1
    assert f"network.{key}: " in found[0]
    assert "must be loopback" in found[0]


def test_a_shared_secret_needs_its_file(files: Path) -> None:
    base = "\n".join(line for line in local(files).splitlines() if "cluster_secret_file" not in line)
    (found,) = problems(files, base=base)
    assert "security.cluster_secret_file: must name a file" in found


def tls(files: Path) -> str:
    return f"""
[node]
id = 1
address = "node1:8001"
[network]
raft_host = "0.0.0.0"
raft_address = "node1:9001"
client_host = "0.0.0.0"
[security]
api_keys_file = "{files}/keys.json"
peer_cert_file = "{files}/peer.crt"
peer_key_file = "{files}/peer.key"
peer_ca_file = "{files}/ca.crt"
[security.tls]
cert_file = "{files}/client.crt"
key_file = "{files}/client.key"
"""


def test_tls_may_listen_everywhere(files: Path) -> None:
    (files / "ca.crt").chmod(0o644)
    assert load(files, base=tls(files)).network.peer_auth == "tls"


@pytest.mark.parametrize("name", ["keys.json", "peer.key", "client.key"])
def test_key_files_are_their_owners_alone(files: Path, name: str) -> None:
    (files / name).chmod(0o640)
    (found,) = problems(files, base=tls(files))
    assert f"its mode is 0640, but a key must be its owner's alone: chmod 600 {files}/{name}" in found


@pytest.mark.parametrize("name", ["keys.json", "peer.key", "peer.crt", "ca.crt", "client.key", "client.crt"])
def test_files_exist(files: Path, name: str) -> None:
    (files / name).unlink()
    (found,) = problems(files, base=tls(files))
    assert f"{files}/{name}: cannot be read (No such file or directory)" in found


def test_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read"):
        load_settings(tmp_path / "none.toml", {})
    (tmp_path / "bad.toml").write_text("[node\n")
    with pytest.raises(ConfigError, match=r"bad.toml: is not TOML: .*line 1"):
        load_settings(tmp_path / "bad.toml", {})
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"bytes.toml: is not TOML"):
        load_settings(tmp_path / "bytes.toml", {})


def test_every_row_has_what_the_reference_shows() -> None:
    for row in setting_rows().values():
        assert row.meta.description, row.dotted
        assert row.type_word, row.dotted
        assert row.required == (row.dotted == "node.id")


def test_the_committed_reference_is_current() -> None:
    committed = (ROOT / "docs" / "CONFIGURATION.md").read_text(encoding="utf-8")
    assert committed == render_reference(), "write render_reference() to docs/CONFIGURATION.md"
