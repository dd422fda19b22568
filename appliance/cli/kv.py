"""`appliance kv`: keys and values."""

from __future__ import annotations

import base64
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
import typer

from appliance.cli.exits import CliError, Exit
from appliance.cli.failover import Answer
from appliance.cli.output import emit, emit_json, emit_table, say, size_text, when, write
from appliance.cli.paths import key_path
from appliance.cli.session import Session
from appliance.cli.shapes import History, KeyList, KeyRow, Value, VersionRow, Written

if TYPE_CHECKING:
    from appliance.cli.client import Client

app = typer.Typer(help="Read and write keys, import and export them.", no_args_is_help=True)

PAGE_ITEMS: Final = 1000

IdempotencyOption = Annotated[
    str | None,
    typer.Option(help="Binds the write, so that repeating it applies nothing twice; by default a new random one."),
]
NoIdempotencyOption = Annotated[
    bool,
    typer.Option("--no-idempotency-key", help="Send none: after a lost connection the outcome stays unknown (exit 7)."),
]
IfVersionOption = Annotated[int | None, typer.Option(help="Only if the key has this version now (else exit 4).", min=1)]


@app.command()
def get(
    ctx: typer.Context,
    *,
    key: Annotated[str, typer.Argument(help="The key.")],
    at_leaf: Annotated[
        int | None, typer.Option(help="The value as it was behind this leaf of the ledger.", min=0)
    ] = None,
    stale: Annotated[
        bool, typer.Option("--stale", help="What the asked node has, without asking the majority.")
    ] = False,
    file: Annotated[Path | None, typer.Option(help="Write the value there instead of to standard output.")] = None,
) -> None:
    """Read a value: its very bytes, with a line end only on a terminal."""
    session: Session = ctx.obj
    params: dict[str, str | int] = {"consistency": "stale"} if stale else {}
    if at_leaf is not None:
        params["at_leaf"] = at_leaf
    with session.client() as client:
        answer = client.request("GET", key_path("/kv", key), params=params)
    if file is not None:
        file.write_bytes(answer.body)
        say(f"{file}: {size_text(len(answer.body))}, version {version_of(answer)}")
    elif session.as_json:
        leaf = answer.headers.get("scribe-leaf-index")
        emit_json(
            Value(
                key=key,
                version=version_of(answer),
                leaf_index=None if leaf is None else int(leaf),
                size=len(answer.body),
                **value_fields(answer.body),
            )
        )
    else:
        write(answer.body + (b"\n" if sys.stdout.isatty() else b""))


@app.command()
def put(
    ctx: typer.Context,
    *,
    key: Annotated[str, typer.Argument(help="The key: 1 to 1,024 bytes of UTF-8.")],
    value: Annotated[str | None, typer.Argument(help="The value; - or nothing reads standard input.")] = None,
    file: Annotated[Path | None, typer.Option(help="Take the value from this file.")] = None,
    if_version: IfVersionOption = None,
    if_absent: Annotated[bool, typer.Option("--if-absent", help="Only if the key is not there (else exit 4).")] = False,
    idempotency_key: IdempotencyOption = None,
    no_idempotency_key: NoIdempotencyOption = False,
) -> None:
    """Write a value and wait until a majority has it."""
    session: Session = ctx.obj
    if file is not None and value is not None:
        raise CliError(Exit.USAGE, "there are both a value and --file", hint="give one of them", code="usage")
    if if_version is not None and if_absent:
        raise CliError(Exit.USAGE, "--if-version and --if-absent exclude each other", hint="give one", code="usage")
    if file is not None:
        content = file.read_bytes()
    elif value is None or value == "-":
        content = sys.stdin.buffer.read()
    else:
        content = value.encode("utf-8", "surrogateescape")
    headers = {"If-None-Match": "*"} if if_absent else _if_match(if_version)
    bound = _bound(idempotency_key, no_idempotency_key)
    with session.client() as client:
        answer = client.request("PUT", key_path("/kv", key), content=content, headers=headers, idempotency_key=bound)
    _emit_written(session, answer, bound)


@app.command()
def delete(
    ctx: typer.Context,
    *,
    key: Annotated[str, typer.Argument(help="The key.")],
    if_version: IfVersionOption = None,
    idempotency_key: IdempotencyOption = None,
    no_idempotency_key: NoIdempotencyOption = False,
) -> None:
    """Delete a key. Its history stays, and versions go on counting if it is written again."""
    session: Session = ctx.obj
    bound = _bound(idempotency_key, no_idempotency_key)
    with session.client() as client:
        answer = client.request("DELETE", key_path("/kv", key), headers=_if_match(if_version), idempotency_key=bound)
    _emit_written(session, answer, bound)


@app.command("list")
def list_keys(
    ctx: typer.Context,
    *,
    prefix: Annotated[str, typer.Argument(help="Only keys that begin like this.")] = "",
    after: Annotated[str, typer.Option(help="Only keys behind this one.")] = "",
    limit: Annotated[int, typer.Option(help="Most keys listed.", min=1)] = 100,
    stale: Annotated[
        bool, typer.Option("--stale", help="What the asked node has, without asking the majority.")
    ] = False,
) -> None:
    """List keys in the order of their UTF-8 bytes."""
    session: Session = ctx.obj
    items: list[KeyRow] = []
    following: str | None = after
    with session.client() as client:
        while following is not None and len(items) < limit:
            page, following = read_page(client, prefix, following, min(limit - len(items), PAGE_ITEMS), stale=stale)
            items += page
    emit(
        session,
        KeyList(items=items, next=following),
        columns=("key", "version", "leaf", "size", "written"),
        table=((row.key, row.version, row.leaf_index, size_text(row.size), when(row.timestamp)) for row in items),
    )
    if following is not None and not session.as_json:
        say(f"there are more: --after {following!r}, or a larger --limit")


@app.command()
def history(
    ctx: typer.Context,
    *,
    key: Annotated[str, typer.Argument(help="The key.")],
    limit: Annotated[int, typer.Option(help="Most versions listed.", min=1)] = 100,
    from_leaf: Annotated[int | None, typer.Option(help="Begin at this leaf, going back.", min=0)] = None,
) -> None:
    """List all versions of a key, newest first: when, by whom, what."""
    session: Session = ctx.obj
    versions: list[VersionRow] = []
    following = from_leaf
    with session.client() as client:
        while True:
            params: dict[str, str | int] = {"limit": min(limit - len(versions), PAGE_ITEMS)}
            if following is not None:
                params["from"] = following
            page = client.request("GET", key_path("/history", key), params=params).json()
            versions += [_version_row(row) for row in page["versions"]]
            following = page["next"]
            if following is None or len(versions) >= limit:
                break
    emit(
        session,
        History(key=key, versions=versions, next=following),
        columns=("version", "leaf", "written", "actor", "op", "size", "value hash"),
        table=(
            (v.version, v.leaf_index, when(v.timestamp), v.actor, v.op, _size(v), (v.value_hash or "-")[:16])
            for v in versions
        ),
    )


@app.command("import")
def import_(
    ctx: typer.Context,
    *,
    file: Annotated[
        str, typer.Argument(help='NDJSON of {"key","value"} or {"key","value_base64"}; - is standard input.')
    ],
    prefix: Annotated[str, typer.Option(help="Put this in front of every key.")] = "",
    concurrency: Annotated[int, typer.Option(help="Batches on their way at once.", min=1, max=128)] = 4,
    batch: Annotated[int, typer.Option(help="Records in one atomic batch.", min=1, max=1000)] = 100,
    deadline: Annotated[
        float,
        typer.Option(help="Seconds that one batch may fail (no leader, nodes down) before the import stops.", min=1),
    ] = 300.0,
    import_id: Annotated[
        str,
        typer.Option(
            help="Id of an import that stopped: what it wrote is not written again. Same file, --batch and "
            "--prefix as then."
        ),
    ] = "",
    acknowledged: Annotated[
        Path | None, typer.Option(help='Write {"line","key","version","leaf_index"} of each acknowledged record there.')
    ] = None,
) -> None:
    """Write the records of an NDJSON file; goes on by itself through leader changes and dead nodes.

    A value that is no string is stored as compact JSON. Records with the same key are written in the file's order.
    """
    from appliance.cli.importing import ImportPlan, run_import

    plan = ImportPlan(
        source=file,
        prefix=prefix,
        concurrency=concurrency,
        batch_records=batch,
        deadline_s=deadline,
        import_id=import_id,
        acknowledged=acknowledged,
    )
    run_import(ctx.obj, plan)


@app.command()
def export(
    ctx: typer.Context,
    *,
    file: Annotated[str, typer.Argument(help="Where to write the NDJSON; - is standard output.")] = "-",
    prefix: Annotated[str, typer.Option(help="Only keys that begin like this.")] = "",
    concurrency: Annotated[int, typer.Option(help="Values read at once.", min=1, max=128)] = 16,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write current keys and values as NDJSON, in key order, such that `kv import` writes the same bytes.

    Each value is at least as new as the start of the export; writes that go on meanwhile may be in it or not.
    """
    from appliance.cli.exporting import run_export

    run_export(ctx.obj, file, prefix=prefix, concurrency=concurrency, force=force)


def read_page(client: Client, prefix: str, after: str, limit: int, *, stale: bool) -> tuple[list[KeyRow], str | None]:
    """Read one page of keys and the `after` of the next one."""
    params: dict[str, str | int] = {"limit": limit}
    if prefix:
        params["prefix"] = prefix
    if after:
        params["after"] = after
    if stale:
        params["consistency"] = "stale"
    page = client.request("GET", "/kv", params=params).json()
    return [key_row(row) for row in page["items"]], page["next"]


def key_row(row: dict[str, Any]) -> KeyRow:
    """Read one item of GET /kv."""
    return msgspec.convert({name: row[name] for name in KeyRow.__struct_fields__}, KeyRow)


def value_fields(value: bytes) -> dict[str, str]:
    """A value as the member `value` where it is UTF-8, else as `value_base64`."""
    try:
        return {"value": value.decode("utf-8")}
    except UnicodeDecodeError:
        return {"value_base64": base64.b64encode(value).decode("ascii")}


def _version_row(row: dict[str, Any]) -> VersionRow:
    deleted = row["op"] == "delete"
    return VersionRow(
        version=row["version"],
        leaf_index=row["leaf_index"],
        timestamp=row["timestamp"],
        actor=row["actor"],
        op=row["op"],
        value_hash=None if deleted else row["value_hash"],
        size=None if deleted else row["size"],
    )


def _size(row: VersionRow) -> str | None:
    return None if row.size is None else size_text(row.size)


def version_of(answer: Answer) -> int:
    """The version that a value's entity tag names."""
    return int(answer.headers.get("etag", '"0"').strip('"'))


def _if_match(version: int | None) -> dict[str, str]:
    return {} if version is None else {"If-Match": f'"{version}"'}


def _bound(key: str | None, none: bool) -> str | None:
    if key is not None and none:
        raise CliError(
            Exit.USAGE, "--idempotency-key and --no-idempotency-key exclude each other", hint="give one", code="usage"
        )
    return None if none else key or f"cli-{secrets.token_hex(12)}"


def _emit_written(session: Session, answer: Answer, idempotency_key: str | None) -> None:
    body = answer.json()
    written = Written(
        status=body["status"],
        key=body["key"],
        version=body["version"],
        leaf_index=body["leaf_index"],
        index=body["index"],
        term=body["term"],
        timestamp=body["timestamp"],
        replayed=replayed(answer, body),
        idempotency_key=idempotency_key,
        node=answer.url,
    )
    if session.as_json:
        emit_json(written)
        return
    emit_table(
        ("key", "version", "leaf", "index", "term", "written"),
        [(written.key, written.version, written.leaf_index, written.index, written.term, when(written.timestamp))],
    )
    if written.replayed:
        say("an earlier request with this idempotency key had written it; nothing was applied again")


def replayed(answer: Answer, body: dict[str, Any]) -> bool:
    """Whether an answer is the stored one of an earlier request with the same idempotency key."""
    return bool(body.get("replayed")) or answer.headers.get("idempotency-replayed") == "true"
