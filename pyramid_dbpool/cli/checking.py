"""`pdbpool check`: the settings are right, the databases are there."""

import argparse
import os

from ..engines.probes import connect_once, reason
from ..settings import AppSettings, PoolSettings
from ..web.include import refuse_taken_names
from .errors import FAILED, OK, complain, one_line
from .ini import load
from .tables import plain, print_json, print_table

__all__ = ["check"]


def check(args: argparse.Namespace) -> int:
    """Check the settings of an ini file, and connect once to each database."""
    app = load(args.config_uri, args.config_vars).app
    refuse_taken_names(app)
    errors = {pool.name: _try(pool) if args.connect else None for pool in app.pools.values()}
    state = "ok" if args.connect else "not tried"
    found = [
        {
            "pool": pool.name,
            "url": pool.masked_url,
            "capacity": pool.capacity,
            "state": "failed" if errors[pool.name] else state,
            "error": errors[pool.name],
        }
        for pool in app.pools.values()
    ]
    if args.format == "json":
        print_json(found)
    else:
        columns = ("pool", "url", "capacity", "state")
        cells = [[plain(row[column]) for column in columns] for row in found]
        print_table([[column.capitalize() for column in columns], *cells])
    _complain_of(app, errors)
    return FAILED if any(errors.values()) else OK


def _complain_of(app: AppSettings, errors: dict[str, str | None]) -> None:
    for pool in app.pools.values():
        if errors[pool.name]:
            complain(
                f"the pool {pool.name!r} cannot connect with {pool.source('url')} = "
                f"{pool.masked_url}: {errors[pool.name]}"
            )


def _try(pool: PoolSettings) -> str | None:
    """Connect once, without the pool; return what went wrong, in one line."""
    file = _unmade_file(pool)
    if file is not None:
        return _why_unmakeable(file)
    hook = pool.options.engine_hook
    error = connect_once(pool, [] if hook is None else [hook])
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
