"""`appliance verify`: checks that trust no node, but the log's verifier key alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from appliance.cli.exits import CliError, Exit
from appliance.cli.session import VERIFIER_KEY_VARIABLE, Session

if TYPE_CHECKING:
    from appliance.cli.checkpoint_memory import CheckpointMemory
    from appliance.cli.verify_checks import Trusted


class VerifyGroup(TyperGroup):
    """Takes `verify KEY` for `verify key KEY`: whatever is not the name of a command is a key."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the command in front that was left out."""
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            args = ["key", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=VerifyGroup,
    help="Check values, proofs and the whole log, trusting nobody but the log's verifier key. "
    "`verify KEY` is short for `verify key KEY`.",
    no_args_is_help=True,
)

VerifierKeyOption = Annotated[
    str,
    typer.Option(
        help="The log's verifier key; else that of credentials.env. It is never asked of a node.",
        envvar=VERIFIER_KEY_VARIABLE,
    ),
]
WitnessKeyOption = Annotated[
    list[str] | None, typer.Option(help="Verifier key of a witness; may be given several times.", show_default=False)
]
WitnessesOption = Annotated[
    int | None,
    typer.Option(
        help="How many of these witnesses must have cosigned the checkpoint. [default: 1 where --witness-key is given]",
        min=0,
        show_default=False,
    ),
]


@app.command()
def key(
    ctx: typer.Context,
    *,
    key: Annotated[str, typer.Argument(help="The key. `verify key log` is for a key with the name of a command.")],
    verifier_key: VerifierKeyOption = "",
    witness_key: WitnessKeyOption = None,
    witnesses: WitnessesOption = None,
    save: Annotated[Path | None, typer.Option(help="Keep the proof in this file, for `verify proof`.")] = None,
) -> None:
    """Read a value and check that it is what the log has signed.

    The value's hash, its entry, the entry's path to the root, the signature over the root, and that this root continues
    the one that this user has seen last, which is remembered in ~/.config/appliance (XDG_CONFIG_HOME). A log that was
    rolled back or has forked is an alarm, with both checkpoints.
    """
    from appliance.cli.verify_key import verify_key

    trusted = _trusted(ctx.obj, verifier_key, witness_key, witnesses)
    verify_key(ctx.obj, key, trusted, _memory(trusted), save)


@app.command()
def proof(
    ctx: typer.Context,
    *,
    file: Annotated[Path, typer.Argument(help="The proof: what /log/proof/file/KEY answers.")],
    verifier_key: VerifierKeyOption = "",
    witness_key: WitnessKeyOption = None,
    witnesses: WitnessesOption = None,
    key: Annotated[str | None, typer.Option(help="The key that it has to be for.", show_default=False)] = None,
    value: Annotated[
        Path | None, typer.Option(help="File with the value: check that it is the one that was written.")
    ] = None,
) -> None:
    """Check a proof file with nothing but that file and the verifier key; no node is asked."""
    from appliance.cli.verify_fetch import VALUE_BYTES_MAX
    from appliance.cli.verify_key import read_file, verify_file

    trusted = _trusted(ctx.obj, verifier_key, witness_key, witnesses)
    content = read_file(value, VALUE_BYTES_MAX) if value is not None else None
    verify_file(ctx.obj, read_file(file), trusted, key, content)


@app.command()
def log(ctx: typer.Context, *, verifier_key: VerifierKeyOption = "") -> None:
    """Download the whole log from each node of --url, recompute its tree, and check every entry; nothing is written.

    Each node's tiles and entries are compared with the signed root, each entry with those before it, and each node's
    list of keys with the entries. The first bad entry is named. What was not checked is said. Keys go to a temporary
    file (TMPDIR), so that memory stays bounded. Exit code 8 when some nodes are right and others do not answer.
    """
    from appliance.cli.verify_log import verify_log

    trusted = _trusted(ctx.obj, verifier_key, None, None)
    verify_log(ctx.obj, trusted, _memory(trusted))


def _trusted(session: Session, verifier_key: str, witness_keys: list[str] | None, witnesses: int | None) -> Trusted:
    from appliance.cli.verify_checks import Trusted
    from appliance.ledger.note import SignatureType, VerifierKeyError, parse_verifier_key, require_type

    text = verifier_key or session.others.get(VERIFIER_KEY_VARIABLE, "")
    if not text:
        raise CliError(
            Exit.USAGE,
            "no verifier key is known, and without it nothing can be verified",
            hint="give --verifier-key (APPLIANCE_VERIFIER_KEY); `appliance cluster info` shows what a node says it is: "
            "have whoever runs the ledger confirm it",
            code="usage",
        )
    wanted = witnesses if witnesses is not None else int(bool(witness_keys))
    try:
        log_key = require_type(parse_verifier_key(text.strip()), SignatureType.ED25519)
        known = tuple(
            require_type(parse_verifier_key(one.strip()), SignatureType.COSIGNATURE_V1) for one in witness_keys or ()
        )
    except VerifierKeyError as error:
        raise CliError(Exit.USAGE, f"a verifier key cannot be used: {error}", code="usage") from None
    if wanted > len({one.public_key for one in known}):
        raise CliError(Exit.USAGE, f"{wanted} witnesses are asked for, and {len(known)} keys given", code="usage")
    return Trusted(log_key, known, wanted)


def _memory(trusted: Trusted) -> CheckpointMemory:
    from appliance.cli.checkpoint_memory import CheckpointMemory, memory_directory

    return CheckpointMemory(memory_directory(os.environ), trusted.log())
