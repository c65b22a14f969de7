"""Who listens, and what is kept."""

import gc
import weakref
from collections.abc import Callable
from typing import Any

from pyramid.request import Request
from sqlalchemy.pool import Pool

from pyramid_dbpool import ManagedPool
from tests.debugtoolbar.conftest import HERE, Shown
from tests.support.webapp import PARTS, WebApp, app
from tests.web.request.views import rows

Build = Callable[..., Shown]


def listeners(web: WebApp) -> list[Any]:
    """Give whatever listens to an engine's pool, its connections and their sessions."""
    pool, steps = web.engine.pool, web.engine.steps  # type: ignore[attr-defined]  # one of ours
    pools = [
        each for name in ("checkout", "checkin", "detach") for each in getattr(pool.dispatch, name)
    ]
    told = [
        each for name in steps.__slots__ if name != "executed" for each in getattr(steps, name)
    ]
    heard = list(web.engine.dispatch.after_cursor_execute)
    return [type(pool), *pools, *told, *heard]


def test_nobody_listens_where_the_toolbar_is_not_included(settings: dict[str, Any]) -> None:
    """Nor where it does not show the request."""
    with app(settings, *PARTS, index=rows) as web:
        web.get()
        without = listeners(web)
        assert type(web.pool) is ManagedPool
    with app(settings, "pyramid_debugtoolbar", *PARTS, index=rows) as web:
        web.get(extra_environ={"REMOTE_ADDR": "192.0.2.1"})
        assert [type(each) for each in listeners(web)] == [type(each) for each in without]
        assert type(web.pool) is ManagedPool
        web.get(extra_environ=HERE)
        assert len(listeners(web)) > len(without)


def test_each_engine_is_watched_once(shown: Build, settings: dict[str, Any]) -> None:
    """However many requests there are, and apps on the same engine."""
    first = shown(index=rows)
    first.get()
    before = listeners(first.web)
    second = shown(index=rows)
    assert second.web.engine is first.web.engine
    for web in (first, second):
        web.get()
        (row,) = web.data()["checkouts"]
        assert (row["by"], len(row["transactions"])) == ("request.db", 1)
    assert listeners(first.web) == before


def test_the_pool_is_what_it_was(shown: Build) -> None:
    """To whoever asks for its class, and to `recreate`."""
    web = shown(index=rows)
    web.get()
    pool: Pool = web.web.engine.pool
    assert isinstance(pool, ManagedPool) and type(pool).__name__ == "ManagedPool"
    assert type(pool.recreate()) is type(pool)


def test_no_request_is_kept(shown: Build, settings: dict[str, Any]) -> None:
    """By the panel, which stays: the toolbar keeps some, but that is the toolbar's business."""
    # So does the toolbar's own panel for SQLAlchemy.
    settings["debugtoolbar.panels"] = "dbpool"
    seen: list[weakref.ref[Any]] = []

    def view(request: Request) -> None:
        rows(request)
        seen.append(weakref.ref(request.db))

    web = shown(index=view)
    web.get()
    (panel,) = web.panels()
    web.web.registry.pdtb_history.clear()
    gc.collect()
    assert [each() for each in seen] == [None]
    assert panel.render_vars(None)["checkouts"][0]["by"] == "request.db"
