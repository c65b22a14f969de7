"""What a server is told in the packet that opens a connection, and so without a round trip."""

import os
from collections.abc import Mapping
from typing import Any

from sqlalchemy.engine import URL

from ..errors import SettingsError
from ..secrets import shown
from .backend import Backend
from .checks import Draft

__all__ = ["FALLBACK_NAME", "NAMED_DRIVERS", "add_start_options", "check_server"]

# Those on libpq, which passes on a name and options.
NAMED_DRIVERS = frozenset({"psycopg", "psycopg2"})
# libpq's keyword for a name that counts where nothing else gives one: the URL, a service
# file, PGAPPNAME.
FALLBACK_NAME = "fallback_application_name"
# Our keyword, PostgreSQL's parameter, and the nearest thing that MariaDB and MySQL have.
_TIMEOUTS = {
    "statement_timeout": ("statement_timeout", "max_statement_time or max_execution_time"),
    "lock_timeout": ("lock_timeout", "innodb_lock_wait_timeout"),
    "idle_in_transaction_timeout": (
        "idle_in_transaction_session_timeout",
        "idle_transaction_timeout",
    ),
}


def check_server(draft: Draft, backend: Backend) -> None:
    """Refuse what this server cannot be told when a connection is opened."""
    for keyword in ("application_name", *_TIMEOUTS):
        if not draft.own.get(keyword):
            continue
        item = draft.given["dbpool." + keyword]
        remedy = "remove it"
        if backend.dialect.driver not in NAMED_DRIVERS:
            why = (
                "only PostgreSQL is told such things when a connection is opened, by psycopg or"
                f" psycopg2, and this is {backend.dialect.name} with {backend.dialect.driver}"
            )
            if backend.dialect.name in ("mysql", "mariadb") and keyword in _TIMEOUTS:
                remedy += f", and see the server's {_TIMEOUTS[keyword][1]}"
        elif "creator" in draft.engine:
            why = "the creator opens the connections"
        else:
            continue
        raise SettingsError(f"{item.key} = {shown(item.value)} has no effect: {why}; {remedy}.")


def add_start_options(engine: dict[str, Any], own: Mapping[str, Any], url: URL) -> None:
    """Add the timeouts that are set to the driver's arguments, after the user's own options."""
    options = [
        f"-c {_TIMEOUTS[keyword][0]}={round(own[keyword] * 1000)}"
        for keyword in _TIMEOUTS
        if own.get(keyword) is not None
    ]
    if not options:
        return
    arguments = engine.get("connect_args") or {}
    users = arguments.get("options") or url.query.get("options")
    if users is None:
        # libpq looks there only if it is given no options at all.
        users = os.environ.get("PGOPTIONS", "")
    # Given twice in a URL, it comes as a tuple.
    users = users if isinstance(users, str) else " ".join(users)
    engine["connect_args"] = {**arguments, "options": " ".join([users, *options]).strip()}
