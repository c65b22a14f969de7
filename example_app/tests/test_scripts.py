"""What the scripts say when they cannot work: one line, not a traceback."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from processes import Program, write_ini
from pyramid.exceptions import ConfigurationError

from example_app import migrate, streamer
from pyramid_dbpool import SettingsError

MIGRATE = "migrate"


def said(script: str, folder: Path, settings: dict[str, Any]) -> str:
    """Run a script that fails; give the one line that it prints."""
    ini = write_ini(folder, "development.ini", settings)
    program = Program("-m", f"example_app.{script}", str(ini))
    try:
        assert program.end() == 1
    finally:
        program.kill()
    assert "secret" not in program.output
    # Beside it there may be the log's own lines, as that the database is away. Another thread
    # writes them, so that one may stand between our line and its end.
    (line,) = [each for each in program.lines if each.startswith("example-app-")]
    assert all(" WARNING " in each for each in program.lines if each and each != line)
    return line


@pytest.mark.programs
@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"sqlalchemy.url": "postgres://h:secret@127.0.0.1/h"}, "sqlalchemy.url = "),
        ({"sqlalchemy.pool_size": "many"}, "sqlalchemy.pool_size = 'many'"),
        ({"sqlalchemy.pool_size": "4\nsqlalchemy.pool_sice = 4"}, "sqlalchemy.pool_sice"),
    ],
)
def test_a_wrong_setting_is_one_line(tmp_path: Path, wrong: dict[str, str], why: str) -> None:
    """It names the setting."""
    assert said(MIGRATE, tmp_path, wrong).startswith(f"example-app-migrate: {why}")


def test_a_file_that_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """It names the file first."""
    with pytest.raises(SystemExit):
        migrate.main(["nofile.ini"])
    assert (
        capsys.readouterr().err == "example-app-migrate: nofile.ini: No such file or directory.\n"
    )


def told_by_celery(monkeypatch: pytest.MonkeyPatch, ini_file: str) -> str:
    """Run Celery's command, which fails; give what it prints."""
    monkeypatch.setenv("EXAMPLE_APP_INI", ini_file)
    program = Program("-m", "celery", "-q", "-A", "example_app.tasks", "report")
    try:
        assert program.end() == 1
    finally:
        program.kill()
    return program.output


@pytest.mark.programs
def test_a_wrong_setting_ends_the_worker_at_its_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one line, and not in each task."""
    assert told_by_celery(monkeypatch, "") == (
        "set EXAMPLE_APP_INI to the ini file, such as development.ini"
    )
    nowhere = told_by_celery(monkeypatch, "nofile.ini")
    assert nowhere == "example_app.tasks: nofile.ini: No such file or directory."
    wrong = write_ini(tmp_path, "development.ini", {"sqlalchemy.pool_size": "many"})
    many = told_by_celery(monkeypatch, str(wrong))
    assert many.startswith("example_app.tasks: sqlalchemy.pool_size = 'many'")
    assert "\n" not in many


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"sqlalchemy.pool_sice": "4"}, "sqlalchemy.pool_sice"),
        ({"broker.url": "ampq://guest:secret@127.0.0.1//"}, "broker.url: "),
        ({"broker.url": "amqp://guest:secret@127.0.0.1:port//"}, "broker.url: "),
        ({"broker.queue": ""}, "broker.queue"),
        ({"streamer.origins": ""}, "streamer.origins"),
    ],
)
def test_a_wrong_setting_stops_the_streamers_start(
    settings: dict[str, Any], wrong: dict[str, str], why: str
) -> None:
    """It names the setting, and no password."""
    with pytest.raises((ConfigurationError, SettingsError), match=why) as caught:
        streamer.main({}, **{**settings, **wrong})
    assert "secret" not in str(caught.value)


@pytest.mark.programs
def test_an_unreachable_server_is_one_line(tmp_path: Path, nobodys_port: int) -> None:
    """The driver says why."""
    url = f"postgresql+psycopg://h:secret@127.0.0.1:{nobodys_port}/h"
    wrong = {"sqlalchemy.url": url, "sqlalchemy.pool_timeout": "5\ndbpool.outage_grace = 0"}
    line = said(MIGRATE, tmp_path, wrong)
    assert line.startswith("example-app-migrate: ")
    assert "onnection refused" in line


@pytest.mark.programs
def test_a_database_that_is_not_there_is_one_line(tmp_path: Path, psycopg_url: str) -> None:
    """Without SQLAlchemy's own lines about it."""
    line = said(MIGRATE, tmp_path, {"sqlalchemy.url": f"{psycopg_url}_nowhere"})
    assert 'nowhere" does not exist' in line
    assert "sqlalche.me" not in line


@pytest.mark.usefixtures("both_environments")
@pytest.mark.parametrize("environment", ["production"])
def test_a_wrong_virtual_host_is_told_with_its_key(
    settings: dict[str, Any], serve: Callable[[str, str], Program]
) -> None:
    """And asked for again: whoever sets RabbitMQ up may not have come so far."""
    right = settings["broker.url"]
    settings["broker.url"] = right.rstrip("/") + "/nowhere"
    program = serve("-streamer", "vhost nowhere not found (broker.url)")
    program.wait_for("trying again in 2 s")
    settings["broker.url"] = right
