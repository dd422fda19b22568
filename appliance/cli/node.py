"""`appliance node`: one node in the foreground."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from appliance.cli.node_main import run_from_file

app = typer.Typer(help="Run one node in the foreground.", no_args_is_help=True)


@app.command("run")
def run_node(
    config: Annotated[Path, typer.Option(help="Configuration file of the node (TOML).")],
    validate: Annotated[bool, typer.Option("--validate", help="Check the configuration and exit: 0 or 2.")] = False,
) -> None:
    """Run one node until SIGTERM or SIGINT, as `scribe-node` does."""
    raise typer.Exit(run_from_file(config, validate=validate))
