"""What `initialise_local` and `initialise_stack` leave, and that a second call takes nothing away."""

from __future__ import annotations

import hashlib
import json
import stat
import tomllib
from pathlib import Path

import pytest

from appliance.adapters.config import load_settings
from appliance.adapters.pki import certificate_identity
from appliance.cli.init import ensure_credentials, initialise_local, initialise_stack
from appliance.cli.init_files import read_env_file, render_toml, write_config, write_file

URLS = ["http://127.0.0.1:8001", "http://127.0.0.1:8002", "http://127.0.0.1:8003"]
ROLE_KEYS = {
    "admin": "APPLIANCE_API_KEY",
    "read": "APPLIANCE_API_KEY_READ",
    "write": "APPLIANCE_API_KEY_WRITE",
    "audit": "APPLIANCE_API_KEY_AUDIT",
    "metrics": "APPLIANCE_API_KEY_METRICS",
}


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_local_nodes_accept_their_configuration(tmp_path: Path) -> None:
    cluster = initialise_local(tmp_path / ".scribe", base_port=7101)

    settings = [load_settings(path, {}) for path in cluster.configs]

    assert [s.node.id for s in settings] == [1, 2, 3]
    assert [s.network.client_port for s in settings] == [7101, 7102, 7103]
    assert [s.network.raft_port for s in settings] == [8101, 8102, 8103]
    assert {tuple(s.network.seed_peers) for s in settings} == {("127.0.0.1:8101", "127.0.0.1:8102", "127.0.0.1:8103")}
    assert {s.network.peer_auth for s in settings} == {"secret"}
    assert {s.node.cluster_id for s in settings} == {cluster.cluster_id}
    assert cluster.urls == ("http://127.0.0.1:7101", "http://127.0.0.1:7102", "http://127.0.0.1:7103")


def test_who_joins_later_is_told_the_founders_and_nothing_else(tmp_path: Path) -> None:
    cluster = initialise_local(tmp_path, base_port=7101, founders=3, numbers=(1, 3, 4, 5))

    founder, _, four, five = (load_settings(path, {}) for path in cluster.configs)

    assert founder.network.seed_peers == ["127.0.0.1:8101", "127.0.0.1:8102", "127.0.0.1:8103"]
    assert founder.node.cluster_id == cluster.cluster_id
    assert {tuple(s.network.seed_peers) for s in (four, five)} == {("127.0.0.1:8101", "127.0.0.1:8103")}
    assert (four.node.cluster_id, five.node.cluster_id) == ("", "")
    assert (five.network.client_port, five.network.raft_port) == (7105, 8105)
    assert read_env_file(cluster.credentials)["APPLIANCE_URL"].count("http") == 4


def test_when_all_founders_are_gone_who_joins_is_told_the_others(tmp_path: Path) -> None:
    configs = initialise_local(tmp_path, base_port=7101, founders=3, numbers=(4, 5, 6)).configs

    assert load_settings(configs[1], {}).network.seed_peers == ["127.0.0.1:8104", "127.0.0.1:8106"]


def test_credentials_open_the_roles_of_the_keys_file(tmp_path: Path) -> None:
    cluster = initialise_local(tmp_path)

    credentials = read_env_file(cluster.credentials)
    rows = json.loads((tmp_path / "api-keys.json").read_text())

    assert credentials["APPLIANCE_URL"] == ",".join(cluster.urls)
    assert rows["format"] == 1
    assert {row["role"]: row["sha256"] for row in rows["keys"]} == {
        role: hashlib.sha256(credentials[name].encode()).hexdigest() for role, name in ROLE_KEYS.items()
    }
    assert len({credentials[name] for name in ROLE_KEYS.values()}) == len(ROLE_KEYS)


def test_secrets_are_their_owners_alone(tmp_path: Path) -> None:
    root = tmp_path / "state"
    initialise_local(root)

    files = [path for path in root.rglob("*") if path.is_file()]
    directories = [root, *(path for path in root.rglob("*") if path.is_dir())]

    assert {mode(path) for path in files} == {0o600}
    assert {mode(path) for path in directories} == {0o700}


@pytest.mark.parametrize("which", ["local", "stack"])
def test_a_second_call_changes_nothing(tmp_path: Path, which: str) -> None:
    def initialise() -> None:
        if which == "local":
            initialise_local(tmp_path)
        else:
            initialise_stack(tmp_path, urls=URLS)

    initialise()
    first = contents(tmp_path)
    initialise()

    assert contents(tmp_path) == first


def test_moving_the_ports_keeps_secrets_and_settings_of_the_user(tmp_path: Path) -> None:
    before = initialise_local(tmp_path, base_port=8001)
    keys = (tmp_path / "api-keys.json").read_bytes()
    config = before.configs[0]
    config.write_text(config.read_text() + "\n[storage]\ncapacity_keys = 77\n\n[security.rate_limit]\nburst_size = 5\n")

    after = initialise_local(tmp_path, base_port=9501)

    settings = load_settings(after.configs[0], {})
    assert settings.network.client_port == 9501
    assert settings.storage.capacity_keys == 77
    assert settings.security.rate_limit.burst_size == 5
    assert after.cluster_id == before.cluster_id
    assert (tmp_path / "api-keys.json").read_bytes() == keys
    assert read_env_file(after.credentials)["APPLIANCE_URL"].startswith("http://127.0.0.1:9501,")


def test_a_lost_key_is_drawn_anew_and_others_stay(tmp_path: Path) -> None:
    first = ensure_credentials(tmp_path, {})
    path = tmp_path / "api-keys.json"
    rows = json.loads(path.read_text())
    rows["keys"].append({"name": "importer", "role": "write", "sha256": "0" * 64})
    path.write_text(json.dumps(rows))
    lines = (tmp_path / "credentials.env").read_text().splitlines()
    kept = [line for line in lines if not line.startswith("APPLIANCE_API_KEY_READ=")]
    (tmp_path / "credentials.env").write_text("\n".join(kept))

    second = ensure_credentials(tmp_path, {})

    changed = {name for name in first if first[name] != second[name]}
    hashes = {row["name"]: row["sha256"] for row in json.loads(path.read_text())["keys"]}
    assert changed == {"APPLIANCE_API_KEY_READ"}
    assert hashes["read"] == hashlib.sha256(second["APPLIANCE_API_KEY_READ"].encode()).hexdigest()
    assert hashes["admin"] == hashlib.sha256(first["APPLIANCE_API_KEY"].encode()).hexdigest()
    assert hashes["importer"] == "0" * 64


def test_stack_nodes_get_their_own_certificate_and_no_secret_of_others(tmp_path: Path) -> None:
    credentials = read_env_file(initialise_stack(tmp_path, urls=URLS))

    cluster_id = (tmp_path / "operator/cluster.id").read_text().strip()
    for number in (1, 2, 3):
        home = tmp_path / f"node{number}"
        names = {path.name for path in home.iterdir()}
        assert names == {"config.toml", "api-keys.json", "ca.crt", "peer.crt", "peer.key", "log.key"}
        identity = certificate_identity(home / "peer.crt")
        assert identity is not None
        assert (identity.cluster_id, identity.node_id) == (cluster_id, number)
        text = b"".join(contents(home).values()).decode()
        assert not [name for name in ROLE_KEYS.values() if credentials[name] in text]


def test_stack_configuration_is_acceptable(tmp_path: Path) -> None:
    initialise_stack(tmp_path, urls=URLS)

    settings = load_settings(tmp_path / "node2/config.toml", {}, check_files=False)

    assert settings.node.address == "node2:8002"
    assert settings.network.raft_address == "node2:9002"
    assert settings.network.seed_peers == ["node1:9001", "node2:9002", "node3:9003"]
    assert settings.network.peer_auth == "tls"
    assert settings.network.behind_gateway
    assert settings.node.data_dir == "/var/lib/scribe-ledger"


def test_a_node_that_joins_the_stack_gets_a_certificate_seeds_and_a_target(tmp_path: Path) -> None:
    initialise_stack(tmp_path, urls=URLS)
    assert json.loads((tmp_path / "targets/nodes.json").read_text()) == []
    first = contents(tmp_path)

    initialise_stack(tmp_path, urls=URLS, joining=(4, 6))

    settings = load_settings(tmp_path / "node6/config.toml", {}, check_files=False)
    assert (settings.node.id, settings.node.address, settings.node.cluster_id) == (6, "node6:8006", "")
    assert settings.network.seed_peers == ["node1:9001", "node2:9002", "node3:9003"]
    identity = certificate_identity(tmp_path / "node4/peer.crt")
    assert identity is not None
    assert identity.node_id == 4
    assert json.loads((tmp_path / "targets/nodes.json").read_text()) == [{"targets": ["node4:8004", "node6:8006"]}]
    assert (mode(tmp_path / "targets"), mode(tmp_path / "targets/nodes.json")) == (0o755, 0o644)
    now = contents(tmp_path)
    assert {name: now[name] for name in first if "targets" not in name} == {
        name: text for name, text in first.items() if "targets" not in name
    }


def test_stack_passwords_are_readable_by_their_group_alone(tmp_path: Path) -> None:
    credentials = read_env_file(initialise_stack(tmp_path, urls=URLS))

    assert (tmp_path / "grafana/grafana-password").read_text() == credentials["GRAFANA_ADMIN_PASSWORD"]
    assert (tmp_path / "elastic/elastic-password").read_text() == credentials["ELASTIC_PASSWORD"]
    for name in ("grafana/grafana-password", "grafana/elastic-password", "elastic/elastic-password"):
        assert mode(tmp_path / name) == 0o640
        assert mode((tmp_path / name).parent) == 0o750
    assert mode(tmp_path / "operator") == 0o700
    assert {mode(path) for path in (tmp_path / "operator").iterdir() if path.name != "ca.crt"} == {0o600}


@pytest.mark.parametrize(
    "table",
    [
        pytest.param({"a": 1, "b": True, "c": 0.5, "d": "x"}, id="plain"),
        pytest.param({"s": {"text": 'quote " and \\ and \n and Ω and 🜁'}}, id="strings"),
        pytest.param({"s": {"list": ["a", "b"], "empty": []}}, id="lists"),
        pytest.param({"top": 1, "s": {"x": 1, "inner": {"y": 2}}, "t": {"only": {"z": 3}}}, id="nested"),
    ],
)
def test_toml_reads_back(table: dict[str, object]) -> None:
    assert tomllib.loads(render_toml(table)) == table


def test_comments_stay_while_owned_values_do(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("# mine\n[node]\nid = 1\n")

    write_config(path, "heading", {"node": {"id": 1}})
    assert path.read_text() == "# mine\n[node]\nid = 1\n"

    write_config(path, "heading", {"node": {"id": 2}})
    assert path.read_text() == "# heading\n\n[node]\nid = 2\n"


def test_a_file_that_cannot_be_replaced_stays_whole(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()

    with pytest.raises(IsADirectoryError):
        write_file(tmp_path / "taken", b"new")

    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
