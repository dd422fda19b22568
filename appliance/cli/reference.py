"""Renders docs/CLI.md: commands and options from the program itself, exit codes and JSON shapes from their tables."""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterator, Mapping
from typing import Any, Final, Union, get_args, get_origin, get_type_hints

import typer
from msgspec import UnsetType

from appliance.cli import shapes
from appliance.cli.exits import EXIT_OF_ERROR, EXIT_OF_FINDING, MEANINGS, Exit
from appliance.cli.shape import Shape

HEAD: Final = """<!-- Made by `appliance render` from appliance/cli; change that and render again. -->
# The program `appliance`

Global options may stand anywhere on the line. Without `--url` and `--api-key` the program takes `APPLIANCE_URL` and
`APPLIANCE_API_KEY`, else `credentials.env` of the nearest `.scribe/` in this directory or above it. Answers go to
standard output, everything else (progress, questions, errors, hints) to standard error.

A call that a node cannot carry out now goes on to the next node, with back-off, as long as `--timeout` allows and
sending it again can do no harm: reads, writes with an idempotency key (`kv` writes have one unless told otherwise),
changes of the cluster, which come to the same when they are carried out twice, and writes that surely were not carried
out. A write or change that may have been carried out ends with exit code 7.

Commands that wait for other nodes or the disk (`cluster add`, `remove`, `replace`, `resync`, `transfer`, `writes`,
`compact`, `scrub`) say on standard error how long they have been waiting. For them `--timeout` says until when a
request may be sent again; an answer under way is waited for.
"""
_TYPE_WORDS: Final = {str: "string", int: "integer", float: "number", bool: "boolean", Any: "any"}


def render_cli() -> str:
    """The whole page."""
    from appliance.cli.main import app

    root = typer.main.get_command(app)
    parts = [HEAD, "## Global options\n", _options(root)]
    parts += ["\n## Commands\n", *_commands(root)]
    parts += ["## `scribe-node`\n", _node_program()]
    parts += ["## Exit codes\n", _exit_codes()]
    parts += ["## JSON answers\n", _shapes()]
    return "\n".join(parts).rstrip() + "\n"


def walk(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command below a group with the words that call it, in the program's order."""
    context = typer.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if hasattr(command, "list_commands"):
            yield from walk(command, (*path, name))
        else:
            yield (*path, name), command


def _commands(root: Any) -> Iterator[str]:
    for path, command in walk(root):
        arguments = [p for p in command.params if p.param_type_name == "argument"]
        words = " ".join(_argument_word(argument) for argument in arguments)
        yield f"### `appliance {' '.join(path)}{f' {words}' if words else ''}`\n"
        yield inspect.cleandoc(command.help or "") + "\n"
        for argument in arguments:
            if argument.help:
                yield f"- `{argument.name.upper()}`: {argument.help}"
        if arguments:
            yield ""
        table = _options(command)
        if table:
            yield table + "\n"


def _argument_word(argument: Any) -> str:
    word = argument.name.upper()
    return word if argument.required else f"[{word}]"


def _options(command: Any) -> str:
    rows = []
    for option in command.params:
        if option.param_type_name != "option" or option.name in ("install_completion", "show_completion", "help"):
            continue
        names = ", ".join(f"`{name}`" for name in option.opts)
        rows.append(f"| {names} | {_default(option)} | {_cell(option.help)} | {_variable(option)} |")
    return "\n".join(["| option | default | meaning | variable |", "|---|---|---|---|", *rows]) if rows else ""


def _default(option: Any) -> str:
    if option.required:
        return "**required**"
    default = option.default
    if default is None or default == "" or default is False:
        return ""
    return f"`{getattr(default, 'value', default)}`"


def _variable(option: Any) -> str:
    return f"`{option.envvar}`" if isinstance(option.envvar, str) else ""


def _node_program() -> str:
    from appliance.cli.node_main import main

    alone = typer.Typer(add_completion=False)
    alone.command()(main)
    command = typer.main.get_command(alone)
    return f"{inspect.cleandoc(main.__doc__ or '')}\n\n{_options(command)}\n"


def _exit_codes() -> str:
    rows = ["| code | meaning | errors of the API | findings of `verify` |", "|---|---|---|---|"]
    for code, meaning in MEANINGS.items():
        cells = (_names_of(code, table) for table in (EXIT_OF_ERROR, EXIT_OF_FINDING))
        rows.append(f"| {int(code)} | {meaning} | {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def _names_of(code: Exit, table: Mapping[str, Exit]) -> str:
    return ", ".join(f"`{name}`" for name, exit_code in table.items() if exit_code is code)


def _shapes() -> str:
    parts = [
        "With `--output json` a command answers one JSON document (`logs`: one a line). Fields are only ever added; "
        "integers beyond 2^53 are strings; times are RFC 3339 in UTC. `cluster info` answers what "
        "`GET /cluster/info` answers.\n"
    ]
    for name, shape in vars(shapes).items():
        if not (inspect.isclass(shape) and issubclass(shape, Shape) and shape is not Shape):
            continue
        parts.append(f"### {name}\n\n{inspect.cleandoc(shape.__doc__ or '')}\n")
        parts.append("| field | type |\n|---|---|")
        hints = get_type_hints(shape)
        parts.append("\n".join(f"| `{field}` | {_type(hints[field])} |" for field in shape.__struct_fields__) + "\n")
    return "\n".join(parts)


def _type(hint: Any) -> str:
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        words = [_type(part) for part in inner if part not in (type(None), UnsetType)]
        words += ["null"] if type(None) in inner else []
        words += ["or missing"] if UnsetType in inner else []
        return " or ".join(words).replace("or or", "or")
    if origin is list:
        return f"array of {_type(inner[0])}"
    if origin is dict:
        return "object"
    return _TYPE_WORDS.get(hint) or f"[{hint.__name__}](#{hint.__name__.lower()})"


def _cell(text: str | None) -> str:
    return (text or "").replace("|", "\\|").replace("\n", " ")
