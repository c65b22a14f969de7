"""`pdbpool`: what it prints, and where."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from pyramid_dbpool.cli.pdbpool import main
from pyramid_dbpool.settings import SETTINGS, reference
from tests.cli.said import Run


def test_settings_lists_every_setting(run: Run) -> None:
    """In aligned columns, one line each."""
    said = run("settings")
    lines = said.out.splitlines()
    assert (said.code, said.err) == (0, "")
    assert len(lines) == len(SETTINGS) + 1
    start = lines[0].index("Default")
    assert all(line[start - 1 : start] in ("", " ") for line in lines)


def test_settings_fit_on_a_terminal(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Key and default, and what else there is to know below them."""
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    lines = run("settings").out.splitlines()
    assert max(map(len, lines)) <= 100
    start = lines.index("sqlalchemy.pool_size = 5")
    assert lines[start + 1 : start + 3] == [
        "    How many connections the pool keeps; 0 means no limit.",
        "    Allowed: an integer, at least 0.",
    ]


def test_settings_as_json_are_for_programs(run: Run) -> None:
    """With the unit of a bare number."""
    listed = json.loads(run("settings", "--format", "json").out)
    found = {row["setting"]: row for row in listed}
    assert found["sqlalchemy.pool_timeout"]["unit"] == "seconds"
    assert found["sqlalchemy.pool_timeout"]["default"] == "5 s"
    assert len(found) == len(SETTINGS)


def test_settings_as_rest_are_for_documentation(run: Run) -> None:
    """The table that the README has."""
    assert run("settings", "--format", "rst").out == reference()


def test_check_connects_once_to_each_pool(
    run: Run, ini: Callable[..., Path], postgres_url: str, tmp_path: Path
) -> None:
    """And says what it found of each."""
    file = ini(
        f"sqlalchemy.url = {postgres_url.replace('%', '%%')}",
        f"sqlalchemy.files.url = sqlite:///{tmp_path}/h.db",
        "sqlalchemy.files.pool_size = 0",
    )
    said = run("check", file)
    assert (said.code, said.err) == (0, "")
    heading, default, files = said.out.splitlines()[:3]
    assert heading.split() == ["Pool", "Url", "Capacity", "State"]
    assert default.split()[::3] == ["default", "ok"]
    assert files.split("  ")[-2:] == ["no limit", "ok"]
    assert not (tmp_path / "h.db").exists(), "a check leaves nothing behind"


def test_check_can_leave_the_databases_alone(run: Run, ini: Callable[..., Path]) -> None:
    """For a machine from which they cannot be reached."""
    file = ini("sqlalchemy.url = postgresql+psycopg://web:s3cret@db.example/h")
    said = run("check", "--no-connect", file)
    assert (said.code, said.err) == (0, "")
    assert "not tried" in said.out


def test_check_takes_another_section_and_variables(run: Run, ini: Callable[..., Path]) -> None:
    """As every program of Pyramid does."""
    file = ini("sqlalchemy.url = sqlite:///%(place)s/h.db", section="app:other")
    said = run("check", "--format", "json", f"{file}#other", "place=/tmp")
    (row,) = json.loads(said.out)
    assert row == {
        "pool": "default",
        "url": "sqlite:////tmp/h.db",
        "capacity": 15,
        "state": "ok",
        "error": None,
        "server": None,
        "wrong": [],
        "warnings": [],
    }


@pytest.mark.programs
def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    """As in `pdbpool settings | head -1`."""
    command = f"{shlex.quote(sys.executable)} -m pyramid_dbpool.cli.pdbpool settings | true"
    path = os.pathsep.join(p for p in sys.path if p)
    ran = subprocess.run(
        ["bash", "-c", f"{command}; exit ${{PIPESTATUS[0]}}"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, "")


def test_the_command_is_installed() -> None:
    """Under the name that the documentation gives it."""
    found = entry_points(group="console_scripts", name="pdbpool")
    if not found:
        pytest.skip("the distribution is not installed")
    assert {entry.value for entry in found} == {f"{main.__module__}:main"}


def test_the_version_is_told(run: Run) -> None:
    """For a report of a fault, and for scripts."""
    assert re.fullmatch(r"pdbpool \S.*\n", run("--version").out)


def test_help_has_the_exit_codes(run: Run) -> None:
    """A script's author looks there first."""
    said = run("--help").out
    assert all(re.search(rf"^  {code}  \w", said, re.MULTILINE) for code in (0, 1, 2))


def test_variables_may_stand_behind_an_option(run: Run, ini: Callable[..., Path]) -> None:
    """People write them where they come to mind; another word there is none."""
    file = ini("sqlalchemy.url = sqlite:///%(place)s/h.db")
    assert run("check", file, "--no-connect", "place=/tmp").code == 0
    said = run("check", file, "--no-connect", "--plac=/tmp")
    assert (said.code, said.out) == (2, "")
    assert "unrecognized arguments: --plac=/tmp" in said.err
    assert run("settings", "--format", "json", "place=/tmp").code == 2


def test_who_wants_no_output_gets_the_exit_code() -> None:
    """Its output may be closed."""
    command = f"{shlex.quote(sys.executable)} -m pyramid_dbpool.cli.pdbpool settings >&-"
    ran = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
