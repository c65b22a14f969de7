"""Commands of the app of h's shape: they bootstrap it, commit, and end no request."""

import subprocess
import sys
from collections.abc import Iterator

import pytest
from click.testing import CliRunner, Result
from pyramid.request import Request
from pyramid.threadlocal import manager

from tests.support.h_shape.app import User
from tests.support.h_shape.commands import bootstrapped, cli
from tests.web.h_shape.conftest import Outside


class Program:
    """Runs commands in this process, whose requests stay alive."""

    def __init__(self, ini: str) -> None:
        self.ini = ini
        self.requests: list[Request] = []

    def __call__(self, *words: str) -> Result:
        def bootstrap() -> Request:
            self.requests.append(bootstrapped(self.ini))
            return self.requests[-1]

        return CliRunner().invoke(cli, list(words), obj=bootstrap)

    def ends(self) -> None:
        """Do what the end of the process does."""
        for request in self.requests:
            request.db.close()


@pytest.fixture
def run(ini: str, tools: None) -> Iterator[Program]:
    """Give what runs a command."""
    program = Program(ini)
    yield program
    program.ends()
    manager.clear()


def test_what_a_command_commits_is_stored(run: Program, outside: Outside) -> None:
    """It says so, and nothing keeps a transaction open after it."""
    assert run("user", "add", "ada").output == "ada created\n"
    assert outside.users == ["ada"]
    assert run("user", "admin", "ada").exit_code == 0
    assert outside(User.admin) == [True]
    assert outside.idle_in_transaction() == 0


def test_a_command_that_commits_often_stores_all(run: Program, outside: Outside) -> None:
    """What it reads in between does not keep it from the next transaction."""
    run("user", "add", "b")
    assert run("user", "import", *"abcde").exit_code == 0
    assert outside.users == list("abcde")
    assert outside.idle_in_transaction() == 0


def test_a_command_that_is_refused_says_so(run: Program, outside: Outside) -> None:
    """The app sees the driver's error at its commit, and has no open transaction then."""
    run("user", "add", "ada")
    again = run("user", "add", "ada")
    assert (again.exit_code, again.output) == (1, "Error: could not create ada\n")
    assert outside.users == ["ada"]
    run.requests[-1].tm.abort()
    assert outside.idle_in_transaction() == 0


@pytest.mark.programs
def test_a_program_that_just_ends_has_stored_all(ini: str, outside: Outside) -> None:
    """It exits with 0, and there is a row."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.support.h_shape.commands", ini]
    for words in (["user", "add", "ada"], ["user", "admin", "ada"], ["count"]):
        done = subprocess.run(
            [*command, *words], timeout=60, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
    assert (outside.users, outside(User.admin)) == (["ada"], [True])
