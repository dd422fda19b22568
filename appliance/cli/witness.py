"""`appliance witness`: a small independent witness, for whoever runs no node of the ledger that it watches."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from appliance.adapters.peer_address import join_address, split_address
from appliance.cli.exits import CliError, Exit
from appliance.cli.output import emit_json, say, write
from appliance.cli.session import Session
from appliance.cli.shapes import WitnessKey

if TYPE_CHECKING:
    from appliance.adapters.ed25519 import SigningKey
    from appliance.cli.witness_server import WitnessServer

LISTEN: Final = "127.0.0.1:8100"

app = typer.Typer(help="Run a witness: it cosigns what a log publishes, if it only grows.", no_args_is_help=True)


@app.command("init")
def init(
    ctx: typer.Context,
    *,
    key: Annotated[Path, typer.Option(help="File of the private key, made with mode 0600; one that is there stays.")],
    name: Annotated[
        str, typer.Option(help="Name of the witness, best a URL without its scheme: witness.example.org/w1.")
    ],
) -> None:
    """Make a witness's key, and print its verifier key: what logs and clients have to know of it.

    Whoever has the file can cosign in its name; a key belongs to one witness and one state file.
    """
    from appliance.adapters.ed25519 import SigningKeyError, generate_key, write_key_file
    from appliance.ledger.note import SignatureType, VerifierKeyError, format_verifier_key

    session: Session = ctx.obj
    try:
        if not key.exists():
            write_key_file(key, generate_key(name, SignatureType.COSIGNATURE_V1))
        made = _read_key(key)
    except VerifierKeyError as error:
        raise CliError(Exit.USAGE, str(error), code="usage") from None
    except SigningKeyError as error:
        raise CliError(Exit.FAILURE, str(error)) from None
    if made.verifier_key.name != name:
        raise CliError(
            Exit.CONFLICT,
            f"{key} is the key of the witness {made.verifier_key.name}",
            hint="give another --key, or that --name",
            code="conflict",
        )
    text = format_verifier_key(made.verifier_key)
    if session.as_json:
        emit_json(WitnessKey(name=name, verifier_key=text, file=str(key)))
    else:
        write(text.encode() + b"\n")


@app.command("serve")
def serve(
    *,
    key: Annotated[Path, typer.Option(help="File of the private key, as `init` made it.")],
    state: Annotated[Path, typer.Option(help="File that holds what was cosigned; without it forks go unseen.")],
    log: Annotated[list[str], typer.Option(help="Verifier key of a log to witness; once for each.", metavar="VKEY")],
    listen: Annotated[str, typer.Option(help="Address to serve plain HTTP on, host:port.")] = LISTEN,
) -> None:
    """Run a witness until SIGTERM or SIGINT.

    `POST /add-checkpoint` is for logs (c2sp.org/tlog-witness), `GET /` for people. It keeps each log's last tree head,
    durably before it answers, and cosigns a larger tree only when that is proven to continue it. A gateway of yours has
    to stand before it where strangers reach it.
    """
    from appliance.adapters.ed25519 import SigningKeyError
    from appliance.adapters.witness_store import WitnessStore
    from appliance.cli.witness_server import WitnessDesk, WitnessServer
    from appliance.ledger.note import SignatureType, VerifierKeyError, parse_verifier_key, require_type
    from appliance.node.ports import StorageError

    try:
        host, port = split_address(listen)
        signing_key = _read_key(key)
        logs = [require_type(parse_verifier_key(text), SignatureType.ED25519) for text in log]
    except (ValueError, VerifierKeyError) as error:
        raise CliError(Exit.USAGE, str(error), code="usage") from None
    except SigningKeyError as error:
        raise CliError(Exit.FAILURE, str(error)) from None
    try:
        desk = WitnessDesk(signing_key, logs, WitnessStore(state), say)
    except StorageError as error:
        raise CliError(Exit.FAILURE, str(error)) from None
    raise typer.Exit(asyncio.run(_serve(WitnessServer(desk, host, port, say), host)))


async def _serve(server: WitnessServer, host: str) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        await server.start()
    except OSError:
        await server.stop()
        raise
    say(f"the witness takes submissions at http://{join_address(host, server.port)}")
    waiting = [asyncio.create_task(event.wait()) for event in (stop, server.failed)]
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()
    await server.stop()
    return Exit.FAILURE if server.failed.is_set() else Exit.OK


def _read_key(path: Path) -> SigningKey:
    """Read a witness's key. Raises `SigningKeyError`, and `VerifierKeyError` when it is of another type."""
    from appliance.adapters.ed25519 import read_key_file
    from appliance.ledger.note import SignatureType, require_type

    key = read_key_file(path)
    require_type(key.verifier_key, SignatureType.COSIGNATURE_V1)
    return key
