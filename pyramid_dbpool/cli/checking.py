"""`pdbpool check`: the settings are right, the databases are there."""

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from sqlalchemy import Connection

from ..engines.probes import connect_once, reason
from ..engines.server_view import ServerView, view_server
from ..settings import AppSettings, PoolSettings
from ..web.include import refuse_taken_names
from .budget import Shared, shared_servers
from .errors import FAILED, OK, complain, one_line
from .ini import load, log_as_configured
from .tables import plain, print_json, print_table

__all__ = ["check"]

_POOLER = (
    "something like PgBouncer stands between: the limits below are the server's, its own is"
    " max_client_conn"
)


def check(args: argparse.Namespace) -> int:
    """Check the settings of an ini file, connect once to each database, and ask what it allows."""
    app = load(args.config_uri, args.config_vars).app
    refuse_taken_names(app)
    if args.connect:
        log_as_configured(args.config_uri, args.config_vars)
    views: dict[str, ServerView] = {}
    errors = {p.name: _try(p, views) if args.connect else None for p in app.pools.values()}
    servers = shared_servers(app.pools.values(), views)
    if args.format == "json":
        _print_json(app, errors, views, servers, "ok" if args.connect else "not tried")
    else:
        _print_plain(app, errors, servers, "ok" if args.connect else "not tried")
    _complain_of(app, errors)
    for server in servers:
        for text in (*server.wrong, *(f"warning: {text}" for text in server.warnings)):
            complain(text)
    return FAILED if any(errors.values()) or any(server.wrong for server in servers) else OK


def _print_plain(
    app: AppSettings, errors: Mapping[str, str | None], servers: Sequence[Shared], state: str
) -> None:
    table = [
        (p.name, p.masked_url, plain(p.capacity), "failed" if errors[p.name] else state)
        for p in app.pools.values()
    ]
    print_table([("Pool", "Url", "Capacity", "State"), *table])
    for server in servers:
        _print_server(server)


def _print_server(server: Shared) -> None:
    view = server.view
    names = ", ".join(pool.name for pool in server.pools)
    print(f"\n{view.server}, for {names}")
    rows = [("driver", f"{view.driver}, {view.sqlalchemy}")]
    if view.tls is not None:
        rows.append(("TLS", view.tls))
    if view.pooler:
        rows.append(("pooler", _POOLER))
    rows += server.facts
    if server.fits is not None:
        rows.append(("processes", server.fits))
    rows += [("not told", each) for each in view.missing]
    print_table([(f"  {name}", text) for name, text in rows])


def _print_json(
    app: AppSettings,
    errors: Mapping[str, str | None],
    views: Mapping[str, ServerView],
    servers: Sequence[Shared],
    state: str,
) -> None:
    of = {pool.name: server for server in servers for pool in server.pools}
    print_json(
        [
            {
                "pool": pool.name,
                "url": pool.masked_url,
                "capacity": pool.capacity,
                "state": "failed" if errors[pool.name] else state,
                "error": errors[pool.name],
                "server": asdict(views[pool.name]) if pool.name in views else None,
                "wrong": of[pool.name].wrong if pool.name in of else [],
                "warnings": of[pool.name].warnings if pool.name in of else [],
            }
            for pool in app.pools.values()
        ]
    )


def _complain_of(app: AppSettings, errors: Mapping[str, str | None]) -> None:
    for pool in app.pools.values():
        if errors[pool.name]:
            complain(
                f"the pool {pool.name!r} cannot connect with {pool.source('url')} = "
                f"{pool.masked_url}: {errors[pool.name]}"
            )


def _try(pool: PoolSettings, views: dict[str, ServerView]) -> str | None:
    """Connect once, without the pool; return what went wrong, in one line.

    :param views: gets what the server says of itself.
    """
    file = _unmade_file(pool)
    if file is not None:
        return _why_unmakeable(file)

    def look(connection: Connection) -> None:
        views[pool.name] = view_server(connection)

    hook = pool.options.engine_hook
    error = connect_once(pool, [] if hook is None else [hook], look)
    return None if error is None else one_line(reason(pool, error))


def _unmade_file(pool: PoolSettings) -> str | None:
    """Return a SQLite file that is still to be made: connecting would leave an empty one."""
    file = pool.url.database
    if pool.url.get_backend_name() != "sqlite" or not file or file.startswith("file:"):
        return None
    return None if os.path.exists(file) else file


def _why_unmakeable(file: str) -> str | None:
    folder = os.path.dirname(os.path.abspath(file))
    if not os.path.isdir(folder):
        return f"there is no folder {folder}."
    return None if os.access(folder, os.W_OK) else f"the folder {folder} cannot be written to."
