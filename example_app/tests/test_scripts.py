"""What the scripts say when they cannot work: one line, not a traceback."""

from pathlib import Path
from typing import Any

import pytest
from processes import Program, write_ini

from pyramid_dbpool.embedded import free_port

INITIALIZE, STREAMER = "initialize_db", "streamer"


def said(script: str, folder: Path, settings: dict[str, Any]) -> str:
    """Run a script that fails; give the one line that it prints."""
    program = Program("-m", f"example_app.{script}", str(write_ini(folder, settings)))
    try:
        assert program.end() == 1
    finally:
        program.kill()
    (line,) = program.lines
    assert "secret" not in line
    return line


@pytest.mark.parametrize(
    ("script", "wrong", "why"),
    [
        (
            STREAMER,
            {"sqlalchemy.pool_size": "4\nsqlalchemy.pool_sice = 4"},
            "sqlalchemy.pool_sice",
        ),
        (STREAMER, {"broker.url": "ampq://guest:secret@127.0.0.1//"}, "broker.url: "),
        (STREAMER, {"broker.url": "amqp://guest:secret@127.0.0.1:port//"}, "broker.url: "),
        (INITIALIZE, {"sqlalchemy.url": "postgres://h:secret@127.0.0.1/h"}, "sqlalchemy.url = "),
        (INITIALIZE, {"sqlalchemy.pool_size": "many"}, "sqlalchemy.pool_size = 'many'"),
    ],
)
def test_a_wrong_setting_is_one_line(
    tmp_path: Path, script: str, wrong: dict[str, str], why: str
) -> None:
    """It names the setting."""
    assert said(script, tmp_path, wrong).startswith(f"{script}: {why}")


def test_an_unreachable_server_is_one_line(tmp_path: Path) -> None:
    """The driver says why; it is not asked for longer than a connection is waited for."""
    url = f"postgresql+psycopg://h:secret@127.0.0.1:{free_port()}/h"
    wrong = {"sqlalchemy.url": url, "sqlalchemy.pool_timeout": "500ms"}
    line = said(INITIALIZE, tmp_path, wrong)
    assert line.startswith("initialize_db: ")
    assert "onnection refused" in line


def test_a_database_that_is_not_there_is_one_line(tmp_path: Path, psycopg_url: str) -> None:
    """Without SQLAlchemy's own lines about it."""
    line = said(INITIALIZE, tmp_path, {"sqlalchemy.url": f"{psycopg_url}_nowhere"})
    assert 'nowhere" does not exist' in line
    assert "sqlalche.me" not in line


def test_a_wrong_virtual_host_is_one_line(
    tmp_path: Path, psycopg_url: str, request: pytest.FixtureRequest
) -> None:
    """RabbitMQ would refuse for ever: the streamer does not wait for it."""
    url = request.getfixturevalue("rabbitmq").url().rstrip("/") + "/nowhere"
    wrong = {"sqlalchemy.url": psycopg_url, "broker.url": url}
    assert said(STREAMER, tmp_path, wrong).startswith("streamer: broker.url: ")
