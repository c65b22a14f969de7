"""The code in README.rst runs, and its settings table is what the declaration says."""

import configparser
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import transaction
from docutils.core import publish_doctree
from docutils.nodes import entry, literal_block, row, system_message, table
from pyramid.config import Configurator
from webtest import TestApp

from pyramid_dbpool import PoolTimeout, dispose_engine, get_engine, session_factory
from pyramid_dbpool.settings import reference

README = Path(__file__).parent.parent / "README.rst"
TABLE = re.compile(r"(?<=settings begin \(make docs\)\n).*(?=\.\. settings end)", re.DOTALL)


@pytest.fixture(scope="module")
def document() -> Any:
    """README.rst as docutils reads it."""
    return publish_doctree(README.read_text(), settings_overrides={"report_level": 5})


def blocks(document: Any, language: str) -> list[str]:
    found = document.findall(literal_block)
    return [str(block.astext()) for block in found if language in block["classes"]]


@pytest.fixture
def settings(document: Any, psycopg_url: str) -> Iterator[dict[str, str]]:
    """What the ini blocks say, on databases that exist."""
    parser = configparser.ConfigParser()
    for block in blocks(document, "ini"):
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
    document: Any, settings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    """What the Python blocks define, run one after the other as one module."""
    module = ModuleType("readme")
    # Pyramid looks up the module that it is called from.
    monkeypatch.setitem(sys.modules, "readme", module)
    names = vars(module)
    names["log"] = logging.getLogger("readme")
    for block in blocks(document, "python"):
        exec(compile(block, str(README), "exec"), names)
    names["create_tables"](settings)
    return names


def test_the_text_is_valid(document: Any) -> None:
    """docutils has nothing to say about it."""
    assert [message.astext() for message in document.findall(system_message)] == []


def test_no_row_of_a_table_is_cut(document: Any) -> None:
    """A simple table makes a row of its own of each line of a first cell that is wrapped."""
    tables = [
        [next(each.findall(entry)).astext() for each in found.findall(row)]
        for found in document.findall(table)
    ]
    # Requests, an outage, errors, the example app; the settings have a test of their own.
    written = [firsts for firsts in tables if firsts[0] != "Setting"]
    assert [len(firsts) for firsts in written] == [7, 9, 10, 8]
    assert {"The server is away", "After the last finished callback"} < {*written[0], *written[1]}
    assert all(first for firsts in written for first in firsts)


def test_the_settings_table_is_the_declaration(document: Any) -> None:
    """`make docs` writes it."""
    (table,) = TABLE.findall(README.read_text())
    assert table.strip() == reference().strip()


def test_the_app_serves(code: dict[str, Any], settings: dict[str, str]) -> None:
    """Its views write, read and stream."""
    client = TestApp(code["main"]({}, **settings))
    assert client.post_json("/notes", {"text": "first"}).json == {"id": 1}
    assert client.get("/notes").json == ["first"]

    config = Configurator(settings=settings)
    config.include(code["includeme"])
    config.add_route("export", "/export")
    config.add_view(code["export"], route_name="export")
    assert TestApp(config.make_wsgi_app()).get("/export").text == "1,first\n"


def test_the_app_says_whether_it_is_ready(code: dict[str, Any], settings: dict[str, str]) -> None:
    """On the path of the ini block."""
    client = TestApp(code["main"]({}, **settings))
    client.get("/notes")
    assert client.get("/ready").text.startswith("default: ready\n")


def test_an_app_answers_overload_by_itself(code: dict[str, Any], settings: dict[str, str]) -> None:
    """Its own view takes the place of the 503."""

    def refused(request: Any) -> None:
        raise PoolTimeout("full")

    config = Configurator(settings=settings)
    config.include(code["includeme"])
    config.include(code["include_busy"])
    config.add_route("refused", "/")
    config.add_view(refused, route_name="refused")
    assert TestApp(config.make_wsgi_app()).get("/", status=503).json == {"error": "busy"}


def test_a_script_finds_the_settings(
    code: dict[str, Any], settings: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the ini file, as strings."""
    found: list[dict[str, Any]] = []
    monkeypatch.setitem(code, "create_tables", found.append)
    lines = [f"{key} = {value}" for key, value in settings.items()]
    ini = tmp_path / "development.ini"
    ini.write_text("\n".join(["[app:main]", "use = call:pyramid.config:Configurator", *lines]))
    code["script"](str(ini))
    assert {key: found[0][key] for key in settings} == settings


def test_the_worker_works(code: dict[str, Any], settings: dict[str, str]) -> None:
    """The loop by hand, the unit of work, and consume."""
    code["process_work_queue"](settings, [{"id": 1, "text": "by hand"}], session_factory)
    assert code["count_notes"](settings) == 1

    acknowledged: list[Any] = []
    broker = SimpleNamespace(ack=acknowledged.append, reject=pytest.fail)
    code["run_worker"](settings, iter([{"id": 2, "text": "consumed"}]), broker)
    assert [message["id"] for message in acknowledged] == [2]
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
    assert code["engine_of_a_test"](settings) is get_engine(settings)


def test_the_pool_can_be_taken_alone(code: dict[str, Any], settings: dict[str, str]) -> None:
    """With SQLAlchemy's defaults, and with the plugin's."""
    for make in (code["plain_engine"], code["managed_engine"]):
        engine = make(settings["sqlalchemy.url"])
        with engine.connect() as connection:
            assert connection.exec_driver_sql("SELECT 1").scalar() == 1
        engine.dispose()


def test_the_second_pool_is_read_only(code: dict[str, Any], settings: dict[str, str]) -> None:
    """As the ini block says."""
    with session_factory(settings, "replica") as session:
        session.add(code["Note"](text="refused"))
        with pytest.raises(Exception, match="read-only"):
            session.flush()
