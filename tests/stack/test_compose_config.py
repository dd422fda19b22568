"""Good manners of every service, read from the stack as Compose resolves it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from stack_rig import ROOT

from appliance.cli.stack_files import NODES_FILE, environment, further_nodes, write_nodes

pytestmark = pytest.mark.stack

LEDGER = {"init", "node1", "node2", "node3", "prometheus", "alertmanager"}
SERVICES = sorted(LEDGER | {"grafana", "elasticsearch", "filebeat"})
WRITABLE_ROOT = {"elasticsearch"}  # its entry point writes a keystore beside its configuration
ONE_SHOT = {"init"}


def test_services_are_those_of_the_readme(compose_config: dict[str, Any]) -> None:
    assert sorted(compose_config["services"]) == SERVICES
    assert compose_config["name"] == "scribe-ledger"


@pytest.mark.parametrize("name", SERVICES)
def test_service_is_bounded_and_has_no_privileges(name: str, compose_config: dict[str, Any]) -> None:
    service = compose_config["services"][name]

    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service.get("privileged", False)
    assert service.get("read_only", False) is (name not in WRITABLE_ROOT)
    assert service["user"].split(":")[0] not in ("", "0", "root")
    assert int(service["mem_limit"]) <= 4 * 2**30
    assert 0 < service["pids_limit"] <= 1024
    assert service["logging"]["driver"] == "json-file"
    assert set(service["logging"]["options"]) == {"max-size", "max-file"}
    assert "container_name" not in service
    assert service["restart"] == ("no" if name in ONE_SHOT else "unless-stopped")


@pytest.mark.parametrize("name", sorted(set(SERVICES) - ONE_SHOT))
def test_service_has_a_health_check_and_time_to_stop(name: str, compose_config: dict[str, Any]) -> None:
    service = compose_config["services"][name]

    assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")
    assert service["healthcheck"]["retries"] > 1
    assert service["stop_grace_period"] in {"10s", "20s", "30s", "1m0s"}


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_published_on_loopback_only(name: str, compose_config: dict[str, Any]) -> None:
    published = {p["published"]: p["host_ip"] for p in compose_config["services"][name].get("ports", ())}

    assert set(published.values()) <= {"127.0.0.1"}


def test_images_are_pinned_and_overridable(compose_config: dict[str, Any]) -> None:
    text = (ROOT / "compose/compose.yaml").read_text()

    for name in ("PROMETHEUS", "ALERTMANAGER", "GRAFANA", "ELASTICSEARCH", "FILEBEAT", "APPLIANCE"):
        assert f"image: ${{{name}_IMAGE:-" in text
    for service in compose_config["services"].values():
        tag = service["image"].rpartition(":")[2]
        assert tag[:1] in "v0123456789"
    assert "ARG PYTHON_IMAGE=python:3.13-slim-trixie" in (ROOT / "compose/Dockerfile").read_text()


def test_nothing_of_the_ledger_waits_for_dashboards_or_logs(compose_config: dict[str, Any]) -> None:
    services = compose_config["services"]

    for name in LEDGER:
        assert set(services[name].get("depends_on", {})) <= {"init"}
        assert not services[name].get("profiles")
    assert services["grafana"]["profiles"] == ["dashboards"]
    assert services["elasticsearch"]["profiles"] == services["filebeat"]["profiles"] == ["logs"]


def test_a_node_sees_its_own_secrets_only(compose_config: dict[str, Any]) -> None:
    mounts = {
        name: {volume["source"] for volume in service.get("volumes", ()) if volume["type"] == "volume"}
        for name, service in compose_config["services"].items()
    }

    assert {name for name, sources in mounts.items() if "operator" in sources} == {"init"}
    for number in (1, 2, 3):
        assert {n for n, s in mounts.items() if f"node{number}-config" in s} == {"init", f"node{number}"}
    assert {name for name, sources in mounts.items() if "grafana-secrets" in sources} == {"init", "grafana"}


def test_a_node_that_is_added_is_node_3_with_another_number(compose_config: dict[str, Any], tmp_path: Path) -> None:
    write_nodes(tmp_path, (4, 9))
    assert further_nodes(tmp_path) == (4, 9)

    command = ["docker", "compose", "--profile", "*", "config", "--format", "json"]
    seen = environment(tmp_path / NODES_FILE)
    resolved = subprocess.run(command, cwd=ROOT, env=seen, capture_output=True, check=True, timeout=60).stdout
    services = json.loads(resolved)["services"]

    third = json.dumps(compose_config["services"]["node3"])
    for number in (4, 9):
        expected = third.replace("node3", f"node{number}").replace("8003", f"800{number}")
        assert services[f"node{number}"] == json.loads(expected)
    init = services.pop("init")
    assert init["environment"]["APPLIANCE_JOINING"] == "4,9"
    assert init["environment"]["APPLIANCE_URL"].split(",")[3:] == ["http://127.0.0.1:8004", "http://127.0.0.1:8009"]
    added = {volume["target"] for volume in init["volumes"]} - {
        volume["target"] for volume in compose_config["services"]["init"]["volumes"]
    }
    assert added == {"/secrets/node4", "/secrets/node9"}
    assert {name: services[name] for name in SERVICES if name != "init"} == {
        name: service for name, service in compose_config["services"].items() if name != "init"
    }


def test_without_further_nodes_there_is_no_file(tmp_path: Path) -> None:
    write_nodes(tmp_path, (4,))
    write_nodes(tmp_path, ())
    assert list(tmp_path.iterdir()) == []
    assert environment(tmp_path / NODES_FILE) == dict(os.environ)


def test_init_has_no_network(compose_config: dict[str, Any]) -> None:
    assert compose_config["services"]["init"]["network_mode"] == "none"


def test_dockerfile_needs_no_front_end_from_a_registry() -> None:
    assert "# syntax" not in (ROOT / "compose/Dockerfile").read_text()
