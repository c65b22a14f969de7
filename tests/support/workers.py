"""What the tests of the worker share: a table, a worker that keeps books, a network that cuts."""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

from sqlalchemy import Engine, Integer, String, create_engine, make_url, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.pool import NullPool

from pyramid_dbpool import get_engine
from pyramid_dbpool.worker.loop import consume
from tests.support.servers.ports import deaf_port

# What the log says of a message's first try.
TRIED = "try 1 of 5"
# For the wait that comes after the pool's own: as soon as the outage is known, however slowly.
NO_GRACE = {"dbpool.outage_grace": "0"}
# Where it is the pool, or the server, that is full. What is to succeed must not open anything.
IMPATIENT = {"sqlalchemy.pool_timeout": "100ms"}


class Base(DeclarativeBase):
    pass


class Done(Base):
    """What a handler stores of a message."""

    __tablename__ = "done"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    message: Mapped[str] = mapped_column(String(40))


def store(message: Any, session: Session) -> None:
    """Handle a message."""
    session.add(Done(message=str(message)))


def outside(settings: dict[str, Any]) -> Engine:
    """Return an engine without a pool, so that the tests' own work is not the worker's."""
    url = make_url(settings["sqlalchemy.url"])
    if url.get_driver_name() == "mysqlconnector":
        # Its C extension keeps the GIL while it waits, and a proxy in this process waits for that.
        url = url.update_query_dict({"use_pure": "true"})
    return create_engine(url, poolclass=NullPool)


class Broken(Exception):
    """What the tests' handlers raise."""


def broken_at(*bad: Any) -> Callable[[Any, Session], None]:
    """Return a handler that stores each message, then fails at some."""

    def handle(message: Any, session: Session) -> None:
        store(message, session)
        session.flush()
        if message in bad:
            raise Broken(message)

    return handle


def ask(message: Any, session: Session) -> None:
    """Handle a message without storing anything."""
    session.execute(text("SELECT 1"))


class Worker:
    """Runs `consume` and remembers what became of each message."""

    has_tables = True

    def __init__(self, url: str, **settings: Any) -> None:
        self.settings = {"sqlalchemy.url": url, **settings}
        self.acked: list[Any] = []
        self.failed: list[tuple[Any, Exception]] = []
        if self.has_tables:
            Base.metadata.create_all(outside(self.settings))

    def __repr__(self) -> str:
        return f"<Worker acked={self.acked} failed={self.failed}>"

    def run(self, messages: Any, handle: Callable[..., object] = store, **options: Any) -> None:
        """Consume the messages to their end."""
        options = {"ack": self.acked.append, "on_error": self._fail} | options
        consume(messages, handle, self.settings, **options)

    def start(self, *args: Any, **options: Any) -> threading.Thread:
        """Consume in a thread."""
        thread = threading.Thread(target=self.run, args=args, kwargs=options, daemon=True)
        thread.start()
        return thread

    def stored(self) -> list[str]:
        """Return the messages that are in the database."""
        with Session(outside(self.settings)) as session:
            return list(session.scalars(select(Done.message).order_by(Done.id)))

    def checked_out(self) -> int:
        """Return how many connections of the worker's pool are in use."""
        return get_engine(self.settings).pool.checkedout()  # type: ignore[attr-defined,no-any-return]

    def end_backends(self) -> None:
        """End the worker's connections, as an administrator or a firewall does."""
        url = make_url(self.settings["sqlalchemy.url"])
        with outside(self.settings).connect() as connection:
            if url.get_backend_name() == "postgresql":
                connection.execute(text(END_POSTGRES))
                return
            ids = connection.scalars(text(OTHERS_MYSQL)).all()
            for number in ids:
                connection.execute(text(f"KILL {number}"))
            while connection.scalars(text(OTHERS_MYSQL)).all():
                pass

    def _fail(self, message: Any, error: Exception) -> None:
        self.failed.append((message, error))


class Lost(Worker):
    """A worker whose database is not there."""

    has_tables = False


def without_server() -> Worker:
    """Return a worker whose server is not there."""
    return Lost(f"postgresql+psycopg://x@127.0.0.1:{deaf_port()}/x", **NO_GRACE)


END_POSTGRES = """
SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
OTHERS_MYSQL = """
SELECT id FROM information_schema.processlist WHERE db = database() AND id <> connection_id()
"""


class LogWatch(logging.Handler):
    """Lets a test wait until something is logged."""

    def __init__(self, *texts: str) -> None:
        super().__init__()
        self.seen = {text: threading.Event() for text in texts}

    def emit(self, record: logging.LogRecord) -> None:
        """Note the record."""
        for said, event in self.seen.items():
            if said in record.getMessage():
                event.set()

    def wait(self, said: str) -> None:
        """Wait until `said` is logged."""
        assert self.seen[said].wait(60), f"never logged: {said}"


@contextlib.contextmanager
def log_watch(*texts: str) -> Iterator[LogWatch]:
    """Watch the package's log."""
    watch, logger = LogWatch(*texts), logging.getLogger("pyramid_dbpool")
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(watch)
    yield watch
    logger.removeHandler(watch)
    logger.setLevel(level)


def ended_within(thread: threading.Thread, seconds: float) -> bool:
    """Tell whether the thread ends in time; see `within`."""
    return within(seconds, lambda: not thread.is_alive())


def within(seconds: float, condition: Callable[[], object]) -> bool:
    """Tell whether the condition comes to hold in so many seconds.

    They are counted in short pauses: where a busy machine makes all threads late, these are too.
    """
    pause = threading.Event()
    for _ in range(round(seconds * 100)):
        if condition():
            return True
        pause.wait(0.01)
    return False


def pumps() -> list[threading.Thread]:
    """Return the threads in which `consume` asks iterators for messages."""
    return [thread for thread in threading.enumerate() if thread.name == "dbpool-messages"]
