"""DuckDB with nothing but the given tables: no files, no network, no settings, one SELECT.

Three walls, each enough by itself: only one statement that reads is let through (its syntax tree is searched, because
DuckDB 2.0 takes COPY, INSERT, UPDATE and DELETE as the body of a CTE); DuckDB may open no file but the
segments and its spill directory; and the settings that say so are locked.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

import duckdb
import msgspec

from appliance.tables.errors import ApplianceError

THREADS: Final = 2
SPILL_FACTOR: Final = 2  # bytes on disk that a query may spill, for each byte of memory

_READING_NODES: Final = {"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"}
_HIDING_FUNCTIONS: Final = {"query", "query_table"}  # take SQL and names as text, which no search of the tree sees
_EXPLAIN: Final = re.compile(r"\s*explain\s+(?:analyze\s+)?(?:\([^()]*\)\s*)?(.*)", re.IGNORECASE | re.DOTALL)
_ALLOWED: Final = "Send one SELECT (WITH, FROM, VALUES, DESCRIBE, SUMMARIZE, SHOW and EXPLAIN of one do too)"


def open_database(memory_bytes: int, spill: str) -> duckdb.DuckDBPyConnection:
    """An empty database in memory, bounded; it can still be given tables."""
    db = duckdb.connect(
        ":memory:",
        config={
            "threads": THREADS,
            "memory_limit": f"{memory_bytes}B",
            "temp_directory": spill,
            "max_temp_directory_size": f"{SPILL_FACTOR * memory_bytes}B",
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "allow_community_extensions": False,
            "allow_persistent_secrets": False,
        },
    )
    db.execute("SET TimeZone = 'UTC'").fetchall()
    db.execute("SET python_enable_replacements = false").fetchall()  # no reading of our own variables
    return db


def lock(db: duckdb.DuckDBPyConnection, files: Sequence[str]) -> None:
    """Let DuckDB open these files only (and its spill directory), and nobody change that."""
    listed = ", ".join(f"'{file}'" for file in files)
    db.execute(f"SET allowed_paths = [{listed}]").fetchall()
    db.execute("SET enable_external_access = false").fetchall()
    db.execute("SET lock_configuration = true").fetchall()


def check_sql(db: duckdb.DuckDBPyConnection, sql: str) -> None:
    """Let through one statement that reads and nothing else. Raises `ApplianceError` `bad_query`."""
    try:
        statements = db.extract_statements(sql)
    except duckdb.Error as error:
        raise query_error(error) from error
    if len(statements) != 1:
        raise ApplianceError("bad_query", f"There are {len(statements)} statements. {_ALLOWED}.")
    kind = statements[0].type.name
    if kind == "EXPLAIN":
        inner = _EXPLAIN.fullmatch(statements[0].query)
        if inner is None or not inner[1].strip() or _EXPLAIN.fullmatch(inner[1]):
            raise ApplianceError("bad_query", "EXPLAIN must be followed by a SELECT, without a comment before it.")
        check_sql(db, inner[1])
    elif kind == "MULTI":
        raise ApplianceError("bad_query", "Name the values of a PIVOT: PIVOT audit ON op IN ('put', 'delete') ...")
    elif kind != "SELECT":
        raise ApplianceError("bad_query", f"{kind.replace('_', ' ')} is not allowed. {_ALLOWED}.")
    else:
        _check_tree(_tree(db, statements[0].query))


def _tree(db: duckdb.DuckDBPyConnection, sql: str) -> dict[str, Any]:
    try:
        ((text,),) = db.execute("SELECT json_serialize_sql(CAST(? AS VARCHAR))", [sql]).fetchall()
        tree = msgspec.json.decode(text)
    except duckdb.Error as error:
        raise query_error(error) from error
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ApplianceError("bad_query", "The query is nested too deeply.") from error
    if not isinstance(tree, dict) or tree.get("error"):
        raise ApplianceError("bad_query", f"The query cannot be checked: {tree.get('error_message', 'no tree')}")
    return tree


def _check_tree(tree: dict[str, Any]) -> None:
    waiting: list[Any] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, list):
            waiting += node
        elif isinstance(node, dict):
            kind = node.get("type")
            if isinstance(kind, str) and kind.endswith("_NODE") and kind not in _READING_NODES:
                verb = kind.removesuffix("_NODE").removesuffix("_QUERY").replace("_", " ")
                raise ApplianceError("bad_query", f"{verb} is not allowed inside a query. {_ALLOWED}.")
            if str(node.get("function_name", "")).lower() in _HIDING_FUNCTIONS:
                raise ApplianceError("bad_query", f"The function {node['function_name']} is not allowed.")
            waiting += node.values()


def query_error(error: Exception) -> ApplianceError:
    """What an exception of DuckDB or Arrow means to who asked; DuckDB's words and its mark of the position stay."""
    if isinstance(error, (MemoryError, duckdb.OutOfMemoryException)):
        return ApplianceError(
            "query_memory",
            "Ask for less at a time (fewer columns, a shorter range of time), or raise [audit] query_memory."
            f" {_first_line(error)}",
        )
    if isinstance(error, (duckdb.InternalException, duckdb.FatalException)):
        return ApplianceError("internal", f"DuckDB failed: {_first_line(error)}")
    return ApplianceError("bad_query", str(error).strip() or type(error).__name__)


_STREAMED: Final = {
    "Out of Memory Error": MemoryError,
    "INTERNAL Error": duckdb.InternalException,
    "FATAL Error": duckdb.FatalException,
}


def streamed_error(error: OSError) -> ApplianceError:
    """The same of an error that came when rows were flowing already: Arrow makes it an `OSError` without a number,
    which has DuckDB's words and lost its class. Raises the error itself when it is the system's.
    """
    if error.errno is not None:
        raise error
    text = str(error)
    return query_error(_STREAMED.get(text.partition(":")[0], duckdb.Error)(text))


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
