"""The files that `appliance init` and `appliance up` leave: private files, KEY=value files, TOML."""

from __future__ import annotations

import json
import os
import secrets
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PRIVATE_FILE = 0o600
PRIVATE_DIR = 0o700
OPEN_FILE = 0o644
GROUP_FILE = 0o640


def make_private_dir(path: Path) -> Path:
    """Make a directory, its owner's alone unless it exists already, and answer it."""
    path.mkdir(mode=PRIVATE_DIR, parents=True, exist_ok=True)
    return path


def write_file(path: Path, data: bytes, mode: int = PRIVATE_FILE) -> None:
    """Write a file whole or not at all, durable and with `mode` from its first byte; equal content is left alone."""
    if path.exists() and path.read_bytes() == data:
        path.chmod(mode)
        return
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.chmod(mode)  # whatever the umask took away
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def read_env_file(path: Path) -> dict[str, str]:
    """Read a KEY=value file: empty lines and lines that start with # are passed over; a missing file is empty."""
    if not path.exists():
        return {}
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
    return {name.strip(): value.strip() for name, _, value in pairs}


def write_env_file(path: Path, heading: str, values: Mapping[str, str]) -> None:
    """Write a KEY=value file, mode 0600, in the order of `values`."""
    lines = [f"# {heading}", *(f"{name}={value}" for name, value in values.items())]
    write_file(path, ("\n".join(lines) + "\n").encode())


def render_toml(table: Mapping[str, Any], path: str = "") -> str:
    """Write nested mappings of strings, numbers, booleans and lists of them as TOML."""
    plain = [f"{name} = {_toml_value(value)}" for name, value in table.items() if not isinstance(value, Mapping)]
    text = "\n".join([f"[{path}]", *plain]) + "\n" if path and plain else "".join(line + "\n" for line in plain)
    for name, value in table.items():
        if isinstance(value, Mapping):
            inner = render_toml(value, f"{path}.{name}" if path else name)
            text += ("\n" if text else "") + inner
    return text


def write_config(path: Path, heading: str, owned: Mapping[str, Mapping[str, Any]]) -> None:
    """Write a node's configuration, mode 0600.

    A file that is there keeps every key that is not in `owned`, and stays as it is, comments included, when it has
    the owned values already.
    """
    held: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    merged = {**held, **{section: {**held.get(section, {}), **keys} for section, keys in owned.items()}}
    if merged != held:
        write_file(path, f"# {heading}\n\n{render_toml(merged)}".encode())


def _toml_value(value: object) -> str:
    """Write one value; JSON's strings, numbers and booleans are TOML's too."""
    if isinstance(value, list):
        return "[" + ", ".join(_toml_value(item) for item in value) + "]"
    return json.dumps(value, ensure_ascii=False)
