"""No password, token or bound parameter is in anything that anybody is shown.

One story has everything happen to a pool that is told of. Each window is one of `WINDOWS`: what it
shows at the moments of the story is looked through. A new window adds a function there.
"""

import gc
import io
import json
import logging
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import CollectorRegistry, generate_latest
from pyramid.request import Request
from sqlalchemy import Engine, make_url, text
from sqlalchemy.orm import Session

from pyramid_dbpool import (
    DatabaseUnavailable,
    ManagedPool,
    PoolTimeout,
    deadline,
    dispose_engine,
    get_engine,
)
from pyramid_dbpool.cli.pdbpool import main
from pyramid_dbpool.embedded import PrivatePostgres
from pyramid_dbpool.events import Kind, recent
from pyramid_dbpool.opentelemetry import instrument
from pyramid_dbpool.pool import checkout
from pyramid_dbpool.prometheus import PoolCollector
from pyramid_dbpool.status import page
from pyramid_dbpool.status.source import Source
from pyramid_dbpool.telemetry import server as servers
from pyramid_dbpool.telemetry.report import process_report
from tests.support.happened import Happened
from tests.support.makers import wait_for
from tests.support.webapp import PARTS, WebApp, app
from tests.support.workers import Lost

# Where each of them is, and what may be seen of it nowhere.
SECRETS = {
    "the password": "Passw0rd1n",
    "a token in the URL's query": "Qu3ryT0ken",
    "connect_args": "C0nnectArg",
    "a bound parameter": "B0undValue",
    "a message": "M3ssageBody",
}

HELD_TEXT = text("SELECT CAST(:value AS text)").bindparams(value=SECRETS["a bound parameter"])


def in_report(engine: Engine) -> str:
    """What the process answers to whoever asks it: pages, `pdbpool` and metrics show that."""
    return json.dumps(process_report())


def in_view(engine: Engine) -> str:
    """What a program is told of its pool. SQLAlchemy shows an engine's URL in its own way."""
    assert isinstance(engine.pool, ManagedPool)
    return f"{engine.pool.view()} {engine.pool.snapshot()} {engine.pool.status()} {engine.pool!r}"


def in_events(engine: Engine) -> str:
    """What has happened, with its fields."""
    return " ".join(f"{each.text} {dict(each.fields)}" for each in recent())


def in_page(engine: Engine) -> str:
    """The live page, as HTML and as its script gets it, of all processes that answer."""
    return " ".join(
        page.document(overview, "/dbpool", may_command=True, still=False, said="")
        + json.dumps([page.content(overview, "/dbpool", may_command=True), page.numbers(overview)])
        for overview in (Source(str(PLACES.run_dir)).overview(), Source(None).overview())
    )


def in_prometheus(engine: Engine) -> str:
    """What is scraped."""
    registry = CollectorRegistry()
    registry.register(PoolCollector({"dbpool.run_dir": str(PLACES.run_dir)}))
    return generate_latest(registry).decode()


def in_opentelemetry(engine: Engine) -> str:
    """What a reader collects, with all attributes."""
    data = PLACES.reader.get_metrics_data()
    assert data is not None
    return str(data.to_json())


def in_pdbpool(engine: Engine) -> str:
    """What the commands print, beside their errors."""
    asking = [["top"], ["stacks"], ["events"], ["refresh"], ["resize", "--size", "1"]]
    files = [["check"], ["show"]]
    said = [
        printed(*command, str(PLACES.ini), "--format", form)
        for command in asking + files
        for form in ("plain", "json")
    ]
    return "\n".join(said)


def printed(*arguments: str) -> str:
    """Run the command in this process, and return all that it prints."""
    out = io.StringIO()
    with redirect_stdout(out), redirect_stderr(out):
        code = main(arguments)
    assert code in (0, 1), out.getvalue()
    return out.getvalue()


WINDOWS: list[Callable[[Engine], str]] = [
    in_report,
    in_view,
    in_events,
    in_page,
    in_prometheus,
    in_opentelemetry,
    in_pdbpool,
]


class Places:
    """Where the windows look: the app's ini file, its folder, and OpenTelemetry's reader."""

    ini: Path
    run_dir: Path
    reader: InMemoryMetricReader


PLACES = Places()


class Shown:
    """Looks through all that is shown."""

    def __init__(self) -> None:
        self.looks = 0

    def __call__(self, where: str, said: str) -> None:
        """Look through one thing that is shown."""
        self.looks += 1
        for name, secret in SECRETS.items():
            assert secret not in said, f"{name} is in {where}: {said}"

    def error(self, error: BaseException) -> None:
        """Look through an error as a log or Sentry shows it."""
        # With its causes, as `logging` writes them.
        lines = "".join(traceback.format_exception_only(error))
        fields = getattr(error, "fields", {})
        self(type(error).__name__, f"{lines} {error!r} {error} {dict(fields)}")

    def windows(self, engine: Engine) -> None:
        """Look into each window."""
        for window in WINDOWS:
            self(window.__name__, window(engine))

    def record(self, record: logging.LogRecord) -> None:
        """Look through a line of the log, with all its fields and its traceback."""
        self(f"the log of {record.name}", json.dumps(vars(record), default=str))
        self(f"the log of {record.name}", logging.Formatter().format(record))


@pytest.fixture
def shown(caplog: pytest.LogCaptureFixture, leaks_are_logged: None) -> Iterator[Shown]:
    """Give what looks through all that is shown, and the log in the end."""
    caplog.set_level(logging.INFO)
    made = Shown()
    yield made
    for record in caplog.get_records("call"):
        made.record(record)


@pytest.fixture
def server(new_postgres: Callable[..., PrivatePostgres]) -> PrivatePostgres:
    """Start a server that wants the password."""
    return new_postgres(password=SECRETS["the password"])


@pytest.fixture
def reader() -> InMemoryMetricReader:
    """Give what collects for OpenTelemetry."""
    reader = InMemoryMetricReader()
    instrument(MeterProvider([reader], shutdown_on_exit=False))
    return reader


@pytest.fixture
def settings(
    server: PrivatePostgres,
    tmp_path: Path,
    reader: InMemoryMetricReader,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[dict[str, Any]]:
    """Give settings with a secret wherever one may be."""
    monkeypatch.setattr(checkout, "LONG_WAIT", 0.0)
    url = make_url(server.url()).update_query_dict(
        {"sslpassword": SECRETS["a token in the URL's query"]}
    )
    arguments = {"options": f"-c app.token={SECRETS['connect_args']}"}
    own = servers._Server()
    monkeypatch.setattr(servers, "_server", own)
    PLACES.ini, PLACES.run_dir, PLACES.reader = tmp_path / "notes.ini", tmp_path / "run", reader
    made = {
        "sqlalchemy.url": url.render_as_string(hide_password=False),
        "sqlalchemy.connect_args": json.dumps(arguments),
        "sqlalchemy.pool_size": "1",
        "sqlalchemy.max_overflow": "0",
        "sqlalchemy.pool_timeout": "100ms",
        "dbpool.hold_warning": "100ms",
        "dbpool.trace_checkouts": "true",
        "dbpool.readiness_route": "/ready",
        "dbpool.run_dir": str(PLACES.run_dir),
        "tm.manager_hook": "pyramid_tm.explicit_manager",
        "debugtoolbar.includes": "pyramid_dbpool.debugtoolbar",
    }
    lines = [f"{key} = {value.replace('%', '%%')}" for key, value in made.items()]
    PLACES.ini.write_text(
        "\n".join(["[app:main]", "use = call:tests.support.webapp:app", *lines, ""])
    )
    own.answer_in(str(PLACES.run_dir))
    yield made
    own.end()


@contextmanager
def notes(settings: dict[str, Any], *parts: str) -> Iterator[WebApp]:
    """Run an app whose views do what they should not."""

    def hold(request: Request) -> None:
        request.db.execute(HELD_TEXT)
        # A second connection beside the first, in a pool of one.
        Session(request.registry["sqlalchemy.engine"]).execute(HELD_TEXT)

    def drop(request: Request) -> None:
        Session(request.registry["sqlalchemy.engine"]).execute(HELD_TEXT)

    def index(request: Request) -> None:
        request.db.execute(HELD_TEXT)

    with app(settings, *parts, *PARTS, index=index, hold=hold, drop=drop) as web:
        # The toolbar shows itself to nobody else.
        web.client.extra_environ["REMOTE_ADDR"] = "127.0.0.1"
        yield web


def in_panels(web: WebApp) -> list[str]:
    """What the toolbar's panel shows of each request so far, and no other panel."""
    ids = [identifier for identifier, _toolbar in web.registry.pdtb_history]
    pages = [web.get(f"/_debug_toolbar/{each}").text for each in ids]
    return [
        page.partition('<div id="pDebugPanel-dbpool-content"')[2].partition(
            '<div id="pDebugPanel-'
        )[0]
        for page in pages
    ]


def meet_full_pool(web: WebApp, shown: Shown, happened: Happened) -> None:
    """A hold, a second connection, refusals, and a leak."""
    web.get("/hold", status=503)
    with Session(web.engine) as session:
        session.execute(HELD_TEXT)
        wait_for(lambda: happened(Kind.HELD))
        shown.windows(web.engine)
        web.get(status=503)
        with pytest.raises(PoolTimeout) as caught, deadline(0.01):
            web.engine.connect()
        shown.error(caught.value)
    wait_for(lambda: happened(Kind.RETURNED))
    web.get("/drop")
    gc.collect()
    wait_for(lambda: happened(Kind.LEAK))


def meet_failures(settings: dict[str, Any], shown: Shown) -> None:
    """A second engine, a message that cannot be handled, and a login that is refused."""
    other = settings | {"sqlalchemy.connect_args": '{"options": "-c app.token=C0nnectArg2"}'}
    get_engine(other)

    def handle(message: dict[str, str], session: Session) -> None:
        session.execute(text("SELECT :body::nonsense"), {"body": message["body"]})

    worker = Lost(settings["sqlalchemy.url"])
    worker.run([{"id": "1", "body": SECRETS["a message"]}], handle)
    for _message, error in worker.failed:
        shown.error(error)
    wrong = make_url(settings["sqlalchemy.url"]).set(username="nobody")
    refused = {"sqlalchemy.url": wrong.render_as_string(hide_password=False)}
    with pytest.raises(DatabaseUnavailable) as caught:
        get_engine(refused).connect()
    shown.error(caught.value)
    shown.windows(get_engine(refused))
    for each in (other, refused, worker.settings):
        dispose_engine(each)


def meet_outage(server: PrivatePostgres, web: WebApp, shown: Shown, happened: Happened) -> None:
    """A server that goes away, and comes back."""
    server.stop()
    web.get(status=503)
    web.get("/ready", status=503)
    wait_for(lambda: happened(Kind.OUTAGE))
    with pytest.raises(DatabaseUnavailable) as caught, web.engine.connect():
        pass
    shown.error(caught.value)
    shown.windows(web.engine)
    server.start()
    wait_for(lambda: web.client.get("/", status="*").status_code == 200)
    wait_for(lambda: happened(Kind.BACK))


@pytest.mark.programs
def test_no_secret_is_in_any_window(
    server: PrivatePostgres, settings: dict[str, Any], shown: Shown, happened: Happened
) -> None:
    """Whatever happens to a pool, and whoever looks then."""
    with notes(settings) as web:
        meet_full_pool(web, shown, happened)
        meet_failures(settings, shown)
        meet_outage(server, web, shown, happened)
        shown.windows(web.engine)
    kinds = {each.kind for each in happened(*Kind)}
    assert kinds >= {
        Kind.HELD,
        Kind.RETURNED,
        Kind.SECOND_CONNECTION,
        Kind.REFUSED,
        Kind.LEAK,
        Kind.SECOND_ENGINE,
        Kind.OUTAGE,
        Kind.BACK,
    }
    assert shown.looks > 3 * len(WINDOWS)


@pytest.mark.programs
def test_no_secret_is_in_the_panel(settings: dict[str, Any], shown: Shown) -> None:
    """By itself: the toolbar keeps what a request had, so that it has no leak."""
    with notes(settings, "pyramid_debugtoolbar") as web:
        web.get("/hold", status=503)
        web.get("/")
        panels = in_panels(web)
    assert ["test_secrets_in_windows.py" in each for each in panels] == [True, True]
    for each in panels:
        shown("the panel", each)


def test_a_secret_that_is_shown_is_found() -> None:
    """Else the test above would find none anywhere."""
    with pytest.raises(AssertionError, match="the password is in the page"):
        Shown()("the page", f"postgresql://notes:{SECRETS['the password']}@db/notes")
