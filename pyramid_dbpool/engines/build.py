"""Build the engine of a pool, with all that listens to it."""

from dataclasses import asdict
from functools import partial

from sqlalchemy import Engine, create_engine
from sqlalchemy import exc as sa_exc

from ..errors import SettingsError
from ..pool.managed import ManagedPool
from ..secrets import scrub
from ..settings import PoolSettings
from . import connecting, forks, sent, stored
from .hearing import hear_errors
from .overstays import Overstays
from .refused_commits import note_failure, refuse_false_commits
from .transaction_modes import make_read_only
from .write_outage import WriteOutage

__all__ = ["build_engine"]


def build_engine(pool: PoolSettings, writes: WriteOutage) -> Engine:
    """Make an engine for a pool; it connects at its first use.

    :param writes: what is told of writes that the server refuses.
    :raises SettingsError: SQLAlchemy refuses a setting.
    """
    options = dict(pool.engine_options)
    if pool.managed is not None:
        options = {"poolclass": ManagedPool, **options, **asdict(pool.managed)}
    try:
        engine = create_engine(pool.url, **options)
    except (sa_exc.ArgumentError, TypeError) as error:
        keys = ", ".join(sorted(pool.source(option) for option in pool.engine_options))
        said = scrub(str(error), pool.url)
        raise SettingsError(f"SQLAlchemy refuses these settings ({keys}): {said}") from error
    forks.protect(engine)
    if pool.options.read_only:
        make_read_only(engine)
    # In this order: an error is explained before it is judged, or what takes its place would not
    # say what happened; and a COMMIT is refused before it is counted, or a request whose COMMIT
    # never was would not be tried again.
    overstays = Overstays(pool)
    note_error = partial(
        stored.note_error, overstays=overstays, writes=writes, patience=pool.pool_timeout
    )
    hear_errors(engine, note_failure, sent.note_error, note_error)
    overstays.explain_errors(engine)
    refuse_false_commits(engine, note_error, overstays)
    if isinstance(engine.pool, ManagedPool):
        engine.pool.spelling = pool.source
    else:
        connecting.explain_failures(engine, pool)
    stored.note_outcomes(engine, autocommit=pool.is_autocommit, read_only=pool.options.read_only)
    sent.note_statements(engine, stores=not (pool.is_autocommit or pool.options.read_only))
    connecting.prepare(engine, pool)
    writes.watch(engine)
    return engine
