"""A Pyramid app for the tests of the web side: a counter of rows, and views that tests add."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pyramid.config import Configurator
from pyramid.request import Request
from pyramid.response import Response
from sqlalchemy import create_engine, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.pool import NullPool, QueuePool
from webtest import TestApp

from pyramid_dbpool import ManagedPool, dispose_engine, get_engine
from pyramid_dbpool.engines.registry import live_engines

View = Callable[[Request], Any]

TM = ("pyramid_dbpool", "pyramid_tm")
PARTS = ("pyramid_retry", "pyramid_tm", "pyramid_dbpool")


class Base(DeclarativeBase):
    pass


class Row(Base):
    __tablename__ = "rows"

    id: Mapped[int] = mapped_column(primary_key=True)


class TwoPhaseSession(Session):
    """A session that prepares before it commits."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "twophase": True})


class WebApp:
    """An app on a fresh database."""

    def __init__(self, config: Configurator) -> None:
        self.router = config.make_wsgi_app()
        self.registry = config.registry
        self.engine = get_engine(config.registry.settings)
        self.client = TestApp(self.router)

    @property
    def pool(self) -> ManagedPool:
        """The default pool."""
        assert isinstance(self.engine.pool, ManagedPool)
        return self.engine.pool

    def get(self, path: str = "/", **kwargs: Any) -> Any:
        return self.client.get(path, **kwargs)

    def checked_out(self) -> int:
        """Count the connections of every pool of this process that are checked out."""
        pools = [engine.pool for _name, engine in live_engines()]
        return sum(pool.checkedout() for pool in pools if isinstance(pool, QueuePool))


@contextmanager
def database(url: str) -> Iterator[Callable[[], int]]:
    """Make the table; yield what counts its rows, on a connection outside of any pool."""
    engine = create_engine(url, poolclass=NullPool)
    # Whether it is there already, nobody need ask: the database is new.
    Base.metadata.create_all(engine, checkfirst=False)

    def count() -> int:
        with Session(engine) as session:
            return session.scalar(select(func.count()).select_from(Row)) or 0

    yield count


@contextmanager
def app(settings: dict[str, Any], *parts: Any, **views: View) -> Iterator[WebApp]:
    """Build an app of `parts` (what config.include takes) and views by route name.

    A view's route is its name; `index` is at `/`.
    """
    config = Configurator(settings=settings)
    for part in parts:
        config.include(part)
    for name, view in views.items():
        config.add_route(name, "/" if name == "index" else f"/{name}")
        config.add_view(answering(view), route_name=name)
    try:
        yield WebApp(config)
    finally:
        pools = [key.removesuffix(".url") for key in settings if key.endswith(".url")]
        for pool in pools:
            dispose_engine(settings, pool.partition(".")[2] or "default")


def answering(view: View) -> View:
    """Let a view return text, or nothing."""

    def wrapped(request: Request) -> Any:
        answer = view(request)
        if isinstance(answer, Response):
            return answer
        return Response(text=str(answer if answer is not None else "ok"))

    return wrapped
