"""What a session of ours, a unit of work and a worker's message cost beside plain ones."""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import create_engine, select
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import QueuePool

from pyramid_dbpool import consume, dispose_engine, session_factory, unit_of_work
from pyramid_dbpool.embedded import PrivatePostgres

from .model import Figure, Run, at_most, measuring, percentile, quotient

__all__ = ["loops", "messages", "units"]

OURS = "ours"
PLAIN = "plain, QueuePool"

UNITS = 60
"""In a slice: whoever comes next finds the processor's caches full of the other's code."""

STATEMENT = select(1)


@dataclass(frozen=True)
class Side:
    """A way to do the work: `seconds(count)` does it so many times."""

    name: str
    seconds: Callable[[int], float]


def in_turn(sides: Sequence[Side], turns: int) -> dict[str, float | None]:
    """Return the microseconds for one unit of each side, the lower quartile of its slices.

    The sides take turns, each with a slice of `UNITS`, so that whatever else the machine does
    falls on all of them; the quartile leaves out most of that.
    """
    slices: dict[str, list[float]] = {side.name: [] for side in sides}
    for side in sides:
        side.seconds(UNITS)
    with measuring():
        for turn in range(turns):
            for side in sides if turn % 2 else reversed(sides):
                slices[side.name].append(side.seconds(UNITS) / UNITS * 1e6)
    return {name: percentile(values, 0.25) for name, values in slices.items()}


def timed(loop: Callable[[int], object]) -> Callable[[int], float]:
    """Return what times a loop of so many units."""

    def seconds(count: int) -> float:
        started = time.perf_counter()
        loop(count)
        return time.perf_counter() - started

    return seconds


# What is measured: ours, and what somebody would write without it.


def unit_sides(url: str) -> list[Side]:
    """Return `unit_of_work`, and a session that commits itself."""
    settings, engine = {"sqlalchemy.url": url}, create_engine(url, poolclass=QueuePool)

    def ours(count: int) -> None:
        for _ in range(count):
            with unit_of_work(settings) as session:
                session.execute(STATEMENT)

    def plain(count: int) -> None:
        for _ in range(count):
            with Session(engine) as session, session.begin():
                session.execute(STATEMENT)

    return [Side(PLAIN, timed(plain)), Side(OURS, timed(ours))]


def handle(_message: int, session: Session) -> None:
    """Do the least that a message can ask of a database."""
    session.execute(STATEMENT)


def message_sides(url: str) -> list[Side]:
    """Return `consume`, and a worker's loop."""
    settings, maker = (
        {"sqlalchemy.url": url},
        sessionmaker(create_engine(url, poolclass=QueuePool)),
    )

    def ours(count: int) -> float:
        # From the first message to the end of the last: what comes before is a worker's start.
        clock: list[float] = []
        consume(ticking(count, clock), handle, settings)
        return clock[-1] - clock[0]

    def plain(count: int) -> float:
        clock: list[float] = []
        session = maker()
        for message in ticking(count, clock):
            try:
                handle(message, session)
            except Exception:
                session.rollback()
                raise
            else:
                session.commit()
            finally:
                session.close()
        return clock[-1] - clock[0]

    return [Side(PLAIN, plain), Side(OURS, ours)]


def ticking(count: int, clock: list[float]) -> Iterator[int]:
    """Yield so many messages; note when the first one is wanted, and when all are done."""
    clock.append(time.perf_counter())
    yield from range(count)
    clock.append(time.perf_counter())


def loop_sides(url: str) -> list[Side]:
    """Return a loop with a session of `session_factory`, and one with a plain session."""
    settings = {"sqlalchemy.url": url}
    maker = sessionmaker(create_engine(url, poolclass=QueuePool))

    def work(session: Session, count: int) -> None:
        for _ in range(count):
            session.execute(STATEMENT)
            session.commit()
            session.close()

    return [
        Side(PLAIN, timed(lambda count: work(maker(), count))),
        Side(OURS, timed(lambda count: work(session_factory(settings), count))),
    ]


# The rows


@contextmanager
def postgres() -> Iterator[str]:
    """Yield the URL of a private PostgreSQL, on the loopback interface."""
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        PrivatePostgres(folder) as server,
    ):
        yield server.url()


@contextmanager
def sqlite() -> Iterator[str]:
    """Yield the URL of an SQLite file."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        yield f"sqlite:///{Path(folder) / 'bench.db'}"


def compared(
    run: Run, what: str, url: str, sides: Callable[[str], list[Side]], limit: float
) -> Figure:
    """Measure ours beside the plain way on a database."""
    try:
        values = in_turn(sides(url), run.choose(240, 60))
    finally:
        dispose_engine({"sqlalchemy.url": url})
    ratio = quotient(values, OURS, PLAIN)
    return Figure(what, "µs", values, f"≤ {limit} x plain", at_most(ratio, limit), ratio)


def units(run: Run) -> list[Figure]:
    """Measure `unit_of_work` with one SELECT."""
    with postgres() as url:
        return [compared(run, "unit_of_work with one SELECT, PostgreSQL", url, unit_sides, 1.1)]


def messages(run: Run) -> list[Figure]:
    """Measure a message of `consume` with one SELECT."""
    with postgres() as url:
        what = "a message of consume with one SELECT, PostgreSQL"
        return [compared(run, what, url, message_sides, 1.15)]


def loops(run: Run) -> list[Figure]:
    """Measure a loop with `session_factory`: execute, commit, close."""
    with ExitStack() as stack:
        what = "session_factory: execute, commit, close"
        urls = {
            "PostgreSQL": stack.enter_context(postgres()),
            "SQLite": stack.enter_context(sqlite()),
        }
        return [
            compared(run, f"{what}, {name}", url, loop_sides, 1.1) for name, url in urls.items()
        ]
