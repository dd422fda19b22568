"""The program `scribe-node`: one node, in the foreground."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from appliance.cli.exits import Exit
from appliance.cli.output import say


def run_from_file(config: Path, *, validate: bool) -> int:
    """Load the configuration and run the node until it is told to stop; answers the exit code.

    A configuration that is not acceptable, or cannot be read, is told on standard error, with exit code 2.
    """
    from os import environ

    from appliance.adapters.config import ConfigError, load_settings

    try:
        settings = load_settings(config, environ)
    except ConfigError as error:
        say(str(error))
        return Exit.USAGE
    if validate:
        say(f"{config}: acceptable (node {settings.node.id}, client port {settings.network.client_port})")
        return Exit.OK
    from appliance.wiring import run_node

    return run_node(settings, lambda: load_settings(config, environ))


def main(
    config: Annotated[
        Path,
        typer.Option(
            help="Configuration file (TOML); SCRIBE_SECTION__KEY variables go on top.", envvar="SCRIBE_CONFIG"
        ),
    ] = Path("/etc/scribe-ledger/config.toml"),
    validate: Annotated[bool, typer.Option("--validate", help="Check the configuration and exit: 0 or 2.")] = False,
) -> None:
    """Run one node of a Scribe Ledger cluster until SIGTERM or SIGINT."""
    raise typer.Exit(run_from_file(config, validate=validate))


def run() -> None:
    """Entry point of the program `scribe-node`."""
    app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    app.command()(main)
    app(prog_name="scribe-node")


if __name__ == "__main__":
    run()
