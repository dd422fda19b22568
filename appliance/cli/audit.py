"""`appliance audit`: SQL over the audit trail."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from appliance.cli.exits import CliError, Exit
from appliance.cli.output import emit_json, emit_table, say, size_text, write
from appliance.cli.session import Session
from appliance.cli.shapes import QueryResult

app = typer.Typer(help="Questions in SQL over the audit trail.", no_args_is_help=True)


class Format(StrEnum):
    """How the rows of a query come."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"
    PARQUET = "parquet"
    ARROW = "arrow"


@app.command()
def query(
    ctx: typer.Context,
    *,
    sql: Annotated[str, typer.Argument(help="One SELECT over the tables audit and current (DuckDB's SQL).")],
    form: Annotated[
        Format | None, typer.Option("--format", help="Form of the rows; by default what --output says.")
    ] = None,
    limit: Annotated[int, typer.Option(help="Most rows in the answer.", min=1)] = 1000,
    file: Annotated[Path | None, typer.Option(help="Write the answer there.")] = None,
) -> None:
    """Ask the audit trail: who wrote what, when, with which outcome; and the current keys and values.

    `audit(index, leaf_index, batch_id, time, actor, op, key, version, value_hash, size, outcome, request_id)`,
    `current(key, version, leaf_index, time, value)`; JSON values answer `value->>'field'`.
    """
    session: Session = ctx.obj
    form = form or (Format.JSON if session.as_json else Format.TABLE)
    if file is not None and form is Format.TABLE:
        form = Format.JSON
    if form in (Format.PARQUET, Format.ARROW) and file is None:
        raise CliError(Exit.USAGE, f"{form} is no text for a terminal", hint="add --file NAME", code="usage")
    wire = Format.JSON if form is Format.TABLE else form
    body = msgspec.json.encode({"sql": sql, "format": str(wire), "limit": limit})
    with session.client(
        answer_timeout_s=max(session.timeout_s, 60.0), timeout_s=max(session.timeout_s, 60.0)
    ) as client:
        answer = client.request("POST", "/audit/query", content=body, safe=True)
    if file is not None:
        file.write_bytes(answer.body)
        say(f"{file}: {size_text(len(answer.body))} of {form}")
        return
    if form is Format.CSV:
        write(answer.body)
        return
    result = msgspec.convert(answer.json(), QueryResult)
    if form is Format.JSON:
        emit_json(result)
    else:
        emit_table(result.columns, result.rows)
    if result.truncated:
        say(f"there are more rows than --limit {limit}")
