"""What a request costs beside pyramid_tm's and pyramid_retry's own, with a SELECT and without."""

import gc
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import zope.sqlalchemy
from pyramid.config import Configurator
from pyramid.request import Request
from pyramid.response import Response
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session, sessionmaker

from pyramid_dbpool import dispose_engine
from pyramid_dbpool.embedded import PrivatePostgres

from .model import Figure, Run, Samples, at_most, measuring, percentile, quotient

__all__ = ["requests"]

ALONE = "pyramid_tm + pyramid_retry"
PATTERN = "the usual pattern"
OURS = "pyramid_dbpool"

SLICES = 40
"""Turns that each app has in a round."""

SELECT = text("SELECT 1")


class App:
    """A WSGI app whose answers are made beforehand, so that no time goes into making them."""

    def __init__(self, name: str, config: Configurator) -> None:
        self.name = name
        answer = Response(b"ok")

        def quiet(_request: Request) -> Response:
            return answer

        def select(request: Request) -> Response:
            request.db.scalar(SELECT)
            return answer

        for route, view in (("quiet", quiet), ("select", select)):
            config.add_route(route, f"/{route}")
            config.add_view(view, route_name=route)
        self._router = config.make_wsgi_app()

    def seconds_for(self, path: str, count: int) -> float:
        """Time so many requests."""
        asked = Request.blank(path).environ
        environs = [dict(asked) for _ in range(count)]
        router = self._router
        started = time.perf_counter()
        for environ in environs:
            router(environ, _start_response)
        return time.perf_counter() - started


def _start_response(status: str, _headers: object, _exc_info: object = None) -> None:
    # An app that answers with an error must not be the fastest.
    if status != "200 OK":
        raise RuntimeError(status)


def configurator(settings: dict[str, Any] | None = None) -> Configurator:
    """Begin an app as the cookiecutter's: each request has a transaction manager of its own."""
    explicit = {"tm.manager_hook": "pyramid_tm.explicit_manager"}
    config = Configurator(settings={**explicit, **(settings or {})})
    config.include("pyramid_tm")
    config.include("pyramid_retry")
    return config


def add_usual_pattern(config: Configurator, factory: sessionmaker[Session]) -> None:
    """Give requests `request.db` as the cookiecutter's ``models/__init__.py`` does."""

    def db(request: Request) -> Session:
        session: Session | None = request.environ.get("app.dbsession")
        if session is None:
            session = factory(info={"request": request})
            zope.sqlalchemy.register(session, transaction_manager=request.tm)
        return session

    config.registry["dbsession_factory"] = factory
    config.add_request_method(db, "db", reify=True)


@contextmanager
def apps(url: str) -> Iterator[list[App]]:
    """Make the three apps, on one server."""
    with ExitStack() as stack:
        engine = create_engine(url)
        stack.callback(engine.dispose)
        pattern = configurator()
        add_usual_pattern(pattern, sessionmaker(bind=engine))
        settings = {"sqlalchemy.url": url}
        ours = configurator(settings)
        ours.include("pyramid_dbpool")
        stack.callback(dispose_engine, settings)
        yield [App(ALONE, configurator()), App(PATTERN, pattern), App(OURS, ours)]


def interleaved(
    peers: Sequence[App], path: str, rounds: int, count: int
) -> dict[str, float | None]:
    """Return each app's median over `rounds` of the microseconds for one request.

    In a round every app has `SLICES` slices of `count` requests in turn with the others; the
    lower quartile stands for the round, because what else the machine does only adds.
    """
    samples = Samples()
    for peer in peers:
        peer.seconds_for(path, count)
    for turn in range(rounds):
        start = turn % len(peers)
        order = [*peers[start:], *peers[:start]]
        slices: dict[str, list[float]] = {peer.name: [] for peer in peers}
        with measuring(), without_what_is_there():
            for _ in range(SLICES):
                for peer in order:
                    slices[peer.name].append(peer.seconds_for(path, count) / count * 1e6)
                    # Pyramid makes a class for each request, which nothing else takes away.
                    gc.collect()
        for name, values in slices.items():
            samples.add(name, percentile(values, 0.25))
    return samples.medians()


@contextmanager
def without_what_is_there() -> Iterator[None]:
    """Keep what is there from the full collections inside the block."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def requests(run: Run) -> list[Figure]:
    """Measure one thread on a private PostgreSQL, connections warm."""
    rounds, count = run.choose(9, 3), run.choose(100, 40)
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-"))
        url = stack.enter_context(PrivatePostgres(folder)).url()
        peers = stack.enter_context(apps(url))
        quiet = interleaved(peers, "/quiet", rounds, count)
        select = interleaved(peers[1:], "/select", rounds, count)
    return [
        figure("a request that asks no database", quiet, ALONE, 1.15),
        figure("a request with one SELECT, PostgreSQL on loopback", select, PATTERN, 1.0),
    ]


def figure(what: str, values: dict[str, float | None], peer: str, limit: float) -> Figure:
    """Judge what our requests take against a peer's."""
    ratio = quotient(values, OURS, peer)
    target = f"ours ≤ {limit:g} x {peer}"
    return Figure(what, "µs", values, target, at_most(ratio, limit), ratio)
