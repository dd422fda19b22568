"""The table of settings as rows: what the loader checks against and what docs/CONFIGURATION.md is rendered from."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import msgspec
from msgspec import NODEFAULT, Meta

from appliance.tables.settings import Section, Settings

ENV_PREFIX = "SCRIBE_"
ENV_NODE_ID = "SCRIBE_NODE_ID"

_TYPE_WORDS: Mapping[object, str] = {
    int: "integer",
    float: "number",
    bool: "boolean",
    str: "string",
    list[str]: "list of strings",
}


@dataclass(frozen=True, slots=True)
class SettingRow:
    """One setting.

    Attributes:
        dotted: section and key, as `security.rate_limit.max_requests`.
        type: the annotated type, with its bounds, for `msgspec.convert`.
        base: the type without bounds: int, float, bool, str or list[str].
        meta: bounds, description, unit and reload mark.
        default: the default, or `msgspec.NODEFAULT` when the setting is required.
    """

    dotted: str
    type: typing.Any
    base: object
    meta: Meta
    default: object

    @property
    def name(self) -> str:
        """The key inside its section."""
        return self.dotted.rpartition(".")[2]

    @property
    def section(self) -> str:
        """The dotted name of the section."""
        return self.dotted.rpartition(".")[0]

    @property
    def environment(self) -> str:
        """The variable that overrides the file."""
        return ENV_PREFIX + self.dotted.upper().replace(".", "__")

    @property
    def required(self) -> bool:
        """Whether there is no default."""
        return self.default is NODEFAULT

    @property
    def type_word(self) -> str:
        """The type in a reader's words."""
        return _TYPE_WORDS[self.base]

    @property
    def unit(self) -> str:
        """Unit of the value, or an empty string."""
        return str((self.meta.extra or {})["unit"])

    @property
    def reload(self) -> bool:
        """Whether a reload applies it without a restart."""
        return bool((self.meta.extra or {})["reload"])

    @property
    def bounds(self) -> str:
        """The bounds in a reader's words, or an empty string."""
        meta = self.meta
        if meta.ge is not None and meta.le is not None:
            return f"{meta.ge} to {meta.le}"
        if meta.pattern is not None:
            return _pattern_words(meta.pattern)
        if meta.min_length is not None:
            return "not empty"
        if meta.max_length is not None:
            return f"at most {meta.max_length} items"
        return ""


def _pattern_words(pattern: str) -> str:
    inner = pattern.removeprefix("^(").removesuffix(")$")
    if inner.replace("|", "").isalpha():
        return "one of " + ", ".join(inner.split("|"))
    return f"matches {pattern}"


@cache
def setting_rows() -> Mapping[str, SettingRow]:
    """All settings by dotted name, in the order of the table."""
    return {row.dotted: row for row in _walk(Settings, "")}


@cache
def section_types() -> Mapping[str, type[Section]]:
    """The sections by dotted name, in the order of the table."""
    return dict(_sections(Settings, ""))


def _section_of(hint: object) -> type[Section] | None:
    return hint if isinstance(hint, type) and issubclass(hint, Section) else None


def _sections(section: type[Section], prefix: str) -> typing.Iterator[tuple[str, type[Section]]]:
    for name, hint in typing.get_type_hints(section, include_extras=True).items():
        inner = _section_of(hint)
        if inner is not None:
            yield prefix + name, inner
            yield from _sections(inner, f"{prefix}{name}.")


def _walk(section: type[Section], prefix: str) -> typing.Iterator[SettingRow]:
    hints = typing.get_type_hints(section, include_extras=True)
    for entry in msgspec.structs.fields(section):
        hint = hints[entry.name]
        inner = _section_of(hint)
        if inner is not None:
            yield from _walk(inner, f"{prefix}{entry.name}.")
            continue
        base, meta = typing.get_args(hint)
        default = entry.default_factory() if entry.default_factory is not NODEFAULT else entry.default
        yield SettingRow(prefix + entry.name, hint, base, meta, default)


_HEADER = """\
# Configuration

<!-- Made by appliance.adapters.config.render_reference from appliance/tables/settings.py; do not edit. -->

A node reads one TOML file (`scribe-node --config FILE`), then the environment on top: the variable of a key is
`SCRIBE_`, the section and the key in capitals, joined by two underscores. `SCRIBE_NODE_ID` is short for
`SCRIBE_NODE__ID`. A list is written with commas: `SCRIBE_NETWORK__SEED_PEERS=node1:9001,node2:9002`.
An unknown key, a wrong type or a value out of bounds stops the start; the message lists every problem at once.
`scribe-node --config FILE --validate` does only that.

Keys marked *reload* are applied by SIGHUP, which also opens the log file anew; the others need a restart.
"""


def render_reference() -> str:
    """Render docs/CONFIGURATION.md from the table."""
    from appliance.adapters.config_checks import CROSS_CHECKS  # they read the rows' names

    parts = [_HEADER]
    rows = setting_rows().values()
    for dotted, section in section_types().items():
        own = [row for row in rows if row.section == dotted]
        if own:
            parts.append(_render_section(dotted, section, own))
    parts.append("## Rules between keys\n\n" + "".join(f"- {check.rule}\n" for check in CROSS_CHECKS))
    return "\n".join(parts)


def _render_section(dotted: str, section: type[Section], rows: list[SettingRow]) -> str:
    text = (section.__doc__ or "").partition(": ")[2].strip()
    lines = [
        f"## `[{dotted}]`\n",
        f"{text[:1].upper()}{text[1:]}\n",
        "| key | type | unit | default | bounds | reload | meaning | environment |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = (
            f"`{row.name}`",
            row.type_word,
            row.unit,
            "**required**" if row.required else f"`{_toml(row.default)}`",
            row.bounds.replace("|", "\\|"),
            "yes" if row.reload else "",
            (row.meta.description or "").replace("|", "\\|"),
            f"`{row.environment}`",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _toml(value: object) -> str:
    return msgspec.json.encode(value).decode()
