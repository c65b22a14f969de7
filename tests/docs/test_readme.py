"""The code of README.rst and docs/ runs; their settings tables are what the declaration says."""

import configparser
import io
import json
import logging
import logging.config
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import transaction
from docutils.core import publish_doctree
from docutils.nodes import entry, literal_block, reference, row, system_message, table
from pyramid.config import Configurator
from sqlalchemy import text
from sqlalchemy.exc import InternalError
from webtest import TestApp

from pyramid_dbpool import (
    CommitUnknown,
    DatabaseUnavailable,
    PoolLineFull,
    PoolTimeout,
    deadline,
    dispose_engine,
    get_engine,
    session_factory,
    unit_of_work,
)
from pyramid_dbpool.events import Kind
from pyramid_dbpool.pool.labels import holder_label
from pyramid_dbpool.settings import reference as settings_table
from pyramid_dbpool.settings.reference import COMMON

ROOT = Path(__file__).parents[2]
README = ROOT / "README.rst"
DOCS = sorted(ROOT.glob("docs/*.rst"))
# Its code is that of other apps: `test_ways_over` runs it.
WAYS_OVER = ROOT / "docs/ways_over.rst"
OTHERS = [ROOT / "CHANGES.rst", *ROOT.glob("*/README.rst")]
TABLE = re.compile(r"(?<=settings begin \(make docs\)\n).*(?=\.\. settings end)", re.DOTALL)


def read(path: Path) -> Any:
    """Return a text as docutils reads it."""
    return publish_doctree(
        path.read_text(), source_path=str(path), settings_overrides={"report_level": 5}
    )


def name_of(path: Path) -> str:
    """Name a text in a test's id."""
    return str(path.relative_to(ROOT))


@pytest.fixture(scope="module")
def documents() -> list[Any]:
    """The README, then docs/, whose code goes on where the README's ends."""
    return [read(path) for path in (README, *DOCS) if path != WAYS_OVER]


def blocks(documents: list[Any], language: str) -> list[str]:
    found = [block for document in documents for block in document.findall(literal_block)]
    return [str(block.astext()) for block in found if language in block["classes"]]


@pytest.fixture
def settings(documents: list[Any], psycopg_url: str) -> Iterator[dict[str, str]]:
    """What the ini blocks say, on databases that exist."""
    parser = configparser.ConfigParser()
    for block in blocks(documents, "ini"):
        parser.read_string(block if block.startswith("[") else f"[app:main]\n{block}")
    made = dict(parser["app:main"])
    del made["use"]
    for key in [key for key in made if key.endswith("url")]:
        assert made[key].startswith("postgresql+psycopg://")
        made[key] = psycopg_url
    yield made
    for name in ("default", "replica"):
        assert get_engine(made, name).pool.checkedout() == 0  # type: ignore[attr-defined]
        dispose_engine(made, name)


@pytest.fixture
def code(
    documents: list[Any],
    settings: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> dict[str, Any]:
    """What the Python blocks define, run one after the other as one module."""
    module = ModuleType("notes")
    # Pyramid looks up the module that it is called from, and so does the ini file.
    monkeypatch.setitem(sys.modules, "notes", module)
    names = vars(module)
    names["log"] = logging.getLogger("notes")
    for block in blocks(documents, "python"):
        exec(compile(block, str(README), "exec"), names)
    ini = tmp_path / "notes.ini"
    lines = [f"{key} = {value.replace('%', '%%')}" for key, value in settings.items()]
    indented = [line.replace("\n", "\n    ") for line in lines]
    ini.write_text("\n".join(["[app:main]", "use = call:notes:main", *indented]))
    names["create_tables"](str(ini))
    return names


@pytest.fixture
def psycopg2_callback() -> Iterator[None]:
    """Take a wait callback back: it is the process's."""
    extensions = pytest.importorskip("psycopg2.extensions")
    yield
    extensions.set_wait_callback(None)


def include_all(config: Configurator) -> None:
    """Do as the README's `main` does."""
    for part in ("pyramid_retry", "pyramid_tm", "pyramid_dbpool"):
        config.include(part)


@pytest.mark.parametrize("path", [README, *DOCS, *OTHERS], ids=name_of)
def test_a_text_is_valid(path: Path) -> None:
    """docutils has nothing to say about it, and what it links to is there."""
    document = read(path)
    assert [message.astext() for message in document.findall(system_message)] == []
    links = [link["refuri"] for link in document.findall(reference) if "refuri" in link]
    assert [link for link in links if not (path.parent / link).is_file()] == []


@pytest.mark.parametrize("path", [README, *DOCS], ids=name_of)
def test_no_row_of_a_table_is_cut(path: Path) -> None:
    """Only list-tables: a simple one makes a row of each line of a first cell that is wrapped."""
    assert re.findall(r"^=+ +=+", path.read_text(), re.MULTILINE) == []
    rows = [found for each in read(path).findall(table) for found in each.findall(row)]
    assert all(next(found.findall(entry)).astext() for found in rows)


@pytest.mark.parametrize(
    "path, table",
    [(README, settings_table(COMMON)), (ROOT / "docs/settings.rst", settings_table())],
    ids=["README", "docs"],
)
def test_a_settings_table_is_the_declaration(path: Path, table: str) -> None:
    """`make docs` writes it."""
    (found,) = TABLE.findall(path.read_text())
    assert found.strip() == table.strip()


def test_the_app_serves(code: dict[str, Any], settings: dict[str, str]) -> None:
    """Its views write, read and stream."""
    client = TestApp(code["main"]({}, **settings))
    assert client.post_json("/notes", {"text": "first"}).json == {"id": 1}
    assert client.get("/notes").json == ["first"]

    config = Configurator(settings=settings)
    config.include(include_all)
    config.add_route("export", "/export")
    config.add_view(code["export"], route_name="export")
    assert TestApp(config.make_wsgi_app()).get("/export").text == "1,first\n"


def test_the_app_says_whether_it_is_ready(code: dict[str, Any], settings: dict[str, str]) -> None:
    """On the path of the ini block."""
    client = TestApp(code["main"]({}, **settings))
    client.get("/notes")
    assert client.get("/ready").text.startswith("default: ready\n")


def test_a_get_reads_from_the_replica(
    code: dict[str, Any], settings: dict[str, str], new_database: Any
) -> None:
    """Views stay as they are; what has no request, or another method, has the first pool."""
    other = settings | {
        "sqlalchemy.replica.url": new_database("postgresql+psycopg"),
        "dbpool.session_class": "notes.RoutedSession",
    }
    replica = get_engine({"sqlalchemy.url": other["sqlalchemy.replica.url"]})
    code["Base"].metadata.create_all(replica)

    def writes(request: Any) -> None:
        request.db.add(code["Note"](text="by a GET"))

    config = Configurator(settings=other)
    config.include(include_all)
    config.add_route("notes", "/notes")
    config.add_view(code["add_note"], route_name="notes", request_method="POST", renderer="json")
    config.add_view(code["list_notes"], route_name="notes", request_method="GET", renderer="json")
    config.add_route("writes", "/writes")
    config.add_view(writes, route_name="writes", renderer="json")
    client = TestApp(config.make_wsgi_app())

    client.post_json("/notes", {"text": "first"})
    assert client.get("/notes").json == [], "the replica is behind"
    with replica.begin() as connection:
        connection.execute(text("INSERT INTO note (text) VALUES ('copied')"))
    assert client.get("/notes").json == ["copied"]
    with pytest.raises(InternalError, match="read-only transaction"):
        client.get("/writes")
    with unit_of_work(other) as session:
        assert session.scalars(text("SELECT text FROM note")).all() == ["first"]
    for name in ("default", "replica"):
        assert get_engine(other, name).pool.checkedout() == 0  # type: ignore[attr-defined]
        dispose_engine(other, name)
    dispose_engine({"sqlalchemy.url": other["sqlalchemy.replica.url"]})


@pytest.mark.parametrize("error", [PoolTimeout, PoolLineFull, DatabaseUnavailable])
def test_exclog_leaves_a_503_to_our_line(
    code: dict[str, Any],
    settings: dict[str, str],
    caplog: pytest.LogCaptureFixture,
    error: type[Exception],
) -> None:
    """With the setting of the ini block."""

    def refused(request: Any) -> None:
        raise error("away", None, OSError()) if error is DatabaseUnavailable else error("full")

    config = Configurator(settings=settings)
    config.include(include_all)
    config.include("pyramid_exclog")
    config.add_route("refused", "/")
    config.add_view(refused, route_name="refused")
    TestApp(config.make_wsgi_app()).get("/", status=503)
    assert [each.name for each in caplog.records] == ["pyramid_dbpool.web.incidents"]


@pytest.mark.parametrize(
    "error, status, said",
    [
        (PoolTimeout("full"), 503, "busy"),
        (CommitUnknown(None), 500, "It may or may not be stored: look before you send it again."),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_app_answers_by_itself(
    code: dict[str, Any],
    settings: dict[str, str],
    caplog: pytest.LogCaptureFixture,
    *,
    error: Exception,
    status: int,
    said: str,
) -> None:
    """Its own view takes the place of the 503, and of the server's 500; the log is written."""

    def refused(request: Any) -> None:
        raise error

    config = Configurator(settings=settings)
    config.include(include_all)
    config.include(code["include_answers"])
    config.add_route("refused", "/")
    config.add_view(refused, route_name="refused", request_method="POST")
    answer = TestApp(config.make_wsgi_app()).post("/", status=status)
    assert answer.json == {"error": said}
    assert answer.headers.get("Retry-After") == ("1" if status == 503 else None)
    assert [each.name for each in caplog.records] == ["pyramid_dbpool.web.incidents"]


def test_the_worker_works(code: dict[str, Any], settings: dict[str, str]) -> None:
    """The loop by hand, the unit of work, and consume."""
    # The first one fails at its flush, which is the commit's, and the loop goes on.
    messages = [{"id": 0, "text": None}, {"id": 1, "text": "by hand"}]
    code["process_work_queue"](settings, messages, session_factory)
    assert code["count_notes"](settings) == 1

    acknowledged: list[Any] = []
    broker = SimpleNamespace(ack=acknowledged.append, reject=pytest.fail)
    code["run_worker"](settings, iter([{"id": 2, "text": "consumed"}]), broker)
    assert [message["id"] for message in acknowledged] == [2]
    assert code["count_notes"](settings) == code["count_notes_quickly"](settings) == 2
    code["clean"](settings)
    assert code["count_notes"](settings) == 2


def test_a_test_supplies_its_session(code: dict[str, Any], settings: dict[str, str]) -> None:
    """As the cookiecutter's tests do."""
    client = TestApp(code["main"]({}, **settings))
    manager = transaction.TransactionManager(explicit=True)
    manager.begin()
    session = code["session_of_a_test"](client.app, manager)
    environ = {"app.dbsession": session, "tm.active": True, "tm.manager": manager}
    client.post_json("/notes", {"text": "in a test"}, extra_environ=environ)
    assert client.get("/notes", extra_environ=environ).json == ["in a test"]
    manager.abort()
    assert client.get("/notes").json == []


def test_a_view_parts_with_its_connection(
    code: dict[str, Any], settings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it waits for another service, none is checked out; its change is stored."""
    pool: Any = get_engine(settings).pool
    held: list[int] = []

    def slow_service(text: str) -> str:
        held.append(pool.checkedout())
        return text.upper()

    monkeypatch.setitem(code, "slow_service", slow_service)
    config = Configurator(settings=settings)
    config.include(include_all)
    config.add_route("translate", "/{id}")
    config.add_view(code["translate"], route_name="translate", renderer="json")
    client = TestApp(code["main"]({}, **settings))
    client.post_json("/notes", {"text": "hello"})
    TestApp(config.make_wsgi_app()).post("/1")
    assert (held, client.get("/notes").json) == ([0], ["HELLO"])


@pytest.mark.programs
def test_a_private_server_is_for_tests(code: dict[str, Any], tmp_path: Path) -> None:
    """It is there inside the block."""
    with code["settings_of_a_test"](tmp_path) as made:
        with unit_of_work(made) as session:
            assert session.scalar(text("SELECT 1")) == 1
        dispose_engine(made)


def test_psycopg2_lets_greenlets_run(
    code: dict[str, Any], settings: dict[str, str], psycopg2_callback: None
) -> None:
    """Once the app has set its wait callback."""
    code["let_greenlets_run"]()
    made = {
        "sqlalchemy.url": settings["sqlalchemy.url"].replace("+psycopg:", "+psycopg2:"),
    }
    assert code["count_notes"](made) == 0
    dispose_engine(made)


def test_the_pool_can_be_taken_alone(code: dict[str, Any], settings: dict[str, str]) -> None:
    """With SQLAlchemy's defaults, and with the plugin's."""
    for make in (code["plain_engine"], code["managed_engine"]):
        engine = make(settings["sqlalchemy.url"])
        with engine.connect() as connection:
            assert connection.exec_driver_sql("SELECT 1").scalar() == 1
        engine.dispose()


def test_a_pool_is_told_what_to_do(code: dict[str, Any], settings: dict[str, str]) -> None:
    """By the functions of the page about it."""
    engine = code["managed_engine"](settings["sqlalchemy.url"])
    engine.connect().close()
    code["after_a_failover"](engine)
    code["before_the_rush"](engine)
    assert (engine.pool.size(), engine.pool.snapshot().closed) == (10, {"retired": 1})
    paused = list[bool]()
    code["maintain"](engine, lambda: paused.append(engine.pool.paused))
    assert (paused, engine.pool.paused) == ([True], False)
    engine.dispose()


def test_the_second_pool_is_read_only(code: dict[str, Any], settings: dict[str, str]) -> None:
    """As the ini block says."""
    with session_factory(settings, "replica") as session:
        session.add(code["Note"](text="refused"))
        with pytest.raises(Exception, match="read-only"):
            session.flush()


def test_a_log_of_json_has_the_fields(
    code: dict[str, Any], settings: dict[str, str], documents: list[Any]
) -> None:
    """As the standard library alone writes them, set up with the words of the ini file."""
    (ini,) = (each for each in blocks(documents, "ini") if "[formatter_json]" in each)
    keys = "[loggers]\nkeys = root\n[handlers]\nkeys = console\n[formatters]\nkeys = json\n"
    parser = configparser.ConfigParser()
    parser.read_string(f"{keys}[logger_root]\nlevel = INFO\nhandlers = console\n{ini}")
    root, stream = logging.getLogger(), io.StringIO()
    before = root.level, root.handlers[:]
    try:
        logging.config.fileConfig(parser, disable_existing_loggers=False)
        (handler,) = root.handlers
        assert isinstance(handler, logging.StreamHandler)
        handler.setStream(stream)
        other = settings | {"sqlalchemy.pool_size": "1", "sqlalchemy.max_overflow": "0"}
        get_engine(settings)
        engine = get_engine(other)
        with holder_label("GET /slow"), engine.connect(), deadline(0):
            try:
                engine.connect()
            except PoolTimeout as error:
                logging.getLogger("notes").exception("no connection", extra=dict(error.fields))
        dispose_engine(other)
    finally:
        root.setLevel(before[0])
        root.handlers[:] = before[1]
    second, refused = (json.loads(line) for line in stream.getvalue().splitlines())
    assert second["dbpool_event"] == "second_engine"
    assert second["dbpool_pool"] == "default"
    assert "sqlalchemy.pool_size" in second["dbpool_settings"]
    assert second["message"].startswith("pool 'default': a second engine for the same URL")
    assert (refused["holder"], refused["in_use"]) == ("GET /slow", 1)
    assert "PoolTimeout" in refused["exception"]


def test_each_kind_of_event_is_in_the_table() -> None:
    """Whoever sets a rule up finds it there."""
    page = (ROOT / "docs/windows.rst").read_text()
    table = page[page.index("``dbpool_event``\n") :]
    assert [kind for kind in Kind if f"``{kind}``" not in table] == []
