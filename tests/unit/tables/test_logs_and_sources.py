"""Sanity of what Filebeat and Grafana are given.

Their images have no stand-in where these tests run, so the files are held to what the documentation of Filebeat 9
and Grafana 13 asks for, and not to the programs themselves.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[3]
FILEBEAT: dict[str, Any] = yaml.safe_load((ROOT / "filebeat/filebeat.yml").read_text())
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose/compose.yaml").read_text())
PROVISIONING = ROOT / "grafana/provisioning"


def test_filebeat_reads_the_nodes_lines_as_the_runbook_says() -> None:
    (source,) = FILEBEAT["filebeat.inputs"]

    assert source["type"] == "filestream"
    assert source["id"]
    assert source["paths"] == ["/var/log/scribe-ledger/*.log"]
    assert source["prospector.scanner.fingerprint"] == {"enabled": True, "length": 64}
    assert source["parsers"] == [
        {"ndjson": {"target": "", "overwrite_keys": True, "add_error_key": True, "expand_keys": True}}
    ]


def test_filebeat_may_name_its_index() -> None:
    output = FILEBEAT["output.elasticsearch"]

    assert output["index"] == "scribe-ledger-%{+yyyy.MM.dd}"
    assert FILEBEAT["setup.ilm.enabled"] is False
    assert FILEBEAT["setup.template.name"] == "scribe-ledger"
    assert FILEBEAT["setup.template.pattern"] == "scribe-ledger-*"
    assert [next(iter(processor)) for processor in FILEBEAT["processors"]] == [
        "add_host_metadata",
        "add_cloud_metadata",
    ]


def test_filebeat_gets_every_variable_from_its_service() -> None:
    wanted = set(re.findall(r"\$\{(\w+)", (ROOT / "filebeat/filebeat.yml").read_text()))
    service = COMPOSE["services"]["filebeat"]

    given = set(service["environment"]) | set(re.findall(r"(\w+)=\$\$\(cat", service["entrypoint"][2]))
    assert wanted == {"ELASTICSEARCH_HOSTS", "ELASTICSEARCH_USERNAME", "ELASTICSEARCH_PASSWORD"}
    assert wanted <= given


def test_filebeat_keeps_its_registry() -> None:
    volumes = COMPOSE["services"]["filebeat"]["volumes"]

    assert "filebeat-data:/usr/share/filebeat/data" in volumes
    assert "logs:/var/log/scribe-ledger:ro" in volumes


def test_elasticsearch_is_single_secured_and_bounded() -> None:
    service = COMPOSE["services"]["elasticsearch"]
    environment = service["environment"]

    assert environment["discovery.type"] == "single-node"
    assert environment["xpack.security.enabled"] == "true"
    assert re.fullmatch(r"-Xms(\d+)m -Xmx\1m", environment["ES_JAVA_OPTS"])
    assert "ports" not in service
    assert "ELASTIC_PASSWORD=$$(cat /run/secrets/scribe/elastic-password)" in service["entrypoint"][2]


def test_grafana_starts_without_the_internet_and_with_a_generated_password() -> None:
    environment = COMPOSE["services"]["grafana"]["environment"]

    assert environment["GF_PLUGINS_PREINSTALL_AUTO_UPDATE"] == "false"
    assert environment["GF_SECURITY_ADMIN_PASSWORD__FILE"] == "/run/secrets/scribe/grafana-password"


def test_grafana_finds_dashboards_and_sources_where_they_are_mounted() -> None:
    (provider,) = yaml.safe_load((PROVISIONING / "dashboards/scribe-ledger.yaml").read_text())["providers"]
    mounts = dict(v.split(":")[:2] for v in COMPOSE["services"]["grafana"]["volumes"])

    assert mounts["../grafana/dashboards"] == provider["options"]["path"]
    assert mounts["../grafana/provisioning"] == "/etc/grafana/provisioning"
    assert COMPOSE["services"]["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"].startswith(
        provider["options"]["path"]
    )


@pytest.mark.parametrize("path", sorted(PROVISIONING.rglob("*.yaml")), ids=lambda path: path.parent.name)
def test_a_dollar_in_provisioning_is_doubled_or_an_expansion(path: Path) -> None:
    loose = re.findall(r"\$(?!\$|__file\{|__env\{)", path.read_text().replace("$$", ""))

    assert loose == []
