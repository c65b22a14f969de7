"""What config.include("pyramid_dbpool") sets up, refuses and warns of."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyramid.config import Configurator
from pyramid.exceptions import ConfigurationError
from pyramid.request import Request
from pyramid.scripts.pshell import PShellCommand
from sqlalchemy import Engine, event, text
from sqlalchemy.orm import sessionmaker

from pyramid_dbpool import SettingsError, dispose_engine, get_engine, session_factory
from pyramid_dbpool.engines.registry import live_engines
from pyramid_dbpool.web import include
from tests.support.webapp import Row, app, database


@pytest.fixture
def settings(sqlite_url: str) -> Iterator[dict[str, Any]]:
    """Settings for a SQLite file with the table."""
    with database(sqlite_url):
        yield {"sqlalchemy.url": sqlite_url}


@pytest.fixture(autouse=True)
def say_it_again() -> None:
    """Let the warning that comes once in a process come once in each test."""
    include._say_that_retry_is_missing.cache_clear()


def test_the_app_and_the_worker_share_one_engine(settings: dict[str, Any]) -> None:
    """The registry has the engine that get_engine gives, and a session factory."""
    with app(settings, "pyramid_dbpool") as web:
        engine = web.registry["sqlalchemy.engine"]
        assert engine is get_engine(settings)
        assert session_factory(settings).get_bind() is engine
        factory = web.registry["dbsession_factory"]
        assert isinstance(factory, sessionmaker)
        with factory() as session:
            assert session.get_bind() is engine


def test_other_apps_spellings(sqlite_url: str) -> None:
    """URL setting, registry key and request attribute have whatever name the app uses."""
    settings = {
        "database_url": sqlite_url,
        "dbpool.url_setting": "database_url",
        "dbpool.registry_key": "database_engine",
        "dbpool.request_attr": "dbsession",
    }

    def view(request: Request) -> str:
        return str(request.dbsession.scalar(text("SELECT 'here'")))

    with app(settings, "pyramid_dbpool", index=view) as web:
        assert web.get().text == "here"
        assert web.registry["database_engine"] is get_engine(settings)


def test_nothing_is_done_before_the_configuration_is_committed(settings: dict[str, Any]) -> None:
    """Registration is deferred; settings are checked at once."""
    before = len(live_engines())
    config = Configurator(settings=settings)
    config.include("pyramid_dbpool")
    assert len(live_engines()) == before
    config.commit()
    assert len(live_engines()) == before + 1
    get_engine(settings).dispose()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"sqlalchemy.pool_sise": "5"}, "sqlalchemy.pool_size"),
        ({"sqlalchemy.pool_size": "-3"}, "sqlalchemy.pool_size"),
        ({"sqlalchemy.url": ""}, "sqlalchemy.url"),
        ({"dbpool.request_attr": "session"}, "dbpool.request_attr"),
    ],
    ids=["unknown", "out-of-range", "no-url", "taken-attribute"],
)
def test_a_bad_setting_is_refused_at_include(
    settings: dict[str, Any], wrong: dict[str, str], said: str
) -> None:
    """One error, Pyramid's and ours, that names the key."""
    config = Configurator(settings={**settings, **wrong})
    with pytest.raises(SettingsError, match=said) as raised:
        config.include("pyramid_dbpool")
    assert isinstance(raised.value, ConfigurationError)


def test_a_pool_for_one_connection_is_warned_of(
    settings: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """A handler that holds two sessions would wait for itself."""
    small = {**settings, "sqlalchemy.pool_size": "1", "sqlalchemy.max_overflow": "0"}
    with app(small, "pyramid_dbpool"):
        (record,) = [r for r in caplog.records if "room for" in r.getMessage()]
        assert "sqlalchemy.pool_size" in record.getMessage()
    caplog.clear()
    with app(settings, "pyramid_dbpool"):
        assert "room for" not in caplog.text


@pytest.mark.parametrize("retry", [False, True], ids=["absent", "included"])
def test_a_missing_pyramid_retry_is_warned_of_once(
    settings: dict[str, Any], caplog: pytest.LogCaptureFixture, retry: bool
) -> None:
    """However many apps there are, and also when it is included later."""
    parts = ("pyramid_dbpool", "pyramid_tm", "pyramid_retry")[: 3 if retry else 2]
    for _ in range(2):
        with app(settings, *parts):
            pass
    warnings = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == (0 if retry else 1)


def test_a_pyramid_retry_that_is_still_to_come_is_not_missed(
    settings: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """A configuration that commits by itself runs each action at once."""
    config = Configurator(settings=settings, autocommit=True)
    config.include("pyramid_dbpool")
    config.include("pyramid_tm")
    config.include("pyramid_retry")
    config.make_wsgi_app()
    assert "pyramid_retry is not included" not in caplog.text
    dispose_engine(settings)


@pytest.mark.parametrize("listed", [False, True])
def test_no_pyramid_retry_is_missed_where_no_request_has_a_transaction(
    settings: dict[str, Any], caplog: pytest.LogCaptureFixture, listed: bool
) -> None:
    """What a view does outside of one was not written to be done twice."""
    if listed:
        settings["pyramid.tweens"] = OUR_TWEENS[0]
    with app(settings, "pyramid_dbpool"):
        assert "pyramid_retry" not in caplog.text
    caplog.clear()
    settings["pyramid.tweens"] = f"{OUR_TWEENS[0]} {OUR_TWEENS[1]} {OUR_TWEENS[2]}"
    with app(settings, "pyramid_dbpool", "pyramid_tm"):
        assert "pyramid_retry is not included" in caplog.text


def test_an_engine_hook_of_the_app_runs_once_before_the_first_connect(
    settings: dict[str, Any],
) -> None:
    """The directive takes a callable or its dotted name."""
    hooked.clear()

    def include(config: Configurator) -> None:
        config.add_dbpool_engine_hook(hook)
        config.add_dbpool_engine_hook(f"{__name__}.hook")

    with app(settings, "pyramid_dbpool", include) as web:
        web.engine.connect().close()
        assert hooked == ["hook", "connect"]


hooked: list[str] = []


def hook(engine: Engine) -> None:
    hooked.append("hook")
    event.listen(engine, "connect", lambda *_: hooked.append("connect"))


OUR_TWEENS = (
    "pyramid_dbpool.web.retry.retry_tween_factory",
    "pyramid_tm.tm_tween_factory",
    "pyramid_dbpool.web.failures.failed_answer_tween_factory",
)


@pytest.mark.parametrize("missing", [None, 0, 2])
def test_an_explicit_list_of_tweens_has_to_have_ours(
    settings: dict[str, Any], caplog: pytest.LogCaptureFixture, missing: int | None
) -> None:
    """Pyramid leaves out what is not listed, and says nothing."""
    tweens = [name for number, name in enumerate(OUR_TWEENS) if number != missing]
    tweens += ["pyramid.tweens.excview_tween_factory"]
    parts = ("pyramid_retry", "pyramid_tm", "pyramid_dbpool")
    with app({**settings, "pyramid.tweens": " ".join(tweens)}, *parts):
        told = [each.getMessage() for each in caplog.records if "does not list" in each.msg]
        where = ("before", "", "after")
        expected = [] if missing is None else [(OUR_TWEENS[missing], where[missing])]
        assert len(told) == len(expected)
        for text, (name, place) in zip(told, expected, strict=True):
            assert name in text and f"{place} pyramid_tm.tm_tween_factory" in text


def test_a_list_of_tweens_without_pyramid_tm_needs_none_under_it(
    settings: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """There is no transaction that an answer could have aborted."""
    with app({**settings, "pyramid.tweens": OUR_TWEENS[0]}, "pyramid_dbpool"):
        assert "does not list" not in caplog.text
    other = "pyramid.tweens.excview_tween_factory"
    with app({**settings, "pyramid.tweens": other}, "pyramid_dbpool"):
        assert "put it before all others." in caplog.text
        assert "pyramid_tm" not in caplog.text


class TestShell:
    """`[pshell] setup = pyramid_dbpool.pshell.setup`."""

    @pytest.mark.parametrize("tm", [True, False], ids=["tm", "no-tm"])
    def test_pshell_has_a_session_in_a_transaction(
        self, sqlite_url: str, tmp_path: Path, tm: bool, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Committed work stays; the rest is rolled back, of which it warns; all is given back."""
        ini = tmp_path / "app.ini"
        ini.write_text(
            f"""
[app:main]
use = call:{__name__}:make_app
sqlalchemy.url = {sqlite_url}
dbpool.request_attr = dbsession
tm.manager_hook = pyramid_tm.explicit_manager
with_tm = {"yes" if tm else ""}
[pshell]
setup = pyramid_dbpool.pshell.setup
"""
        )
        with database(sqlite_url) as count:
            assert _shell(ini, _keep) == 0
            who = "tm" if tm else "db"
            assert (
                f"What is not committed with {who}.commit() is rolled" in capsys.readouterr().out
            )
            assert count() == 1
            assert _shell(ini, _forget) == 0
            assert count() == 1
        engine = get_engine({"sqlalchemy.url": sqlite_url})
        assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]


def _shell(ini: Path, code: Any) -> int:
    command = PShellCommand(["pshell", str(ini)])
    return command.run(lambda env, help: code(env)) or 0


def _keep(env: dict[str, Any]) -> None:
    env["db"].add(Row())
    (env["tm"] if "tm" in env else env["db"]).commit()


def _forget(env: dict[str, Any]) -> None:
    env["db"].add(Row())
    env["db"].flush()


def make_app(_global_config: object, **settings: str) -> Any:
    """Make the app of the ini file."""
    with_tm = settings.pop("with_tm")
    with Configurator(settings=settings) as config:
        config.include("pyramid_dbpool")
        if with_tm:
            config.include("pyramid_tm")
    return config.make_wsgi_app()
