"""`appliance cluster recover`: makes a stopped node the only voter, when a majority of its cluster is gone for good."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from appliance.cli.exits import CliError, Exit
from appliance.cli.output import emit_json, emit_table, say
from appliance.cli.progress import Waiting
from appliance.cli.session import Session
from appliance.cli.shapes import AskedMember, Recovered

if TYPE_CHECKING:
    from appliance.adapters.ed25519 import SigningKey
    from appliance.adapters.identity import DataDirectory
    from appliance.cli.stopped import Recovery, StoppedNode
    from appliance.node.peer_ports import Hello
    from appliance.raft.messages import Member
    from appliance.tables.settings import Settings

MEMBER_COLUMNS: Final = ("node", "was", "peer address", "answers", "log up to", "of term", "remembers")


def register(app: typer.Typer) -> None:
    """Put the command under `cluster`."""
    app.command()(recover)


def recover(
    ctx: typer.Context,
    *,
    config: Annotated[Path, typer.Option(help="Configuration file of the stopped node (TOML), on its own machine.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without it nothing is changed.")] = False,
    despite_damage: Annotated[
        bool,
        typer.Option("--despite-damage", help="Go on from a ledger file with damage inside that no log makes good."),
    ] = False,
) -> None:
    """Make a stopped node the only voter of its cluster, when a majority has lost its data or its identity for good.

    Works on the data directory that the configuration names. Says what the node holds, what the other members say as
    far as they answer, and what may be lost; with --yes it does it. Choose the node that holds most: everything in its
    log is kept, and what only others had acknowledged is lost. Then start the node: it leads. Each other member comes
    back by itself, as a learner first, once its data directory is empty; what it held belongs to the cluster of before
    and is not taken in. `cluster remove` takes one away that never comes back.

    What comes after may contradict checkpoints that were signed before, so the log goes on under another name and key,
    made of the one in `[log] key_file`. The new verifier key is printed, and so are all keys by `cluster info`.

    Refused (exit code 4) while the node runs, when a majority is there and remembers, and when a member that answers
    holds more. A log that is damaged or missing does not count: then the node goes on from what its ledger file holds.
    That is read whole. When it is damaged inside, and no log makes it again, the command ends there, unless
    --despite-damage says that it is all there is: what is damaged stays so, is named by `scrub`, and is not answered.
    """
    session: Session = ctx.obj
    settings = _read(config)
    with _locked(Path(settings.node.data_dir)) as directory:
        from appliance.cli.stopped import look

        node = look(directory, settings, despite_damage=despite_damage)
        with Waiting("asking the other members"):
            said = asyncio.run(_ask(settings, node))
        answer = _describe(node, said)
        if not yes:
            _show(session, answer)
        _refuse_needless(node, said)
        if yes:
            key = _log_key(settings)
            _show(session, _done(answer, node.recover(), key))
    if session.as_json:
        return
    if yes:
        say(f"start node {answer.node_id}: it leads as the only voter")
        if answer.members:
            say("the others come back by themselves when they are started with empty data directories")
    else:
        say("nothing was changed; --yes does it")


def _read(config: Path) -> Settings:
    from os import environ

    from appliance.adapters.config import ConfigError, load_settings

    try:
        return load_settings(config, environ)
    except ConfigError as error:
        raise CliError(Exit.USAGE, str(error), code="usage") from None


@contextmanager
def _locked(path: Path) -> Iterator[DataDirectory]:
    """The data directory of a node that does not run. Errors of its files become errors of the command."""
    from appliance.adapters.identity import DataDirectory, DataDirInUse
    from appliance.node.ports import DamagedFile, StorageError

    if not path.is_dir():
        raise CliError(
            Exit.NOT_FOUND, f"{path} is no directory", hint="run it on the node's own machine", code="not_found"
        )
    try:
        directory = DataDirectory(path)
        try:
            yield directory
        finally:
            directory.close()
    except DataDirInUse as error:
        raise CliError(
            Exit.CONFLICT, str(error), hint="stop the node first, and whatever would start it again", code="conflict"
        ) from None
    except StorageError as error:
        hint = "nothing can be recovered from it as it is; choose another node"
        if isinstance(error, DamagedFile):
            hint += ", or, when this is the last copy, give --despite-damage"
        raise CliError(Exit.FAILURE, str(error), hint=hint) from None


async def _ask(settings: Settings, node: StoppedNode) -> dict[int, Hello | Exception]:
    """What the other members of its configuration say, by their ids."""
    from appliance.adapters.peer_seeking import ask_members
    from appliance.adapters.peer_settings import peer_settings_from

    others = [m for m in node.holding.configuration.members if m.node_id != node.holding.identity.node_id]
    said = await ask_members(peer_settings_from(settings), node.hello(), [m.raft_address for m in others])
    return {member.node_id: answer for member, answer in zip(others, said, strict=True)}


def _refuse_needless(node: StoppedNode, said: dict[int, Hello | Exception]) -> None:
    from appliance.node.forcing import needless

    answers = {node_id: one for node_id, one in said.items() if not isinstance(one, Exception)}
    reason = needless(node.holding, answers)
    if reason:
        raise CliError(
            Exit.CONFLICT,
            reason,
            hint="nothing was changed; `appliance status` shows who is there",
            code="conflict",
        )


def _describe(node: StoppedNode, said: dict[int, Hello | Exception]) -> Recovered:
    from appliance.node.forcing import doubtful, losses

    holding = node.holding
    members = {member.node_id: member for member in holding.configuration.members}
    return Recovered(
        done=False,
        cluster_id=holding.identity.cluster_id,
        node_id=holding.identity.node_id,
        incarnation=f"{holding.identity.incarnation:016x}",
        data_dir=str(node.directory.path),
        last_index=holding.last_index,
        last_term=holding.last_term,
        commit_index=holding.commit_index,
        applied_index=holding.applied_index,
        tree_size=holding.tree_size,
        last_write=_when(node.last_write_us),
        from_ledger=bool(holding.damage),
        members=[_asked(members[node_id], one) for node_id, one in said.items()],
        may_be_lost=losses(holding),
        may_take_effect=doubtful(holding) or None,
        recovery=None,
        kept=None,
        verifier_key=None,
    )


def _asked(member: Member, said: Hello | Exception) -> AskedMember:
    base: dict[str, Any] = {
        "node_id": member.node_id,
        "role": member.role.value,
        "raft_address": member.raft_address,
    }
    if isinstance(said, Exception):
        detail = str(said) or type(said).__name__
        return AskedMember(**base, state="unreachable", remembers=None, last_index=None, last_term=None, detail=detail)
    return AskedMember(
        **base,
        state="holds" if said.last_index else "empty",
        remembers=said.identity.incarnation == member.incarnation,
        last_index=said.last_index,
        last_term=said.last_term,
        detail=None,
    )


def _log_key(settings: Settings) -> SigningKey | None:
    """The log's first key, None when the node has none; read before anything is done, since it may be unusable."""
    from appliance.adapters.ed25519 import SigningKeyError, read_key_file

    if not settings.log.key_file:
        return None
    try:
        return read_key_file(Path(settings.log.key_file))
    except SigningKeyError as error:
        raise CliError(
            Exit.FAILURE, str(error), hint="nothing was changed; the node will need this key", code="log_key"
        ) from None


def _done(answer: Recovered, recovery: Recovery, key: SigningKey | None) -> Recovered:
    from msgspec.structs import replace

    from appliance.ledger.note import format_verifier_key

    return replace(
        answer,
        done=True,
        recovery=f"{recovery.recoveries[-1]:016x}",
        kept=None if recovery.kept is None else str(recovery.kept),
        verifier_key=None if key is None else format_verifier_key(key.after(recovery.recoveries).verifier_key),
    )


def _show(session: Session, answer: Recovered) -> None:
    if session.as_json:
        emit_json(answer)
        return
    emit_table(
        ("figure", "value"),
        [
            ("cluster", answer.cluster_id),
            ("node", answer.node_id),
            ("incarnation", answer.incarnation),
            ("data directory", answer.data_dir),
            ("kept up to entry", f"{answer.last_index} of term {answer.last_term}"),
            ("known to be committed", answer.commit_index),
            ("in the ledger file", f"entry {answer.applied_index}, {answer.tree_size} leaves"),
            ("last write", answer.last_write),
        ],
    )
    if answer.members:
        emit_table(MEMBER_COLUMNS, map(_member_row, answer.members))
    for text in answer.may_be_lost or ["nothing that this node could know of"]:
        print(f"may be lost: {text}")
    if answer.may_take_effect:
        print(f"may take effect: {answer.may_take_effect}")
    if answer.kept:
        print(f"the log that cannot be used is kept in {answer.kept}")
    if answer.verifier_key:
        print(f"checkpoints are signed with another key from now on: {answer.verifier_key}")
        print("tell those who verify and the witnesses; here: APPLIANCE_VERIFIER_KEY, or --verifier-key")


def _member_row(member: AskedMember) -> tuple[Any, ...]:
    words = {True: "yes", False: "no, it is another since", None: None}
    answers = f"no: {member.detail}" if member.detail else member.state
    remembers = words[member.remembers]
    return (
        member.node_id,
        member.role,
        member.raft_address,
        answers,
        member.last_index,
        member.last_term,
        remembers,
    )


def _when(stamp_us: int) -> str | None:
    return datetime.fromtimestamp(stamp_us / 1e6, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ") if stamp_us else None
