"""Imports go down only; rooms on one floor do not import each other; wiring alone names concrete adapters."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "appliance"

FLOORS = {
    "tables": 0,
    "raft": 1,
    "ledger": 1,
    "admission": 1,
    "node": 2,
    "adapters": 2,
    "http": 3,
    "cli": 4,
    "wiring": 5,
}
# The consumer declares the interface, and an adapter takes it from there.
NODE_INTERFACES = {
    f"appliance.node.{name}"
    for name in ("ports", "check_ports", "directory_ports", "peer_ports", "proof_ports", "witness_ports", "api")
}
# The CLI starts a node, and uses some adapters for itself.
ALLOWED_UP = {("cli", "appliance.wiring")}
# What a pure floor may import besides itself, the tables and the standard library.
PURE_LIBRARIES = {"msgspec"}
PURE = ("tables", "raft", "ledger", "admission")
IMPURE_STDLIB = {
    "asyncio",
    "socket",
    "threading",
    "time",
    "os",
    "pathlib",
    "subprocess",
    "io",
    "random",
    "secrets",
    "ssl",
}
PURE_EXCEPTIONS = {("raft", "random")}  # for the type of the source of chance that is passed in


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def imports_of(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the floor"
            assert node.module is not None
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names if is_module(node.module, alias.name))
    return found


def is_module(package: str, name: str) -> bool:
    base = PACKAGE.parent.joinpath(*package.split("."), name)
    return base.is_dir() or base.with_suffix(".py").is_file()


FILES = sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")


def violations(path: Path) -> list[str]:
    relative = path.relative_to(PACKAGE).with_suffix("")
    room = relative.parts[0]
    found = []
    for module in sorted(imports_of(path)):
        if module.split(".")[0] != "appliance":
            continue
        other = room_of(module)
        if other in ("", room) or module == "appliance":
            continue
        if (room, module) in ALLOWED_UP or (room == "adapters" and module in NODE_INTERFACES):
            continue
        if (room, other) == ("adapters", "node") and any(module.startswith(f"{i}.") for i in NODE_INTERFACES):
            continue
        if module == "appliance.node" and room == "adapters":
            continue
        if FLOORS[other] >= FLOORS[room]:
            found.append(f"{room} imports {module}")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    assert violations(path) == []


@pytest.mark.parametrize(
    "path", [p for p in FILES if p.relative_to(PACKAGE).parts[0] in PURE], ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_pure_floors_have_no_world(path: Path) -> None:
    room = path.relative_to(PACKAGE).parts[0]
    roots = {module.split(".")[0] for module in imports_of(path)}
    touched = {root for root in roots & IMPURE_STDLIB if (room, root) not in PURE_EXCEPTIONS}
    assert touched == set()
    import sys

    foreign = roots - set(sys.stdlib_module_names) - PURE_LIBRARIES - {"appliance"}
    assert foreign == set()


def test_http_and_node_do_not_name_adapters() -> None:
    named = [
        f"{path.relative_to(PACKAGE)}: {module}"
        for path in FILES
        if path.relative_to(PACKAGE).parts[0] in ("http", "node")
        for module in imports_of(path)
        if room_of(module) == "adapters"
    ]
    assert named == []


def test_the_check_sees_a_violation(tmp_path: Path) -> None:
    stray = tmp_path / "stray.py"
    stray.write_text("from appliance.http.app import create_app\nimport appliance.cli.main\n")
    assert {"appliance.http.app", "appliance.cli.main"} <= imports_of(stray)
    assert FLOORS["http"] > FLOORS["raft"]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_file_has_one_subject(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= 450, f"{lines} lines: give its second subject a file of its own"
