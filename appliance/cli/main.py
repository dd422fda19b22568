"""The program `appliance`: global options, the chapters of commands, and the way out for errors."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from appliance.cli import (
    audit,
    cluster,
    compact,
    kv,
    lifecycle,
    membership,
    node,
    recover,
    resync,
    scrub,
    status,
    verify,
    witness,
    writes,
)
from appliance.cli.exits import CliError, Exit
from appliance.cli.output import report
from appliance.cli.session import Output, open_session

GLOBAL_OPTIONS: Final = frozenset({"--url", "--api-key", "--dir", "--output", "-o", "--timeout", "--ca-file"})
LAZY: Final = {"init": "appliance.cli.init", "render": "appliance.cli.render"}
EPILOG: Final = (
    "The global options (--url, --api-key, --dir, --output, --timeout, --ca-file) may stand anywhere on the line. "
    "Exit codes: docs/CLI.md."
)


def hoist(args: Sequence[str]) -> list[str]:
    """Move the global options to the front, so that they may stand behind the verb too; `--` ends the search."""
    front: list[str] = []
    rest: list[str] = []
    words = iter(args)
    for word in words:
        if word == "--":
            rest += [word, *words]
        elif word in GLOBAL_OPTIONS:
            front += [word, *([value] if (value := next(words, None)) is not None else [])]
        elif word.startswith("--") and word.split("=", 1)[0] in GLOBAL_OPTIONS:
            front.append(word)
        else:
            rest.append(word)
    return front + rest


class RootGroup(TyperGroup):
    """The root command: takes global options anywhere, and turns expected failures into exit codes.

    Commands of `LAZY` are imported when they are used, because what they need is slow to import.
    """

    def list_commands(self, ctx: Any) -> list[str]:
        """All names, the lazy ones last."""
        return [*super().list_commands(ctx), *LAZY]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Find a command, importing it when it is a lazy one."""
        if cmd_name in LAZY and cmd_name not in self.commands:
            alone = typer.Typer()
            import_module(LAZY[cmd_name]).register(alone)
            self.add_command(typer.main.get_command(alone), cmd_name)
        return super().get_command(ctx, cmd_name)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse with the global options in front."""
        return super().parse_args(ctx, hoist(args))

    def invoke(self, ctx: Any) -> Any:
        """Run the command; a `CliError` is printed and becomes the exit code."""
        output = Output(ctx.params.get("output") or Output.TABLE)
        try:
            return super().invoke(ctx)
        except CliError as error:
            report(error, output)
            raise typer.Exit(error.exit_code) from None
        except UnicodeEncodeError as error:
            if error.reason != "surrogates not allowed":  # the mark of bytes of the command line that are no UTF-8
                raise
            report(CliError(Exit.USAGE, "an argument is not UTF-8", hint="type it in UTF-8", code="usage"), output)
            raise typer.Exit(Exit.USAGE) from None
        except BrokenPipeError:
            raise
        except OSError as error:
            report(CliError(Exit.FAILURE, f"{error.filename or ''}: {error.strerror or error}".lstrip(": ")), output)
            raise typer.Exit(Exit.FAILURE) from None
        except KeyboardInterrupt:
            report(CliError(Exit.INTERRUPTED, "interrupted", code="interrupted", retryable=True), output)
            raise typer.Exit(Exit.INTERRUPTED) from None


app = typer.Typer(
    name="appliance",
    cls=RootGroup,
    help="Manage a Scribe Ledger cluster: start it, look at it, read and write it, ask its audit trail.",
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from appliance import __version__

        print(__version__)
        raise typer.Exit(Exit.OK)


@app.callback()
def options(
    ctx: typer.Context,
    *,
    url: Annotated[
        str,
        typer.Option(help="URLs of the nodes, comma-separated; the first one is asked first.", envvar="APPLIANCE_URL"),
    ] = "",
    api_key: Annotated[
        str,
        typer.Option(
            help="API key; the variable is safer, others can see a command line.",
            envvar="APPLIANCE_API_KEY",
            show_default=False,
        ),
    ] = "",
    directory: Annotated[
        Path | None,
        typer.Option(
            "--dir",
            help="State directory; else the nearest .scribe here or above.",
            envvar="APPLIANCE_DIR",
            show_default=False,
        ),
    ] = None,
    output: Annotated[Output, typer.Option("--output", "-o", help="How to answer.")] = Output.TABLE,
    timeout: Annotated[
        float, typer.Option(help="Seconds that one call may take, with fail-over and retries.", min=0.1, max=3600)
    ] = 15.0,
    ca_file: Annotated[
        str,
        typer.Option(help="CA certificates (PEM) that https nodes are checked against.", envvar="APPLIANCE_CA_FILE"),
    ] = "",
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Complete the global options from the environment and the credentials file."""
    ctx.obj = open_session(
        url=url, api_key=api_key, directory=directory, output=output, timeout_s=timeout, ca_file=ca_file
    )


lifecycle.register(app)
status.register(app)
app.add_typer(kv.app, name="kv")
membership.register(cluster.app)
recover.register(cluster.app)
resync.register(cluster.app)
app.add_typer(cluster.app, name="cluster")
app.add_typer(writes.app, name="writes")
compact.register(app)
scrub.register(app)
app.add_typer(audit.app, name="audit")
app.add_typer(verify.app, name="verify")
app.add_typer(node.app, name="node")
app.add_typer(witness.app, name="witness")


def run() -> None:
    """Entry point of the program `appliance`."""
    app(prog_name="appliance")
