"""`pdbpool check`: what servers allow, beside what a configuration can open."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, make_url, text

from pyramid_dbpool.embedded import PrivatePostgres
from tests.cli.said import Run, one_line

Ini = Callable[..., Path]


def written(url: str) -> str:
    """Return a URL as an ini file has it."""
    return f"sqlalchemy.url = {url.replace('%', '%%')}"


def rows(run: Run, *args: object) -> list[dict[str, Any]]:
    """Check, and return what is said of each pool."""
    said = run("check", "--format", "json", *args)
    found: list[dict[str, Any]] = json.loads(said.out)
    return found


def test_it_says_what_the_server_is_and_allows(run: Run, ini: Ini, postgres_url: str) -> None:
    """The versions on both sides, TLS, and each limit with what is taken of it."""
    file = ini(written(postgres_url), "sqlalchemy.pool_size = 2", "sqlalchemy.max_overflow = 1")
    said = run("check", file)
    assert (said.code, said.err) == (0, "")
    lines = [line.strip() for line in said.out.splitlines()]
    assert any(line.startswith("PostgreSQL ") and line.endswith(", for default") for line in lines)
    (row,) = rows(run, file)
    server = row["server"]
    assert server["driver"].split()[0] == make_url(postgres_url).get_driver_name()
    assert all(server[name].split()[1][0].isdigit() for name in ("driver", "server", "sqlalchemy"))
    assert (server["tls"], server["pooler"], server["missing"]) == ("off", False, [])
    assert server["all"]["connected"] >= 0
    assert server["database"]["name"] == f"database {make_url(postgres_url).database!r}"


@pytest.mark.parametrize("pools", [1, 2])
def test_more_than_the_server_allows_is_wrong(
    run: Run, ini: Ini, psycopg_url: str, pools: int
) -> None:
    """With the numbers, and the keys to change; two pools on one server count together."""
    (row,) = rows(run, ini(written(psycopg_url)))
    allowed, reserved = row["server"]["all"]["allowed"], row["server"]["all"]["reserved"]
    # The server that all tests share lets in more than the usual hundred.
    size = allowed if pools == 2 else allowed + 400
    file = ini(
        written(psycopg_url),
        f"sqlalchemy.pool_size = {size}",
        "sqlalchemy.max_overflow = 0",
        *[written(psycopg_url).replace("sqlalchemy.", "sqlalchemy.more.")] * (pools - 1),
    )
    said = run("check", file)
    assert said.code == 1
    line = one_line(said)
    opens = f"{size if pools == 1 else size + 15} connections ({size}"
    assert f"one process may open {opens} in pool 'default'" in line
    assert f"max_connections lets in {allowed}" in line
    assert "lower sqlalchemy.pool_size" in line
    less = f"{allowed} ({allowed + reserved}, less {reserved} reserved)" if reserved else ""
    assert less in line
    assert [bool(each["wrong"]) for each in rows(run, file)] == [True] * pools


def test_what_fits_but_once_is_warned_of(run: Run, ini: Ini, psycopg_url: str) -> None:
    """There are workers and scripts beside it; it is no error."""
    (row,) = rows(run, ini(written(psycopg_url)))
    most = row["server"]["all"]["allowed"] // 2 + 1
    file = ini(
        written(psycopg_url), f"sqlalchemy.pool_size = {most}", "sqlalchemy.max_overflow = 0"
    )
    said = run("check", file)
    assert said.code == 0
    assert one_line(said).startswith("pdbpool: warning: one process may open")
    assert f"  1 fits, with {most} connections each" in said.out
    half = ini(written(psycopg_url), "sqlalchemy.pool_size = 1", "sqlalchemy.max_overflow = 0")
    assert run("check", half).err == ""


def test_a_pool_without_a_limit_is_warned_of(run: Run, ini: Ini, psycopg_url: str) -> None:
    """A burst fills the server for everybody."""
    said = run("check", ini(written(psycopg_url), "sqlalchemy.pool_size = 0"))
    assert said.code == 0
    assert "pool 'default' has no limit, and max_connections lets in" in one_line(said)


def test_a_limit_of_the_role_or_the_database_counts(
    run: Run, ini: Ini, new_postgres: Callable[..., PrivatePostgres]
) -> None:
    """The least one decides how many processes fit; a role that is no superuser gives some up."""
    server = new_postgres()
    admin = create_engine(server.url(), isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text("CREATE ROLE web LOGIN PASSWORD 's3cret' CONNECTION LIMIT 20"))
        connection.execute(text("CREATE DATABASE small CONNECTION LIMIT 10"))
    url = make_url(server.url()).set(username="web", password="s3cret")
    file = ini(written(url.render_as_string(hide_password=False)))
    said = run("check", file)
    assert said.code == 0
    assert "one process may open 15 connections" in one_line(said)
    assert "role 'web' lets in 20" in said.err
    (row,) = rows(run, file)
    assert row["server"]["all"]["reserved"] >= 3
    assert row["server"]["role"]["allowed"] == 20
    small = ini(written(url.set(database="small").render_as_string(hide_password=False)))
    said = run("check", small)
    assert said.code == 1
    assert "database 'small' lets in 10" in said.err
    admin.dispose()


def test_what_may_not_be_asked_is_named(
    run: Run, ini: Ini, new_postgres: Callable[..., PrivatePostgres]
) -> None:
    """It is no failure, and the rest is told."""
    server = new_postgres()
    admin = create_engine(server.url(), isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text("CREATE ROLE web LOGIN PASSWORD 's3cret'"))
        connection.execute(text("REVOKE ALL ON pg_catalog.pg_stat_activity FROM PUBLIC"))
    admin.dispose()
    url = make_url(server.url()).set(username="web", password="s3cret")
    file = ini(written(url.render_as_string(hide_password=False)))
    said = run("check", file)
    assert (said.code, said.err) == (0, "")
    assert "  not told" in said.out
    (row,) = rows(run, file)
    assert [each.partition(" (")[0] for each in row["server"]["missing"]] == ["who is connected"]
    assert row["server"]["all"]["connected"] is None
    assert row["server"]["all"]["allowed"] > 0


def test_a_pooler_is_recognised(run: Run, ini: Ini, bouncer_settings: dict[str, Any]) -> None:
    """How many it lets in is its own setting, and the server's limit is not this process's."""
    lines = [f"{key} = {str(value).replace('%', '%%')}" for key, value in bouncer_settings.items()]
    file = ini(*lines, "sqlalchemy.pool_size = 500")
    said = run("check", file)
    assert (said.code, said.err) == (0, "")
    assert "something like PgBouncer stands between" in said.out
    (row,) = rows(run, file)
    assert row["server"]["pooler"] is True


def test_mariadb_is_asked_too(run: Run, ini: Ini, mariadb_url: str) -> None:
    """Its limits have other names."""
    file = ini(written(mariadb_url))
    (row,) = rows(run, file)
    server = row["server"]
    assert server["server"].split()[0] == "MariaDB"
    assert server["missing"] == []
    assert server["all"]["name"] == "max_connections"
    assert server["role"]["name"].startswith("max_user_connections of ")
    assert server["tls"] is not None
    assert server["driver"].split()[1][0].isdigit()
    said = run("check", ini(written(mariadb_url), "sqlalchemy.pool_size = 5000"))
    assert said.code == 1
    assert "one process may open 5010 connections" in one_line(said)


def test_a_limit_of_mariadbs_user_counts(run: Run, ini: Ini, pymysql_url: str) -> None:
    """`max_user_connections` of the account, which its session shows."""
    admin = create_engine(pymysql_url)
    database = make_url(pymysql_url).database
    with admin.begin() as connection:
        connection.execute(
            text(
                "CREATE OR REPLACE USER few@'%' IDENTIFIED BY 's3cret' WITH MAX_USER_CONNECTIONS 9"
            )
        )
        connection.execute(text(f"GRANT ALL ON `{database}`.* TO few@'%'"))
    url = make_url(pymysql_url).set(username="few", password="s3cret")
    said = run("check", ini(written(url.render_as_string(hide_password=False))))
    with admin.begin() as connection:
        connection.execute(text("DROP USER few@'%'"))
    admin.dispose()
    assert said.code == 1
    assert "max_user_connections of few@% lets in 9" in one_line(said)


def test_a_log_that_cannot_be_written_stops_nothing(run: Run, ini: Ini, tmp_path: Path) -> None:
    """Whoever checks may be another user than the app's."""
    file = ini("sqlalchemy.url = sqlite://")
    with file.open("a") as more:
        more.write(
            "[loggers]\nkeys = root\n[handlers]\nkeys = file\n[formatters]\nkeys =\n"
            "[logger_root]\nhandlers = file\n[handler_file]\nclass = FileHandler\n"
            f"args = ({str(tmp_path / 'no' / 'app.log')!r},)\n"
        )
    said = run("check", file)
    assert said.code == 0
    assert "warning: the logging of" in one_line(said)
    assert "No such file" in one_line(said)
    assert run("check", "--no-connect", file).err == "", "nothing of the app's runs"
