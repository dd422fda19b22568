"""Answers: a table for people or JSON for programs on standard output; everything else on standard error."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec

from appliance.cli.exits import CliError
from appliance.cli.session import Output, Session

if TYPE_CHECKING:
    from rich.console import Console

INTEGER_MAX: Final = 2**53
WIDTH_PIPED: Final = 200
_CONTROL: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but tab and newline


def emit(session: Session, value: msgspec.Struct, *, table: Iterable[Sequence[Any]], columns: Sequence[str]) -> None:
    """Answer with a shape of `appliance.cli.shapes`: as JSON, or as a table of its own columns."""
    if session.as_json:
        emit_json(value)
    else:
        emit_table(columns, table)


def emit_json(value: Any) -> None:
    """Write one JSON document and a line end."""
    write(encode(value) + b"\n")


def encode(value: Any) -> bytes:
    """Encode to JSON; integers beyond 2**53 become strings, because many readers would round them."""
    return msgspec.json.encode(safe_integers(msgspec.to_builtins(value)))


def safe_integers(value: Any) -> Any:
    """Replace every integer beyond 2**53 by its decimal digits as a string."""
    if isinstance(value, dict):
        return {name: safe_integers(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [safe_integers(item) for item in value]
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > INTEGER_MAX:
        return str(value)
    return value


def write(data: bytes) -> None:
    """Write bytes to standard output as they are, behind what was printed before."""
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def emit_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a table; None is shown as a dash."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for name in columns:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(Text("-" if cell is None else printable(str(cell))) for cell in row))
    console().print(table)


def console(*, error: bool = False) -> Console:
    """A rich console for one stream; as wide as the terminal, or `WIDTH_PIPED` where there is none."""
    from rich.console import Console

    stream = sys.stderr if error else sys.stdout
    return Console(file=stream, width=None if stream.isatty() else WIDTH_PIPED, highlight=False, soft_wrap=False)


def say(text: str) -> None:
    """Tell a person something on standard error."""
    print(printable(text), file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """The text, with control characters as escapes: what a node says must not speak to the terminal."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def report(error: CliError, output: Output) -> None:
    """Print an error on standard error: words and the next step for people, one JSON document for programs."""
    if output is Output.JSON:
        document = {
            "error": {
                "code": error.code,
                "exit_code": int(error.exit_code),
                "detail": error.message,
                "hint": error.hint,
                "retryable": error.retryable,
            }
        }
        print(msgspec.json.encode(document).decode(), file=sys.stderr, flush=True)
        return
    say(f"error: {error.message}")
    if error.hint:
        say(f"  next: {error.hint}")


def when(timestamp: str) -> str:
    """Shorten an RFC 3339 time for a table: seconds, local zone."""
    return datetime.fromisoformat(timestamp).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def now_text() -> str:
    """The time now, RFC 3339 UTC with seconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def size_text(count_bytes: int) -> str:
    """Bytes in the largest fitting binary unit."""
    value = float(count_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
