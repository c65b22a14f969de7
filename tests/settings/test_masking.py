"""No password ever gets into an error, a repr, or a line of a log."""

import re
from functools import partial
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sqlalchemy.engine import URL

from pyramid_dbpool.errors import SettingsError
from pyramid_dbpool.secrets import is_secret, mask_text, mask_url, mask_value, scrub, shown
from pyramid_dbpool.settings import load_pool

# Pieces that must not be seen, and what may stand between, before and after them.
PIECES = ("QxSecretOne", "QxSecretTwo", "QxSecretThree")
BETWEEN = st.text(max_size=4) | st.sampled_from(
    ["@", ":", "/", "?", "#", "%40", "&", "=", "[", "]"]
)
PASSWORDS = st.tuples(*[BETWEEN] * 4).map(
    lambda s: s[0] + "".join(piece + after for piece, after in zip(PIECES, s[1:], strict=True))
)
# What int() reads as a number, before the name of a database.
PORT = re.compile(r"[\s+-]*\d[\d_]*\s*[/?]")
EVIL = ["@", ":", "/", "?", "@/", "@?", "@?a=", "@h:1/", "@[", " ", "\n", "%", "://", "'", '"']


def assert_hidden(text: str) -> None:
    """Check that no piece of a password is in a text."""
    assert "QxSecret" not in text, text


def said(settings: dict[str, Any]) -> str:
    """Return everything that can be seen of some settings: an error, or every repr."""
    try:
        loaded = load_pool(settings)
    except SettingsError as error:
        return f"{error!s} {error!r} {error.__cause__!r}"
    seen = [loaded, loaded.masked_url, loaded.engine_options, loaded.options, loaded.identity()]
    return " ".join(f"{each!r} {each!s}" for each in seen)


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("postgresql://web:s3cret@db/h", "postgresql://web:***@db/h"),
        ("postgresql://web@db/h", "postgresql://web@db/h"),
        ("postgresql://db:5432/h?sslmode=require", "postgresql://db:5432/h?sslmode=require"),
        ("postgresql:///h?password=s3cret", "postgresql:///h?password=***"),
        ("postgresql:///h?sslpassword=a&user=u", "postgresql:///h?sslpassword=***&user=u"),
        ("mssql+pyodbc:///?odbc_connect=PWD%3Ds3cret", "mssql+pyodbc://?odbc_connect=***"),
        ("sqlite:////home/me@work/h.db", "sqlite:////home/me@work/h.db"),
        ("postgresql://web:s3@cret@db/h", "postgresql://***"),
        ("postgresql://web:s3cret", "postgresql://***"),
        ("postgresql:/web:s3cret@db/h", "***"),
        ("host=db password=s3cret", "***"),
        ("s3cret", "***"),
    ],
)
def test_urls_are_shown_without_their_secrets(url: str, masked: str) -> None:
    """A URL that can be read two ways shows only its scheme."""
    # SQLAlchemy 2.0 and 2.1 differ in what they encode.
    assert mask_url(url).replace("%40", "@").replace("pyodbc:///", "pyodbc://") == masked


@given(PASSWORDS)
@example("QxSecretOne@QxSecretTwo:QxSecretThree")
def test_an_encoded_password_is_never_seen(password: str) -> None:
    """As SQLAlchemy wants it written, whatever is in it."""
    for encode in (partial(quote, safe=""), quote_plus):
        url = f"postgresql+psycopg://web:{encode(password)}@db.example/h"
        assert_hidden(mask_url(url))
        assert_hidden(said({"sqlalchemy.url": url}))


@given(PASSWORDS, st.sampled_from(["postgresql://", "mysql+pymysql://", "sqlite://", "x://", ""]))
@example("QxSecretOne@QxSecretTwo?a=QxSecretThree@x", "postgresql://")
@example("QxSecretOne/QxSecretTwo@QxSecretThree", "postgresql://")
def test_a_password_that_was_not_encoded_is_never_seen(password: str, scheme: str) -> None:
    """It breaks the URL in places that nobody foresees."""
    urls = [f"{scheme}web:{password}@db.example/h"]
    if "@" not in password and not PORT.match(password):
        # What follows an @ looks like a host, and a number like the port.
        urls.append(f"{scheme}web:{password}")
    for url in urls:
        assert_hidden(mask_url(url))
        assert_hidden(said({"sqlalchemy.url": url}))


@pytest.mark.parametrize("first", EVIL)
@pytest.mark.parametrize("second", EVIL)
def test_no_two_characters_bring_a_password_to_light(first: str, second: str) -> None:
    """Every pair of those that mean something in a URL."""
    password = f"{PIECES[0]}{first}{PIECES[1]}{second}{PIECES[2]}"
    url = f"postgresql://web:{password}@db.example/h"
    assert_hidden(mask_url(url))
    assert_hidden(said({"sqlalchemy.url": url}))


@given(PASSWORDS)
def test_a_password_in_the_query_is_never_seen(password: str) -> None:
    """libpq takes it there, and others do."""
    encoded = quote(password, safe="")
    for name in ("password", "sslpassword", "passwd", "PWD", "auth_token", "client_secret"):
        url = f"postgresql+psycopg://db.example/h?{name}={encoded}&sslmode=require"
        assert_hidden(mask_url(url))
        assert_hidden(said({"sqlalchemy.url": url}))


@given(PASSWORDS)
def test_a_password_among_the_connect_arguments_is_never_seen(password: str) -> None:
    """At any depth, in a repr and in the error that it causes."""
    secret = {"password": password, "ssl": {"key_password": password, "ca": "x"}}
    settings = {"sqlalchemy.url": "mysql+pymysql://db/h", "sqlalchemy.connect_args": secret}
    assert_hidden(said(settings))
    assert_hidden(said({**settings, "sqlalchemy.pool_siz": "3"}))
    assert_hidden(said({**settings, "sqlalchemy.connect_args": f"{{'password': {password!r}}}"}))


@given(PASSWORDS, st.sampled_from(["poolclass", "creator", "echo", "isolation_level", "passwd"]))
def test_a_url_under_the_wrong_key_is_not_seen(password: str, keyword: str) -> None:
    """Somebody who pastes it one line too low gets an error like any other."""
    url = f"postgresql://web:{quote(password, safe='')}@db.example/h"
    assert_hidden(said({"sqlalchemy.url": "sqlite:///x.db", f"sqlalchemy.{keyword}": url}))
    assert_hidden(said({"dbpool.url_setting": url}))


@given(PASSWORDS)
def test_a_driver_error_is_scrubbed_of_the_password(password: str) -> None:
    """Drivers and hooks write what they like."""
    url = URL.create("postgresql", "web", password, "db", database="h")
    assert_hidden(scrub(f"cannot log in as web with {password}, sorry", url))


def test_a_driver_error_keeps_what_the_url_shows_anyway() -> None:
    """A password that is also the user's name hides nothing else."""
    url = URL.create("postgresql", "postgres", "postgres", "db", database="h")
    assert scrub('no such role "postgres"', url) == 'no such role "postgres"'
    assert scrub("Access denied (using password: YES)", url).endswith("(using password: YES)")
    short = URL.create("postgresql", "web", "a", "db")
    assert scrub("bad password a at all", short) == "bad password *** at all"


@pytest.mark.parametrize("name", ["password", "Passwd", "sslpassword", "db_pw", "PWD", "api_key"])
def test_secrets_are_known_by_their_names(name: str) -> None:
    """As drivers name them."""
    assert is_secret(name)
    assert not is_secret("sslmode")


def test_values_are_shown_by_kind() -> None:
    """Objects only by name, for their repr may show what they hold."""

    def connect(password: str) -> None: ...

    hidden = partial(connect, password="QxSecretOne")
    assert_hidden(shown(hidden))
    assert_hidden(str(mask_value({"creator": hidden, "list": [{"token": "QxSecretOne"}]})))
    assert_hidden(mask_text("password = 'QxSecretOne QxSecretTwo' sslmode=x"))
    assert_hidden(mask_text('{"password": "QxSecret\\"One QxSecretTwo"}'))
    assert_hidden(mask_text("connect to postgresql://a:QxSecretOne QxSecretTwo@b/c"))
    assert shown("x" * 200) == repr("x" * 80 + "...")
    assert shown(None) == "None"
    assert re.fullmatch(r"<.*connect>", shown(connect))


def test_a_url_object_is_masked_too() -> None:
    """Settings made in code hold URLs as objects."""
    url = URL.create("postgresql+psycopg", "web", "QxSecretOne", "db", database="h")
    assert mask_url(url) == "postgresql+psycopg://web:***@db/h"
    assert load_pool({"sqlalchemy.url": url}).url is url
    assert_hidden(said({"sqlalchemy.url": url}))
    assert mask_url(url.set(host="QxSecretOne@db")) == "postgresql+psycopg://***"
