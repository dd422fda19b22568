"""docs/LEDGER-FORMAT.md and the vectors that were made from it alone, against the code."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ledger_rig import Rig

from appliance.ledger.commands import (
    Outcome,
    PauseCommand,
    WriteCommand,
    WriteRequest,
    decode_command,
    encode_pause,
    encode_write,
)
from appliance.ledger.encoding import decode_leaf, encode_leaf, value_hash
from appliance.ledger.merkle import leaf_hash

ROOT = Path(__file__).parents[3]
DOCUMENT = (ROOT / "docs" / "LEDGER-FORMAT.md").read_text()
SCRIPT = ROOT / "tests" / "data" / "make_ledger_vectors.py"
ENTRIES: list[dict[str, Any]] = json.loads((ROOT / "tests" / "data" / "ledger-vectors.json").read_text())["entries"]
LEAVES = [leaf for entry in ENTRIES for leaf in entry["leaves"]]
COMMANDS = [entry for entry in ENTRIES if entry["data"] is not None]


def section(title: str) -> str:
    return re.split(r"^##+ ", DOCUMENT.split(f"# {title}\n")[1], maxsplit=1, flags=re.MULTILINE)[0]


def names_in_table(title: str, column: int) -> list[str]:
    rows = [line.split("|")[1:-1] for line in section(title).splitlines() if line.startswith("|")]
    return [row[column].strip().strip("`") for row in rows[2:]]


def test_the_machine_reproduces_every_vector() -> None:
    rig = Rig()
    for entry in ENTRIES:
        changes = rig.pass_over() if entry["data"] is None else rig.apply(bytes.fromhex(entry["data"]))
        made = [
            {
                "leaf_index": leaf.leaf_index,
                "leaf": leaf.leaf.decode(),
                "leaf_hash": leaf_hash(leaf.leaf).hex(),
                "salt": leaf.salt.hex(),
                "value": None if leaf.value is None else leaf.value.hex(),
            }
            for leaf in changes.leaves
        ]
        assert made == entry["leaves"], entry["about"]
        for name in ("outcome", "replayed", "failed_position", "current_version"):
            assert getattr(changes.result, name, None) == entry.get(name), (entry["about"], name)
        behind = (rig.machine.tree_size, rig.machine.root().hex(), rig.machine.state_hash.hex())
        assert behind == (entry["tree_size"], entry["root_hash"], entry["state_hash"]), entry["about"]


@pytest.mark.parametrize("entry", COMMANDS, ids=lambda entry: entry["about"])
def test_the_leader_encodes_every_vector(entry: dict[str, Any]) -> None:
    data = bytes.fromhex(entry["data"])
    command = decode_command(data)
    if isinstance(command, PauseCommand):
        again = encode_pause(command.timestamp_us, command.until_us, command.actor, command.request_id)
        assert again == data
        return
    request = WriteRequest(
        command.operations,
        command.actor,
        command.request_id,
        command.batch,
        command.idempotency_key,
        command.request_hash,
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    )
    assert encode_write(request, command.timestamp_us, command.salts, command.idempotency_keys_max) == data


@pytest.mark.parametrize("vector", LEAVES, ids=lambda vector: f"leaf {vector['leaf_index']}")
def test_every_leaf_reads_back(vector: dict[str, Any]) -> None:
    data = vector["leaf"].encode()
    leaf = decode_leaf(data)
    assert encode_leaf(leaf) == data
    assert leaf.leaf_index == vector["leaf_index"]
    if vector["value"] is None:
        assert leaf.value_hash is None
    else:
        assert leaf.value_hash == value_hash(bytes.fromhex(vector["salt"]), bytes.fromhex(vector["value"]))


def test_the_file_of_vectors_is_what_its_script_makes() -> None:
    assert runpy.run_path(str(SCRIPT))["text"]() == (SCRIPT.with_name("ledger-vectors.json")).read_text()


def test_the_script_knows_nothing_of_the_program() -> None:
    imported = re.findall(r"^(?:from|import) (\w+)", SCRIPT.read_text(), flags=re.MULTILINE)
    assert set(imported) == {"__future__", "hashlib", "json", "pathlib", "typing"}


def test_the_documents_example_is_the_first_vector() -> None:
    block = re.search(r"```example\n(.*?)```", DOCUMENT, flags=re.DOTALL)
    assert block is not None
    shown = dict(line.split(": ", 1) for line in block[1].splitlines())
    entry, leaf = ENTRIES[0], ENTRIES[0]["leaves"][0]
    assert shown == {
        "data": entry["data"],
        "salt": leaf["salt"],
        "value": leaf["value"],
        "value_hash": json.loads(leaf["leaf"])["value_hash"],
        "leaf": leaf["leaf"],
        "leaf_hash": leaf["leaf_hash"],
        "root_hash": entry["root_hash"],
        "state_hash": entry["state_hash"],
    }


def test_the_documents_tables_name_what_there_is() -> None:
    assert names_in_table("The leaf", 0) == list(json.loads(LEAVES[0]["leaf"]))
    assert names_in_table("Write", 1) == ["tag", *WriteCommand.__struct_fields__]
    assert names_in_table("Pause", 1) == ["tag", *PauseCommand.__struct_fields__]


def test_the_document_names_every_outcome_that_a_machine_decides() -> None:
    named = set(re.findall(r"`([a-z_]+)`", section("What applying a write does")))
    assert {outcome.value for outcome in Outcome} <= named


def test_leaf_and_tree_need_the_standard_library_alone() -> None:
    code = "import sys; sys.path.insert(0, sys.argv[1]); import appliance.ledger.encoding, appliance.ledger.merkle"
    run = subprocess.run([sys.executable, "-I", "-S", "-c", code, str(ROOT)], capture_output=True, check=False)
    assert run.returncode == 0, run.stderr.decode()
