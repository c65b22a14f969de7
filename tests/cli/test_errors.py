"""`pdbpool`: how it says what is wrong, and with which exit code."""

import os
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyramid.paster import get_appsettings
from pyramid.scripts.common import parse_vars

from pyramid_dbpool.cli import checking
from pyramid_dbpool.embedded import PrivatePostgres
from tests.cli.said import Run, one_line
from tests.support.servers.ports import deaf_port


def test_a_wrong_setting_is_one_line(run: Run, ini: Callable[..., Path]) -> None:
    """The same as in the app, and nothing is connected to."""
    said = run("check", ini("sqlalchemy.url = sqlite:///h.db", "sqlalchemy.pool_siz = 3"))
    assert (said.code, said.out) == (2, "")
    assert "the nearest known key is sqlalchemy.pool_size" in one_line(said)


def test_all_wrong_settings_are_told_at_once(run: Run, ini: Callable[..., Path]) -> None:
    """Those of every pool, and those that belong to none."""
    file = ini(
        "sqlalchemy.url = sqlite:///h.db",
        "sqlalchemy.pool_siz = 3",
        "sqlalchemy.pool_timeout = soon",
        "dbpool.request_timeout = later",
        "dbpool.none.min_idle = 1",
        "pyramid_dbpool.min_idle = 1",
        "sqlalchemy.replica.url = sqlite:///r.db",
        "dbpool.replica.min_idle = -1",
    )
    said = run("check", "--no-connect", file)
    assert (said.code, said.out) == (2, "")
    lines = said.err.splitlines()
    assert all(line.startswith("pdbpool: ") for line in lines)
    assert [line.split()[1] for line in lines] == [
        "pyramid_dbpool.min_idle",
        "dbpool.none.min_idle",
        "dbpool.request_timeout",
        "sqlalchemy.pool_timeout",
        "sqlalchemy.pool_siz",
        "dbpool.replica.min_idle",
    ]


@pytest.mark.parametrize("key", ["sqlalchemy.url", "database_url"])
def test_an_app_may_set_the_url_in_its_code(
    run: Run, ini: Callable[..., Path], tmp_path: Path, key: str
) -> None:
    """Then the file has none; what is said to be typed checks the rest of it."""
    elsewhere = [] if key == "sqlalchemy.url" else [f"dbpool.url_setting = {key}"]
    file = ini("sqlalchemy.pool_size = 3", *elsewhere)
    said = run("check", file)
    assert (said.code, said.out) == (2, "")
    missing, remedy = said.err.splitlines()
    assert missing.startswith("pdbpool: ") and key in missing
    assert remedy.startswith(f"pdbpool: An app that sets {key} in its code needs none in the file")
    typed = remedy.partition(" pdbpool ")[2].removesuffix("URL").split(" ")
    assert typed.pop() == "sqlalchemy.url="
    said = run(*typed, f"sqlalchemy.url=sqlite:///{tmp_path}/100%25.db", "dbpool.min_idle=2")
    assert (said.code, said.err) == (0, "")
    assert said.out.splitlines()[1].split()[1:] == [f"sqlite:///{tmp_path}/100%25.db", "13", "ok"]


def test_a_setting_on_the_command_line_is_checked(run: Run, ini: Callable[..., Path]) -> None:
    """As if the file had it."""
    said = run("check", ini("sqlalchemy.url = sqlite:///h.db"), "sqlalchemy.pool_siz=3")
    assert (said.code, said.out) == (2, "")
    assert "the nearest known key is sqlalchemy.pool_size" in one_line(said)


def test_a_misspelt_prefix_on_the_command_line_is_refused(
    run: Run, ini: Callable[..., Path]
) -> None:
    """It would be checked without what was typed; a variable of the file's own is none of it."""
    file = ini("sqlalchemy.url = sqlite:///%(a.file)s")
    said = run("check", file, "a.file=h.db", "sqlalchmy.pool_size=3")
    assert (said.code, said.out) == (2, "")
    assert "sqlalchmy.pool_size is not a setting: write sqlalchemy.pool_size" in one_line(said)
    assert run("check", file, "a.file=h.db").code == 0


def test_a_name_that_requests_have_is_refused(run: Run, ini: Callable[..., Path]) -> None:
    """Here too, not only where the app is made."""
    said = run("check", ini("sqlalchemy.url = sqlite:///h.db", "dbpool.request_attr = session"))
    assert (said.code, said.out) == (2, "")
    assert "a Pyramid request has an attribute 'session' already" in one_line(said)


def test_a_missing_file_name_is_all_that_is_missing(run: Run) -> None:
    """Nobody needs to give variables."""
    said = run("check")
    assert said.code == 2
    assert said.err.endswith("the following arguments are required: CONFIG_URI\n")


def test_an_unreachable_server_is_one_line(run: Run, ini: Callable[..., Path]) -> None:
    """The other pools are tried all the same."""
    address = f"127.0.0.1:{deaf_port()}/h"
    file = ini(
        f"sqlalchemy.url = postgresql+psycopg://web:s3cret@{address}",
        "sqlalchemy.memory.url = sqlite://",
    )
    said = run("check", file)
    assert said.code == 1
    assert [line.split()[-1] for line in said.out.splitlines()[1:3]] == ["failed", "ok"]
    line = one_line(said)
    assert f"sqlalchemy.url = postgresql+psycopg://web:***@{address}" in line
    assert "refused" in line


@pytest.mark.slow
def test_a_server_that_says_nothing_is_one_line(run: Run, ini: Callable[..., Path]) -> None:
    """PyMySQL by itself would wait for the greeting for ever."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}/h"
        file = ini(
            f"sqlalchemy.url = mysql+pymysql://web:s3cret@{address}", "dbpool.connect_timeout = 2"
        )
        said = run("check", file)
    assert said.code == 1
    assert f"mysql+pymysql://web:***@{address}" in one_line(said)


def test_a_wrong_password_is_one_line(
    run: Run, ini: Callable[..., Path], new_postgres: Callable[..., PrivatePostgres]
) -> None:
    """Without the password, in whatever way it is written."""
    server = new_postgres(password="right")
    right = server.url()
    wrong = right.replace(":right@", ":s3cret%%40x@")
    assert wrong != right
    said = run("check", ini(f"sqlalchemy.url = {wrong}"))
    assert said.code == 1
    assert "password authentication failed" in one_line(said)
    assert run("check", ini(f"sqlalchemy.url = {right}")).code == 0


def test_a_sqlite_file_in_no_folder_is_one_line(
    run: Run, ini: Callable[..., Path], tmp_path: Path
) -> None:
    """SQLite itself would only say that it cannot open it."""
    said = run("check", ini(f"sqlalchemy.url = sqlite:///{tmp_path}/no/h.db"))
    assert said.code == 1
    assert f"there is no folder {tmp_path}/no" in one_line(said)
    said = run("check", ini(f"sqlalchemy.url = sqlite:///file:{tmp_path}/no/h.db?uri=true"))
    assert "unable to open database file" in one_line(said)


def test_a_sqlite_file_that_cannot_be_made_is_one_line(
    run: Run, ini: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not tried, because that would leave an empty file."""
    monkeypatch.setattr(os, "access", lambda *_: False)
    said = run("check", ini(f"sqlalchemy.url = sqlite:///{tmp_path}/h.db"))
    assert f"the folder {tmp_path} cannot be written to" in one_line(said)


def test_a_hook_or_creator_that_fails_is_one_line(run: Run, ini: Callable[..., Path]) -> None:
    """It runs before the connect, as in the app; its error may quote the password."""
    url = "sqlalchemy.url = postgresql+psycopg://web:s3cret@db.example/h"
    for key in ("dbpool.engine_hook", "sqlalchemy.creator"):
        said = run("check", ini(url, f"{key} = {__name__}.fail"))
        assert said.code == 1
        assert "no token for web:***" in one_line(said)


def fail(*args: Any) -> None:
    """Fail as the app's own code may."""
    raise RuntimeError("no token for web:s3cret\n  on two lines")


@pytest.mark.parametrize(
    ("creator", "line"),
    [("fail_at_length", "x" * 400 + "..."), ("fail_without_a_word", "RuntimeError")],
)
def test_any_error_fits_on_a_line(
    run: Run, ini: Callable[..., Path], creator: str, line: str
) -> None:
    """One that is too long is cut, one that says nothing is named."""
    said = run(
        "check", ini("sqlalchemy.url = sqlite://", f"sqlalchemy.creator = {__name__}.{creator}")
    )
    assert said.code == 1
    assert one_line(said).endswith(f": {line}")


def fail_at_length() -> None:
    """Fail with a text that fills a screen."""
    raise RuntimeError("x" * 5000)


def fail_without_a_word() -> None:
    """Fail with no text at all."""
    raise RuntimeError


def test_an_interrupt_is_no_traceback(
    run: Run, ini: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while a server does not answer; the code is the shell's."""

    def interrupted(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checking, "connect_once", interrupted)
    assert run("check", ini("sqlalchemy.url = sqlite://")).code == 130


@pytest.mark.parametrize(
    ("text", "uri", "says"),
    [
        (None, "", "No such file"),
        ("x = 3\n", "", "line 1 stands before any [section]"),
        ("[app:main]\ns3cret\n", "", "line 2 is not of the form name = value"),
        ("[app:other]\nuse = egg:x\n", "", "no section [app:main]"),
        ("[app:main]\nuse = egg:x\n", "#other", "no section [app:other]"),
        ("[app:main]\nsqlalchemy.url = sqlite://\n", "", "add use = egg:NAME"),
        ("[app:main]\nuse = egg:x\ndatabase_url = x://a:s3cret%40@b\n", "", "must be written %%"),
        ("[app:main]\nuse = egg:x\na = x://a:%(s3cret)s@b\n", "", "Write name=value right after"),
        ("[app:main]\nuse = egg:x\na = %(URL)s\n", "", "Write URL=VALUE right after the file"),
        ("[app:main]\nuse = egg:no_such_package\n", "", "no_such_package: install the app"),
        ("[app:main]\nuse = call:no_such_module:main\n", "", "or set PYTHONPATH"),
        (b"\xff\xfe\x00", "", "not a text file"),
    ],
)
def test_an_ini_file_that_cannot_be_read_is_one_line(
    text: str | bytes | None, uri: str, says: str, run: Run, tmp_path: Path
) -> None:
    """Every way in which a file is not what it should be."""
    file = tmp_path / "app.ini"
    if text is not None:
        file.write_bytes(text.encode() if isinstance(text, str) else text)
    said = run("check", f"{file}{uri}")
    assert (said.code, said.out) == (2, "")
    assert says in one_line(said)
    assert "app.ini" in one_line(said)


PASSWORD = "postgresql+psycopg://web:%40%2F@db/notes"
NOT_GIVEN = ("%(DATABASE_URL)s", "%%(DATABASE_URL)s", "${DATABASE_URL}", "$DATABASE_URL")


@pytest.mark.parametrize("written", NOT_GIVEN)
@pytest.mark.parametrize("place", ["command line", "DEFAULT"])
def test_what_is_said_of_a_url_that_is_not_given_helps_whoever_does_it(
    run: Run, ini: Callable[..., Path], written: str, place: str
) -> None:
    """Word for word, as the next mistake would be the one that the advice has made."""
    file = ini(f"sqlalchemy.url = {written}")
    said = one_line(run("check", "--no-connect", file))
    if written != "%(DATABASE_URL)s":
        assert "In the ini file write %(DATABASE_URL)s" in said
        file = ini("sqlalchemy.url = %(DATABASE_URL)s")
    assert re.search(r"DATABASE_URL=(VALUE|URL) right after the file", said)
    assert re.search(r"in (its )?\[DEFAULT\], with %% for each % of", said)
    assert "must be written %%" not in said
    given = f"DATABASE_URL={PASSWORD.replace('%', '%%')}"
    if place == "DEFAULT":
        file.write_text(f"[DEFAULT]\n{given}\n{file.read_text()}")
        assert get_appsettings(str(file))["sqlalchemy.url"] == PASSWORD
        assert run("check", "--no-connect", file).code == 0
    else:
        options = parse_vars([given])
        # As pserve does.
        assert get_appsettings(str(file), options=options)["sqlalchemy.url"] == PASSWORD
        assert run("check", file, given, "--no-connect").code == 0


def test_a_value_after_the_file_with_a_bare_percent_is_told_as_such(
    run: Run, ini: Callable[..., Path]
) -> None:
    """It is no line of the file's."""
    file = ini("sqlalchemy.url = %(DATABASE_URL)s")
    said = one_line(run("check", "--no-connect", file, f"DATABASE_URL={PASSWORD}"))
    assert "after the file: DATABASE_URL: a % that is not part of %(name)s must be" in said


def test_what_is_no_ini_file_is_one_line(
    run: Run, tmp_path: Path, ini: Callable[..., Path]
) -> None:
    """A folder, another scheme, a variable without a value."""
    for uri in (str(tmp_path), "nothing:at.all", ""):
        assert "not an ini file" in one_line(run("check", uri))
    assert "written a=b" in one_line(run("check", ini(), "s3cret"))


def test_no_command_is_a_usage_error(run: Run) -> None:
    """With the usage, and the code that argparse gives."""
    said = run()
    assert said.code == 2
    assert said.err.startswith("usage: pdbpool")
