"""What the example app's tests share: a database with its tables, a broker, the programs."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen
from uuid import uuid4

import pytest
from kombu import pools
from processes import PATIENCE, Program, StartProgram, wait_until, write_ini
from pyramid.request import Request
from webtest import TestApp

from example_app import main
from example_app.broker import Inbox, connect
from example_app.migrate import upgrade
from pyramid_dbpool import dispose_engine
from tests.support.servers.fixtures import PROGRAMS
from tests.support.servers.ports import kept_port

# gunicorn and waitress, Chromium, a Celery worker, and RabbitMQ, which is production's broker.
PROGRAMS.update({"serve", "browser", "celery", "production"})


@pytest.fixture
def environment() -> str:
    """Say whose ini files the programs run with."""
    return "development"


@pytest.fixture
def nobodys_port() -> Iterator[int]:
    """Give a port that nobody listens on."""
    with kept_port() as port:
        yield port


@pytest.fixture
def settings(psycopg_url: str, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """Give the app's settings, on a database with its tables and a broker made of files."""
    with kept_port() as web, kept_port() as streamer:
        made = settings_for(psycopg_url, tmp_path / "broker", web, streamer)
        upgrade(made)
        yield made
        dispose_engine(made)
        dispose_engine(made, "replica")
        pools.reset()


def settings_for(url: str, folder: Path, web: int, streamer: int) -> dict[str, Any]:
    """Make the settings of an app on a database, with broker files and ports."""
    return {
        "sqlalchemy.url": url,
        "sqlalchemy.replica.url": url,
        "dbpool.replica.read_only": "true",
        "tm.manager_hook": "pyramid_tm.explicit_manager",
        "broker.url": "filesystem://",
        "broker.folder": str(folder),
        # kombu remembers for the whole process which queues of files it has made.
        "broker.queue": f"streamer_{uuid4().hex}",
        "streamer.address": f"ws://127.0.0.1:{streamer}/live",
        "streamer.origins": f"http://127.0.0.1:{web}",
    }


@pytest.fixture
def both_environments(
    request: pytest.FixtureRequest, settings: dict[str, Any], environment: str
) -> Iterator[None]:
    """Let a test run with the files of development and with those of production."""
    if environment == "development":
        yield
        return
    settings["broker.url"] = request.getfixturevalue("rabbitmq").url()
    yield
    with connect(settings) as broker:
        broker.channel().queue_delete(settings["broker.queue"])


@pytest.fixture
def app(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> TestApp:
    """Give the web app."""
    # WebOb leaves the temporary files of longer bodies to the garbage collector.
    monkeypatch.setattr(Request, "request_body_tempfile_limit", 1_000_000)
    return TestApp(main({}, **settings))


@pytest.fixture
def inbox(settings: dict[str, Any]) -> Iterator[Inbox]:
    """Give the streamer's queue, bound to the broker."""
    with Inbox(settings) as queue:
        queue.listen()
        yield queue


@pytest.fixture
def serve(
    environment: str, settings: dict[str, Any], tmp_path: Path
) -> Iterator[Callable[[str, str], Program]]:
    """Start what an ini file describes, and wait for a line of its log."""
    started = []

    def start(name: str, ready: str) -> Program:
        ini = write_ini(tmp_path, f"{environment}{name}.ini", settings)
        program = Program("-m", "pyramid.scripts.pserve", str(ini))
        started.append(program)
        program.wait_for(ready)
        return program

    yield start
    for program in started:
        program.kill()


@pytest.fixture
def start_streamer(serve: Callable[[str, str], Program]) -> StartProgram:
    """Start streamers, and wait until they listen."""
    return lambda: serve("-streamer", "Listening to the queue")


@pytest.fixture
def start_web(serve: Callable[[str, str], Program], settings: dict[str, Any]) -> StartProgram:
    """Start web apps, and wait until they answer."""

    def start() -> Program:
        program = serve("", "Starting server")
        wait_until(lambda: answers(settings["streamer.origins"]))
        return program

    return start


def answers(address: str) -> bool:
    """Tell whether somebody answers there."""
    try:
        urlopen(address, timeout=PATIENCE).close()
    except OSError:
        return False
    return True
