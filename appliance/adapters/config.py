"""Loads the configuration of a node: a TOML file, the environment on top, all held against the table of settings."""

from __future__ import annotations

import difflib
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from appliance.adapters.config_checks import CROSS_CHECKS
from appliance.adapters.config_rows import (
    ENV_NODE_ID,
    ENV_PREFIX,
    SettingRow,
    render_reference,
    section_types,
    setting_rows,
)
from appliance.tables.settings import Settings

__all__ = ["ConfigError", "load_settings", "render_reference"]


class ConfigError(ValueError):
    """The configuration cannot be used. `problems` has one line each; the message has them all."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        count = "a problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__(f"The configuration has {count}:\n" + "\n".join(f"  - {text}" for text in problems))


@dataclass(slots=True)
class _Given:
    """What was found so far: values and where each came from, by dotted key, and all problems."""

    source: str  # where a value that nobody gave would be written
    values: dict[str, object] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    wrong: set[str] = field(default_factory=set)

    def refuse(self, dotted: str, text: str) -> None:
        """Note a problem of a key, named with its file or variable."""
        self.wrong.add(dotted)
        self.problems.append(f"{self.origins.get(dotted, self.source)}: {dotted}: {text}")


def load_settings(path: Path | None, environ: Mapping[str, str], *, check_files: bool = True) -> Settings:
    """Read the configuration.

    Args:
        path: the TOML file, or None for the environment alone.
        environ: variables; those named `SCRIBE_SECTION__KEY`, and `SCRIBE_NODE_ID`, override the file.
        check_files: whether the files that settings name must exist with the right mode.

    Raises:
        ConfigError: with every problem that was found.
    """
    given = _Given(str(path) if path is not None else "environment")
    if path is not None:
        _flatten(_read_toml(path), "", str(path), given)
    _read_environment(environ, given)
    for row in setting_rows().values():
        if row.required and row.dotted not in given.values and row.dotted not in given.wrong:
            given.refuse(row.dotted, f"is required: write it in [{row.section}] or set {row.environment}")
    settings = _settings(given)
    wrong = frozenset(given.wrong)
    for check in CROSS_CHECKS:
        if wrong.isdisjoint(check.keys) and (check_files or not check.files):
            for dotted, text in check.find(settings):
                given.refuse(dotted, text)
    if given.problems:
        raise ConfigError(given.problems)
    return settings


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read ({error.strerror})"]) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path}: is not TOML: {error}"]) from error


def _flatten(table: Mapping[str, Any], prefix: str, source: str, given: _Given) -> None:
    rows, sections = setting_rows(), section_types()
    for name, value in table.items():
        dotted = prefix + name
        if dotted in rows:
            _accept(rows[dotted], value, source, given)
        elif dotted not in sections:
            given.origins[dotted] = source
            given.refuse(dotted, _unknown(dotted, "section" if isinstance(value, dict) else "key"))
        elif isinstance(value, dict):
            _flatten(value, f"{dotted}.", source, given)
        else:
            given.origins[dotted] = source
            given.refuse(dotted, f"is a section: write its keys under [{dotted}]")


def _read_environment(environ: Mapping[str, str], given: _Given) -> None:
    rows = {row.environment: row for row in setting_rows().values()}
    near_misses = {name.replace("__", "_"): name for name in rows}
    for name in sorted(environ):
        row = rows.get(name)
        if row is not None:
            _accept(row, environ[name], name, given, text=True)
        elif name == ENV_NODE_ID:
            _read_short_node_id(environ, given)
        elif name.startswith(ENV_PREFIX) and "__" in name:
            dotted = name.removeprefix(ENV_PREFIX).lower().replace("__", ".")
            given.origins[dotted] = name
            given.refuse(dotted, _unknown(dotted, "key"))
        elif name in near_misses:
            dotted = rows[near_misses[name]].dotted
            given.problems.append(f"{name}: {dotted}: sections are set off by two underscores: {near_misses[name]}")


def _read_short_node_id(environ: Mapping[str, str], given: _Given) -> None:
    row = setting_rows()["node.id"]
    long_form = environ.get(row.environment)
    if long_form is None:
        _accept(row, environ[ENV_NODE_ID], ENV_NODE_ID, given, text=True)
    elif long_form != environ[ENV_NODE_ID]:
        given.origins[row.dotted] = ENV_NODE_ID
        given.refuse(row.dotted, f"differs from {row.environment}; set one of them")


def _accept(row: SettingRow, value: object, source: str, given: _Given, *, text: bool = False) -> None:
    """Take one value, or note what is wrong with it; the environment's comes after the file's and replaces it."""
    given.origins[row.dotted] = source
    given.wrong.discard(row.dotted)
    parsed = value
    if text and row.base == list[str]:
        parsed = [part.strip() for part in str(value).split(",") if part.strip()]
    elif text and isinstance(value, str):
        parsed = value.strip()
    try:
        converted = msgspec.convert(parsed, row.type, strict=not text)
    except msgspec.ValidationError:
        converted = None
    if converted is None or not _sound(converted):
        bounds = f", {row.bounds}" if row.bounds else ""
        unit = f" {row.unit}" if row.unit else ""
        given.refuse(row.dotted, f"{value!r} is not allowed; it must be: {row.type_word}{bounds}{unit}")
    else:
        given.values[row.dotted] = converted


def _sound(value: object) -> bool:
    """Refuse what bounds and patterns let through: numbers that are none, and control characters."""
    if isinstance(value, float):
        return math.isfinite(value)
    texts = value if isinstance(value, list) else [value]
    return all(text.isprintable() for text in texts if isinstance(text, str))


def _unknown(dotted: str, what: str) -> str:
    known = [*section_types()] if what == "section" else [*setting_rows()]
    name = dotted.rpartition(".")[2]
    near = difflib.get_close_matches(dotted, known, n=1, cutoff=0.75) or [
        key for key in known if key.rpartition(".")[2] == name
    ]
    hint = f"did you mean {near[0]}?" if near else "docs/CONFIGURATION.md has them all"
    return f"there is no such {what}; {hint}"


def _settings(given: _Given) -> Settings:
    """Build the value; what is missing or wrong stands in as its default, so that the other rules can be tried."""
    tree: dict[str, Any] = {"node": {"id": 1}}
    for dotted, value in given.values.items():
        *sections, name = dotted.split(".")
        table = tree
        for section in sections:
            table = table.setdefault(section, {})
        table[name] = value
    return msgspec.convert(tree, Settings)
