"""`dbpool.startup_check` under servers and scripts of their own."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from pyramid.paster import bootstrap

from pyramid_dbpool.engines.probes import EXIT_STATUS
from tests.support.webapp import PARTS, app

INI = """
[app:main]
use = call:{module}:make_app
sqlalchemy.url = {url}
dbpool.startup_check = require
dbpool.startup_timeout = 0
[server:main]
use = egg:waitress#main
listen = 127.0.0.1:0
"""


@pytest.fixture
def ini(away: dict[str, Any], tmp_path: Path) -> Path:
    """Write the ini file of an app that requires a database which is not there."""
    file = tmp_path / "app.ini"
    file.write_text(INI.format(module=__name__, url=away["sqlalchemy.url"]))
    return file


def make_app(_global_config: object, **settings: str) -> Any:
    """Make the app of the ini file."""
    with app(settings, *PARTS) as web:
        return web.router


@pytest.mark.programs
@pytest.mark.parametrize("script", ["proutes", "pviews", "ptweens", "prequest"])
def test_pyramids_scripts_work_without_a_database(ini: Path, script: str) -> None:
    """They look at the app, not at its data."""
    path = {"pviews": ["/"], "prequest": ["/nowhere"]}.get(script, [])
    code = f"import sys; from pyramid.scripts.{script} import main; sys.exit(main())"
    ended = subprocess.run(
        [sys.executable, "-c", code, str(ini), *path],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode != EXIT_STATUS and "startup_check" not in ended.stderr


def test_bootstrap_is_a_scripts(ini: Path) -> None:
    """And so are pshell and an app's own scripts."""
    bootstrap(str(ini))["closer"]()


@pytest.mark.programs
@pytest.mark.parametrize(
    "server",
    [
        ["-m", "pyramid.scripts.pserve"],
        ["-m", "gunicorn", "--bind", "127.0.0.1:0", "--paste"],
        ["-m", "gunicorn", "--bind", "127.0.0.1:0", "--preload", "--paste"],
    ],
    ids=["pserve", "gunicorn", "preload"],
)
def test_a_server_that_requires_a_database_ends(ini: Path, server: list[str]) -> None:
    """One line says why, and the status is not 0."""
    code = "import sys; from pyramid.scripts.pserve import main; sys.exit(main())"
    command = ["-c", code] if "pyramid" in server[-1] else server
    ended = subprocess.run(
        [sys.executable, *command, str(ini)],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == EXIT_STATUS, ended.stderr
    assert len([line for line in ended.stderr.splitlines() if "startup_check" in line]) == 1
    assert "Traceback" not in ended.stderr


@pytest.mark.programs
@pytest.mark.parametrize("worker", ["sync", "gevent"])
def test_a_gunicorn_worker_that_waits_ends_at_sigterm(ini: Path, worker: str) -> None:
    """At once, long before its wait is over, and without a kill."""
    file = ini.read_text().replace("= require", "= wait").replace("timeout = 0", "timeout = 1h")
    ini.write_text(file)
    command = ["-m", "gunicorn", "--bind", "127.0.0.1:0", "--worker-class", worker]
    command += ["--timeout", "0", "--graceful-timeout", "100", "--paste", str(ini)]
    master = subprocess.Popen(
        [sys.executable, *command], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert master.stderr is not None
        assert any("waiting up to" in line for line in master.stderr)
        master.terminate()
        said = master.communicate(timeout=60)[1]
    finally:
        with suppress(ProcessLookupError):
            os.killpg(master.pid, signal.SIGKILL)
    assert (master.returncode, "Traceback" in said) == (0, False)
