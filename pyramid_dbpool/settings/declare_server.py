"""The settings of what a server is told when a connection is opened."""

from typing import Any

from .setting import Setting, own

__all__ = ["SERVER_SETTINGS"]

# PostgreSQL counts these in milliseconds, in an integer of 32 bits.
_LONGEST = 2_147_483.0


def _limit(keyword: str, doc: str) -> Setting:
    more: dict[str, Any] = {"low": 0.001, "high": _LONGEST, "off": None}
    return own(keyword, "duration", None, doc, note="PostgreSQL, not through PgBouncer", **more)


SERVER_SETTINGS: tuple[Setting, ...] = (
    own(
        "application_name",
        "text",
        None,
        "What PostgreSQL calls this app in `pg_stat_activity`; role and process id are added.",
        off="",
        note="the app's package or the program if not given",
    ),
    _limit("statement_timeout", "The server cancels a statement that takes longer."),
    _limit("lock_timeout", "The server cancels a statement that waits longer for a lock."),
    _limit(
        "idle_in_transaction_timeout",
        "The server ends a connection that is idle inside a transaction for longer.",
    ),
)
