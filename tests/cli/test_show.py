"""`pdbpool show`: what holds, and where it comes from."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pyramid_dbpool.cli.places import places
from tests.cli.said import Run, one_line

URL = "postgresql+psycopg://web:s3cret@db.example/h?sslmode=require&sslpassword=s3cret"


def shown(run: Run, *args: object) -> dict[str, Any]:
    """Return the rows of the default pool, by their setting: value, and where it comes from."""
    said = run("show", "--format", "json", *args)
    assert (said.code, said.err) == (0, "")
    (pool,) = json.loads(said.out)["pools"]
    return {row["setting"]: (row["value"], row["from"], row["where"]) for row in pool["settings"]}


def test_each_setting_says_where_it_comes_from(run: Run, ini: Callable[..., Path]) -> None:
    """The file with its line, the command line, or the default."""
    file = ini(f"sqlalchemy.url = {URL}", "# A comment.", "sqlalchemy.pool_size : 7")
    found = shown(run, file, "dbpool.min_idle=2")
    assert found["sqlalchemy.pool_size"] == (7, "file", f"{file}:5")
    assert found["sqlalchemy.max_overflow"] == (10, "default", "default")
    assert found["dbpool.min_idle"] == (2, "command line", "command line")
    assert found["dbpool.max_waiting"] == (340, "default", "default: 20 for each connection")
    assert found["sqlalchemy.poolclass"] == ("ManagedPool", "default", "default")


def test_what_the_url_and_the_environment_say_is_shown(
    run: Run, ini: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have a say at the driver; neither shows a password."""
    monkeypatch.setenv("PGPASSWORD", "s3cret")
    monkeypatch.setenv("PGSSLMODE", "disable")
    found = shown(run, ini(f"sqlalchemy.url = {URL}"))
    assert found["sslmode"] == ("require", "url", "sqlalchemy.url")
    assert found["sslpassword"][0] == found["PGPASSWORD"][0] == "***"
    assert found["PGSSLMODE"][:2] == ("disable", "environment")
    assert found["sqlalchemy.url"][0] == URL.replace("s3cret", "***")
    found = shown(run, ini("sqlalchemy.url = sqlite:///h.db"))
    assert "PGSSLMODE" not in found, "SQLite does not look at it"


def test_a_limit_that_the_hosts_share_is_explained(run: Run, ini: Callable[..., Path]) -> None:
    """And one that the driver has been given is left to it."""
    found = shown(run, ini("sqlalchemy.url = postgresql+psycopg://a,b/h"))
    assert found["dbpool.connect_timeout"][::2] == (2, "default: 5 s, shared by the hosts")
    assert found["sqlalchemy.connect_args"][0] == {"connect_timeout": 2}
    found = shown(run, ini("sqlalchemy.url = postgresql+psycopg://a/h?connect_timeout=9"))
    assert found["dbpool.connect_timeout"][0] is None
    assert found["dbpool.connect_timeout"][2].startswith("the driver")


def test_secrets_are_masked_at_any_depth(run: Run, ini: Callable[..., Path]) -> None:
    """`Said` looks for the password in all that is printed."""
    file = ini(
        "sqlalchemy.url = postgresql+psycopg://db/h",
        'sqlalchemy.connect_args = {"password": "s3cret", "options": "-c a.token=s3cret"}',
    )
    assert shown(run, file)["sqlalchemy.connect_args"][0]["password"] == "***"
    assert '"password": "***"' in run("show", file).out


def test_people_see_a_table_for_each_pool(run: Run, ini: Callable[..., Path]) -> None:
    """As one would write it in an ini file, and the app's own after them."""
    file = ini(
        "sqlalchemy.url = sqlite:///h.db",
        "sqlalchemy.echo = true",
        "sqlalchemy.memory.url = sqlite://",
        "dbpool.request_timeout = 8",
    )
    said = run("show", file)
    assert (said.code, said.err) == (0, "")
    lines = [line.split() for line in said.out.splitlines()]
    assert ["Pool", "default:", "ManagedPool,", "at", "most", "15;", "sqlite:///h.db"] in lines
    assert ["sqlalchemy.echo", "true", f"{file}:4"] in lines
    assert ["sqlalchemy.pool_timeout", "5", "s", "default"] in lines
    assert ["dbpool.session_class", "sqlalchemy.orm.Session", "default"] in lines
    assert "Pool memory: SingletonThreadPool, no limit; sqlite://" in said.out
    assert ["dbpool.request_timeout", "8", "s", f"{file}:6"] in lines


def test_a_wrong_file_is_told_as_by_check(run: Run, ini: Callable[..., Path]) -> None:
    """Nothing holds of what an app would refuse."""
    said = run("show", ini("sqlalchemy.url = sqlite://", "dbpool.min_idel = 3"))
    assert (said.code, said.out) == (2, "")
    assert "dbpool.min_idle" in one_line(said)


def test_a_setting_is_found_in_the_section_that_another_one_uses(tmp_path: Path) -> None:
    """The nearest one has the say; also in another file, and behind a pipeline."""
    (tmp_path / "base.ini").write_text("[app:main]\nuse = egg:x\nc = 1\n")
    (tmp_path / "app.ini").write_text(
        "[pipeline:site]\npipeline = filter one\n"
        "[app:one]\nuse = two\na = 1\nget b = b\n"
        "[app:two]\nuse = config:base.ini\na = 2\n  more = of a\nd = %(x)s%%(no)s\n"
        "[other]\ne = 1\n"
    )
    found = places(f"{tmp_path}/app.ini#site")
    told = {key: str(place).removeprefix(f"{tmp_path}/") for key, place in found.items()}
    assert {key: told[key] for key in "abcd"} == {
        "a": "app.ini:5",
        "b": "app.ini:6",
        "c": "base.ini:3",
        "d": "app.ini:11",
    }
    assert found["d"].variables == ("x",)
    assert not {"e", "more"} & found.keys()


def test_sections_that_use_each_other_come_to_an_end(tmp_path: Path) -> None:
    """PasteDeploy refuses them; whoever asks here must not wait for ever."""
    (tmp_path / "app.ini").write_text("[app:main]\nuse = main\na = 1\n")
    assert str(places(f"{tmp_path}/app.ini")["a"]).endswith("app.ini:3")
    assert places(f"{tmp_path}/none.ini") == {}
