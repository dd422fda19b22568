"""The one table of exit codes, and the error that carries one: every failure that a command expects ends here."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Final


class Exit(IntEnum):
    """What the exit code of a command says. `MEANINGS` has the words; `docs/CLI.md` is rendered from them."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    NOT_FOUND = 3
    CONFLICT = 4
    AUTH = 5
    UNAVAILABLE = 6
    OUTCOME_UNKNOWN = 7
    PARTIAL = 8
    DIVERGED = 9
    NOT_READY = 10
    FORGED = 11
    WRONG_LOG = 12
    WRONG_PROOF = 13
    WRONG_ENTRIES = 14
    SHRUNK = 15
    FORKED = 16
    INTERRUPTED = 130


MEANINGS: Final[Mapping[Exit, str]] = {
    Exit.OK: "Done.",
    Exit.FAILURE: "It failed, and no other code fits: the node answered with an error of its own, a node is unhealthy, "
    "a file cannot be written.",
    Exit.USAGE: "The command line, the configuration file or the request is not acceptable; nothing was done.",
    Exit.NOT_FOUND: "There is no such key, version, node or file.",
    Exit.CONFLICT: "A condition does not hold, an idempotency key was used for another request, or the cluster stands "
    "so that the change would harm it; nothing was changed.",
    Exit.AUTH: "No API key, an unknown one, or one whose role is too low.",
    Exit.UNAVAILABLE: "No node can do it now (no connection, no quorum, no leader, overloaded, paused, rate limit); "
    "nothing was written. The same command may succeed later.",
    Exit.OUTCOME_UNKNOWN: "The write or change may or may not have taken effect. Read the key, or repeat the command "
    "with the idempotency key that was printed; a change of the cluster can be repeated as it is.",
    Exit.PARTIAL: "Part of it was done: some lines of an import were refused, and are listed with their numbers; some "
    "nodes were compacted, or scrubbed, and others not; writes are paused, and the files of some node are not settled.",
    Exit.DIVERGED: "What was checked does not agree: nodes report other roots for the same tree size, a proof "
    "fails, or a scrub finds what has rotted.",
    Exit.NOT_READY: "The machine is not ready: ports taken, too little disk or memory, files that are not ours.",
    Exit.FORGED: "A checkpoint is not signed as it has to be: by the log's key, and by as many witnesses as were asked "
    "for.",
    Exit.WRONG_LOG: "A checkpoint is of another log than the verifier key's.",
    Exit.WRONG_PROOF: "The proof is for another key, version or value, or it proves nothing.",
    Exit.WRONG_ENTRIES: "Tiles or entries of the log are withheld, truncated or wrong, or an entry does not follow "
    "from those before it.",
    Exit.SHRUNK: "ALARM: the log has fewer entries than in a checkpoint that was seen before. It was rolled back.",
    Exit.FORKED: "ALARM: the log has signed two trees of which the larger one does not continue the other. It shows "
    "different things to different people, or was rewritten.",
    Exit.INTERRUPTED: "Interrupted by Ctrl-C.",
}

EXIT_OF_ERROR: Final[Mapping[str, Exit]] = {
    "bad_request": Exit.USAGE,
    "bad_key": Exit.USAGE,
    "bad_query": Exit.USAGE,
    "leaf_out_of_range": Exit.USAGE,
    "method_not_allowed": Exit.USAGE,
    "too_large": Exit.USAGE,
    "unauthenticated": Exit.AUTH,
    "forbidden": Exit.AUTH,
    "not_found": Exit.NOT_FOUND,
    "value_retired": Exit.NOT_FOUND,
    "conflict": Exit.CONFLICT,
    "condition_failed": Exit.CONFLICT,
    "idempotency_mismatch": Exit.CONFLICT,
    "rate_limited": Exit.UNAVAILABLE,
    "internal": Exit.FAILURE,
    "verification_failed": Exit.DIVERGED,
    "not_published": Exit.UNAVAILABLE,
    "no_log_key": Exit.FAILURE,
    "quarantined": Exit.UNAVAILABLE,
    "no_quorum": Exit.UNAVAILABLE,
    "no_leader": Exit.UNAVAILABLE,
    "not_committed": Exit.UNAVAILABLE,
    "writes_paused": Exit.UNAVAILABLE,
    "disk_full": Exit.UNAVAILABLE,
    "overloaded": Exit.UNAVAILABLE,
    "idempotency_full": Exit.UNAVAILABLE,
    "shutting_down": Exit.UNAVAILABLE,
    "unhealthy": Exit.UNAVAILABLE,
    "query_timeout": Exit.FAILURE,
    "query_memory": Exit.FAILURE,
    "read_timeout": Exit.UNAVAILABLE,
    "outcome_unknown": Exit.OUTCOME_UNKNOWN,
}

EXIT_OF_FINDING: Final[Mapping[str, Exit]] = {
    "memory_unusable": Exit.FAILURE,
    "log_behind": Exit.UNAVAILABLE,
    "no_consistency": Exit.UNAVAILABLE,
    "list_wrong": Exit.DIVERGED,
    "checkpoint_malformed": Exit.FORGED,
    "checkpoint_forged": Exit.FORGED,
    "checkpoint_unsigned": Exit.FORGED,
    "witnesses_missing": Exit.FORGED,
    "wrong_origin": Exit.WRONG_LOG,
    "proof_malformed": Exit.WRONG_PROOF,
    "leaf_malformed": Exit.WRONG_PROOF,
    "wrong_path": Exit.WRONG_PROOF,
    "wrong_key": Exit.WRONG_PROOF,
    "wrong_version": Exit.WRONG_PROOF,
    "wrong_value": Exit.WRONG_PROOF,
    "withheld": Exit.WRONG_ENTRIES,
    "tile_truncated": Exit.WRONG_ENTRIES,
    "tile_wrong": Exit.WRONG_ENTRIES,
    "bundle_truncated": Exit.WRONG_ENTRIES,
    "entry_wrong": Exit.WRONG_ENTRIES,
    "entry_unfounded": Exit.WRONG_ENTRIES,
    "root_wrong": Exit.WRONG_ENTRIES,
    "log_shrunk": Exit.SHRUNK,
    "log_forked": Exit.FORKED,
}

_EXIT_OF_STATUS: Final[Mapping[int, Exit]] = {
    400: Exit.USAGE,
    401: Exit.AUTH,
    403: Exit.AUTH,
    404: Exit.NOT_FOUND,
    409: Exit.CONFLICT,
    410: Exit.NOT_FOUND,
    412: Exit.CONFLICT,
    413: Exit.USAGE,
    422: Exit.CONFLICT,
    429: Exit.UNAVAILABLE,
    502: Exit.UNAVAILABLE,
    503: Exit.UNAVAILABLE,
    504: Exit.OUTCOME_UNKNOWN,
}

_HINTS: Final[Mapping[str, str]] = {
    "conflict": "`appliance cluster nodes` shows how the members stand",
    "writes_paused": "`appliance writes resume` ends the pause; it ends by itself too",
    "unauthenticated": "set APPLIANCE_API_KEY, or run in the directory whose .scribe/ holds credentials.env "
    "(--dir names another)",
    "forbidden": "use a key of a higher role; .scribe/credentials.env holds one for each role",
    "no_quorum": "see which nodes answer: `appliance status`; start the missing ones: `appliance up`",
    "no_leader": "an election is going on or cannot succeed: `appliance status`",
    "outcome_unknown": "read the key before you write again",
    "idempotency_mismatch": "use a new idempotency key for a new request",
    "rate_limited": "slow down, or raise [security.rate_limit]",
    "internal": "`appliance logs` shows what the node says about it",
}


class CliError(Exception):
    """An expected failure of a command.

    Args:
        exit_code: what the process ends with.
        message: what is wrong.
        hint: what to do next; taken from the table of hints when empty.
        code: the stable name of `appliance.tables.errors`, or one of this floor (`no_connection`, `usage`, ...).
        retryable: whether the same command may succeed later.
        status: HTTP status of the answer behind it, 0 when there is none.
    """

    def __init__(
        self,
        exit_code: Exit,
        message: str,
        *,
        hint: str = "",
        code: str = "failure",
        retryable: bool = False,
        status: int = 0,
    ) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.message = message
        self.code = code
        self.hint = hint or _HINTS.get(code, "")
        self.retryable = retryable
        self.status = status


def exit_of(code: str, status: int) -> Exit:
    """Give the exit code for an error a node answered: by its code, else by its HTTP status."""
    return EXIT_OF_ERROR.get(code) or _EXIT_OF_STATUS.get(status, Exit.FAILURE)


def no_node_known() -> CliError:
    """Neither `--url` nor a cluster of this directory names a node."""
    hint = "start a cluster with `appliance up`, or give --url http://host:port (APPLIANCE_URL)"
    return CliError(Exit.USAGE, "no node is known", hint=hint, code="usage")


def finding(code: str, message: str, *, hint: str = "", status: int = 0) -> CliError:
    """What `verify` found, as the error that it ends with; `code` is one of `EXIT_OF_FINDING`."""
    exit_code = EXIT_OF_FINDING[code]
    return CliError(exit_code, message, hint=hint, code=code, retryable=exit_code is Exit.UNAVAILABLE, status=status)
