"""The code of docs/ways_over.rst takes the place of what it says, and the rest stays as it was."""

import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import pytest
import transaction
from docutils.nodes import literal_block, section
from pyramid.config import Configurator
from pyramid.request import Request
from pyramid.scripting import prepare
from sqlalchemy import text
from sqlalchemy.orm import Session
from webtest import TestApp

from pyramid_dbpool import dispose_engine, session_factory
from pyramid_dbpool.cli.pdbpool import main as pdbpool
from pyramid_dbpool.settings import load_app
from tests.docs.test_readme import ROOT, read
from tests.support.makers import wait_for
from tests.support.servers.fixtures import NewDatabase, NewProxy
from tests.support.servers.proxy import FaultProxy, Newcomers

H = "From h"
LMS = "From lms and checkmate, or any app that makes its settings in code"
MANAGER = {"tm.manager_hook": lambda request: transaction.TransactionManager()}

COOKIECUTTER = Path(__file__).with_name("cookiecutter.txt")
FILES = COOKIECUTTER.read_text().split("\n=== ")[1:]
MODES = ("isolation", "read_only", "deferrable")
READ_ONLY = "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE"


def blocks(title: str) -> list[str]:
    """Return the code under a title of the page."""
    (found,) = [
        each
        for each in read(ROOT / "docs/ways_over.rst").findall(section)
        if each.children[0].astext() == title
    ]
    return [str(block.astext()) for block in found.findall(literal_block)]


@pytest.fixture
def module_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Any]:
    """Make a module of some code."""

    def make(name: str, code: str) -> ModuleType:
        module = ModuleType(name)
        # Pyramid looks up the module of what it includes.
        monkeypatch.setitem(sys.modules, name, module)
        exec(compile(code, "docs/ways_over.rst", "exec"), vars(module))
        return module

    return make


@contextmanager
def served(include: Callable[[Configurator], None], settings: dict[str, Any]) -> Iterator[Any]:
    """Build an app with pyramid_tm that includes what the page says."""
    config = Configurator(settings=settings)
    config.include("pyramid_retry")
    config.include("pyramid_tm")
    config.include(include)
    yield config
    registry = config.registry
    for name in load_app(registry.settings).pools:
        dispose_engine(registry.settings, name)


def with_our_engine(env: str) -> str:
    """Return alembic/env.py with what the page says in words."""
    ours, theirs = "get_engine(settings)", "engine_from_config(settings, prefix='sqlalchemy.')"
    page = (ROOT / "docs/ways_over.rst").read_text()
    assert ours in page and theirs in page and theirs in env
    moved = env.replace(theirs, ours)
    return moved.replace(
        "sqlalchemy import engine_from_config", "pyramid_dbpool import get_engine"
    )


class NewApp:
    """An app from the cookiecutter, moved over."""

    def __init__(self, folder: Path, url: str | None) -> None:
        models, conftest, script = blocks("From the cookiecutter")
        files = {name: content for name, _, content in (each.partition("\n") for each in FILES)}
        files["myproj/models/__init__.py"] = models
        files["myproj/scripts/older.py"] = script
        _above, follows, rest = files["tests/conftest.py"].partition(
            "@pytest.fixture\ndef testapp"
        )
        files["tests/conftest.py"] = f"{conftest}\n\n{follows}{rest}"
        files["myproj/alembic/env.py"] = with_our_engine(files["myproj/alembic/env.py"])
        if url is not None:
            sqlite = "sqlite:///%(here)s/testing.sqlite"
            pools = f"{url}\nsqlalchemy.replica.url = {url}\ndbpool.replica.read_only = true"
            files["testing.ini"] = files["testing.ini"].replace(sqlite, pools.replace("%", "%%"))
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(content)
        (folder / "myproj/alembic/versions").mkdir()
        self._folder = folder

    def run(self, *arguments: str) -> str:
        """Run one of its programs to the end, and return what it says."""
        done = subprocess.run(
            [sys.executable, "-W", "ignore", *arguments],
            cwd=self._folder,
            timeout=60,
            capture_output=True,
            check=False,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


# Each adds the one row, whose name is unique.
SCRIPTS = """
from alembic.config import main as alembic
from myproj import pshell
from myproj.scripts import initialize_db, older
from pyramid.paster import bootstrap, get_appsettings
from pyramid_dbpool import unit_of_work
from sqlalchemy import text

def shell(argv):
    with bootstrap(argv[1]) as env:
        pshell.setup(env)
        env["dbsession"].add(env["models"].MyModel(name="one"))
        env["tm"].commit()

alembic(["-c", "testing.ini", "upgrade", "head"])
pshell.main = shell
for script in (initialize_db, older, pshell):
    script.main(["", "testing.ini"])
    with unit_of_work(get_appsettings("testing.ini")) as session:
        print(script.__name__, session.execute(text("DELETE FROM models")).rowcount)
"""


@pytest.mark.programs
@pytest.mark.parametrize("backend", ["sqlite", "postgresql+psycopg"])
def test_an_app_of_the_cookiecutter_passes_its_tests(
    new_database: NewDatabase, backend: str, tmp_path: Path
) -> None:
    """With its views, its migrations, and the fixtures of the page; its scripts store."""
    app = NewApp(tmp_path, None if backend == "sqlite" else new_database(backend))
    app.run("-m", "alembic", "-c", "testing.ini", "revision", "--autogenerate", "-m", "init")
    alone = ["-p", "no:cacheprovider", "-c", "/dev/null", "--rootdir=."]
    assert "5 passed" in app.run("-m", "pytest", *alone, "tests", "--ini", "testing.ini")
    assert app.run("-c", SCRIPTS).splitlines() == [
        "myproj.scripts.initialize_db 1",
        "myproj.scripts.older 1",
        "myproj.pshell 1",
    ]


@contextmanager
def read_only_transaction(session: Session) -> Iterator[None]:
    """Do as h/streamer/db.py does, which stays."""
    try:
        session.execute(text(READ_ONLY))
        yield
    except Exception:
        session.rollback()
    else:
        session.commit()
    finally:
        session.close()


@pytest.mark.parametrize("replica", [False, True], ids=["", "replica"])
def test_h_has_its_sessions(
    psycopg2_url: str, module_of: Callable[[str, str], Any], replica: bool
) -> None:
    """A replica is optional, and read-only; a script has an engine for its URL."""
    db = module_of("db", blocks(H)[0])
    settings = MANAGER | {"sqlalchemy.url": psycopg2_url}
    settings |= {"sqlalchemy.replica.url": psycopg2_url} if replica else {}

    def view(request: Request) -> list[str]:
        sessions = [request.db, request.db_replica] if replica else [request.db]
        return [each.scalar(text("SHOW transaction_read_only")) for each in sessions]

    with served(db.includeme, settings) as config:
        config.add_route("index", "/")
        config.add_view(view, route_name="index", renderer="json")
        answer = TestApp(config.make_wsgi_app()).get("/").json
    assert answer == (["off", "on"] if replica else ["off"])
    with db.create_engine(psycopg2_url).connect() as connection:
        assert connection.scalar(text("SELECT 1")) == 1
    dispose_engine({"sqlalchemy.url": psycopg2_url})


def test_hs_commands_and_tasks_store(
    psycopg2_url: str, module_of: Callable[[str, str], Any]
) -> None:
    """They end with a commit on the request's manager, which is not explicit."""
    db = module_of("db", blocks(H)[0])
    with served(db.includeme, MANAGER | {"sqlalchemy.url": psycopg2_url}) as config:
        config.commit()
        with prepare(registry=config.registry) as env:
            env["request"].db.execute(text("CREATE TABLE done (id integer)"))
            env["request"].tm.commit()
        with config.registry["sqlalchemy.engine"].connect() as connection:
            assert connection.scalar(text("SELECT count(*) FROM done")) == 0


class Message(NamedTuple):
    """A message of h's, from its broker or from a websocket."""

    text: str


def settings_of(ini: str) -> dict[str, str]:
    """Return what an ini block sets."""
    return dict(line.split(" = ") for line in ini.splitlines())


def restart(proxy: FaultProxy, engine: Any) -> None:
    """Let the database go away, and come back once the pool has noticed."""

    def come_back() -> None:
        wait_for(lambda: engine.pool.snapshot().outage_seconds is not None)
        proxy.meet(Newcomers.PASS)

    proxy.meet(Newcomers.REFUSE)
    proxy.cut()
    # The proxy's threads close them; until then nobody can see it.
    wait_for(lambda: proxy.connections == 0)
    Thread(target=come_back).start()


def test_hs_streamer_waits_for_its_database(
    psycopg2_url: str, module_of: Callable[[str, str], Any], new_proxy: NewProxy
) -> None:
    """On the engine of its app, each message in a transaction as it was; an error ends none."""
    includeme, loop, ini, _keep = blocks(H)
    db, streamer = module_of("db", includeme), module_of("streamer", loop)
    proxy = new_proxy(psycopg2_url)
    seen: list[Any] = []

    def handle(msg: Message, *arguments: Any) -> None:
        session = next(each for each in arguments if isinstance(each, Session))
        if seen == ["one"]:
            restart(proxy, engine)
        seen.append(msg.text)
        modes = [session.scalar(text(f"SHOW transaction_{each}")) for each in MODES]
        assert (session.get_bind(), modes) == (engine, ["serializable", "on", "on"])
        if msg.text == "bad":
            raise RuntimeError

    class Broker(Message):
        pass

    vars(streamer).update(
        messages=SimpleNamespace(Message=Broker, handle_message=handle),
        websocket=SimpleNamespace(Message=Message, handle_message=handle),
        TOPIC_HANDLERS={},
    )
    settings = MANAGER | {"sqlalchemy.url": proxy.url(psycopg2_url)} | settings_of(ini)
    with served(db.includeme, settings) as config:
        config.commit()
        engine = config.registry["sqlalchemy.engine"]
        queue = [Message("one"), Message("lost"), Broker("bad"), Broker("two")]
        streamer.process_work_queue(config.registry, queue)
        assert engine.pool.checkedout() == 0
        options = load_app(settings).pools["default"].managed
    assert seen == ["one", "lost", "lost", "bad", "two"]
    assert options is not None and options.max_waiting is None


def test_hs_loop_may_stay(
    psycopg2_url: str, module_of: Callable[[str, str], Any], new_proxy: NewProxy
) -> None:
    """Where it is let wait for a database that is away, and handshakes are not."""
    includeme, *_, ini = blocks(H)
    db = module_of("db", includeme)
    proxy = new_proxy(psycopg2_url)
    seen: list[str] = []
    settings = MANAGER | {"sqlalchemy.url": proxy.url(psycopg2_url)} | settings_of(ini)
    with served(db.includeme, settings) as config:
        config.commit()
        session = session_factory(config.registry.settings)
        assert session.get_bind() is config.registry["sqlalchemy.engine"]
        for message in ("one", "two"):
            with read_only_transaction(session):
                session.execute(text("SELECT 1"))
                seen.append(message)
            if message == "one":
                restart(proxy, session.get_bind())
        app = load_app(settings)
    assert seen == ["one", "two"]
    pool = app.pools["default"]
    assert pool.managed is not None
    assert (pool.pool_timeout, pool.managed.outage_grace, app.request_timeout) == (60, None, 5)


def test_h_of_2018_has_the_engine_of_its_app(
    psycopg2_url: str, module_of: Callable[[str, str], Any]
) -> None:
    """Under the name that it had, and in the loop's own default."""
    includeme, loop = blocks(f"{H} of 2018")
    db, streamer = module_of("db", includeme), module_of("streamer", loop)
    assert streamer.process_work_queue.__defaults__ == (session_factory,)
    with served(db.includeme, MANAGER | {"sqlalchemy.url": psycopg2_url}) as config:
        config.commit()
        assert db.make_engine(config.registry.settings) is config.registry["sqlalchemy.engine"]
        streamer.process_work_queue(config.registry.settings, [])


def test_an_app_makes_its_settings_in_code(
    psycopg2_url: str, module_of: Callable[[str, str], Any]
) -> None:
    """Celery's worker calls its factory without any; a task commits with its request."""
    db = module_of("db", blocks(LMS)[0])

    def create_app(_config: object, **settings: Any) -> Any:
        settings["database_url"] = psycopg2_url  # from os.environ
        settings["tm.manager_hook"] = "pyramid_tm.explicit_manager"
        config = Configurator(settings=settings)
        config.include("pyramid_retry")
        config.include("pyramid_tm")
        config.include(db)
        return config.make_wsgi_app()

    with db.create_engine(psycopg2_url).begin() as connection:
        connection.execute(text("CREATE TABLE done (id integer)"))
    registry = create_app(None).registry
    with prepare(registry=registry) as env, env["request"].tm:
        env["request"].db.execute(text("INSERT INTO done VALUES (1)"))
    with registry["database_engine"].connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM done")) == 1
    dispose_engine(registry.settings)
    dispose_engine({"sqlalchemy.url": psycopg2_url})


def test_a_check_takes_what_the_code_sets(
    psycopg2_url: str,
    module_of: Callable[[str, str], Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """As it is typed on the page, which is where the app's ini file has no URL."""
    module_of("lms_app", "def create_app(config, **settings): ...")
    ini = "[pipeline:main]\npipeline = lms\n[app:lms]\nuse = call:lms_app:create_app\n"
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf/production.ini").write_text(ini)
    monkeypatch.chdir(tmp_path)
    typed = blocks(LMS)[1].replace("$DATABASE_URL", psycopg2_url)
    assert pdbpool(shlex.split(typed)[1:]) == 0
    assert capsys.readouterr().out.splitlines()[1].endswith("ok")
