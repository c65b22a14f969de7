"""What is committed behind SQLAlchemy's back, through the driver's own connection."""

from collections.abc import Callable
from typing import Any

import pytest
from pyramid.request import Request
from sqlalchemy import create_engine, text
from sqlalchemy import insert as insert_into
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm.exc import StaleDataError
from sqlalchemy.pool import NullPool

from tests.support.servers.fixtures import MARIADB, POSTGRES
from tests.support.webapp import PARTS, Row, app, database
from tests.web.retry.views import (
    NewDatabase,
    at_first,
    backend_ended,
    kill_in_mariadb,
    settings_for,
)

SERVERS = [*POSTGRES, *MARIADB]
# mysqlclient does not show whether it is in a transaction.
ROW = insert_into(Row).values(id=1000)
SHOWING = [each for each in SERVERS if each != "mysql+mysqldb"]


def insert(request: Request) -> None:
    request.db.execute(ROW)


def insert_with_driver(request: Request, connection: Any) -> None:
    dialect = request.db.get_bind().dialect
    compiled = ROW.compile(dialect=dialect, compile_kwargs={"literal_binds": True})
    connection.cursor().execute(str(compiled))


def pools(request: Request) -> Any:
    return request.db.connection().connection


def drivers(request: Request) -> Any:
    return pools(request).dbapi_connection


def of_the_driver(request: Request) -> None:
    insert(request)
    drivers(request).commit()


def of_a_cursor(request: Request) -> None:
    insert(request)
    pools(request).cursor().execute("COMMIT")


def autocommit_in_the_middle(request: Request) -> None:
    driver = drivers(request)
    driver.commit()
    if callable(driver.autocommit):
        driver.autocommit(True)
    else:
        driver.autocommit = True
    insert(request)


def of_the_pool(request: Request) -> None:
    insert_with_driver(request, pools(request))
    pools(request).commit()


def of_the_driver_alone(request: Request) -> None:
    driver = pools(request).driver_connection
    insert_with_driver(request, driver)
    driver.commit()
    driver.cursor().execute("SELECT 1")


def lost(request: Request, url: str) -> None:
    outside = create_engine(url, poolclass=NullPool)
    if outside.dialect.name == "postgresql":
        backend_ended(request.db.connection(), outside)
    else:
        number = request.db.scalar(text("SELECT CONNECTION_ID()"))
        with outside.connect() as other:
            kill_in_mariadb(other, number)
    request.db.execute(text("SELECT 1"))


def attempts_after(
    stores: Callable[[Request], None], url: str, **settings: str
) -> tuple[int, bool]:
    """Store something at the first attempt, then lose the connection; tell of rows and errors."""

    def trouble(request: Request) -> None:
        stores(request)
        lost(request, url)

    with (
        database(url) as count,
        app(settings_for(url) | settings, *PARTS, index=at_first(trouble)) as web,
    ):
        try:
            web.client.post("/")
        except DBAPIError:
            return count(), True
        return count(), False


@pytest.mark.parametrize("stores", [of_the_pool, of_the_driver_alone])
@pytest.mark.parametrize("backend", SERVERS)
def test_what_a_loader_commits_by_itself_is_stored(
    new_database: NewDatabase, backend: str, stores: Callable[[Request], None]
) -> None:
    """SQLAlchemy has sent nothing of it; the view's own row goes with it."""
    assert attempts_after(stores, new_database(backend)) == (2, True)


@pytest.mark.parametrize("stores", [of_the_driver, of_a_cursor])
@pytest.mark.parametrize("backend", SHOWING)
def test_what_the_driver_commits_is_stored(
    new_database: NewDatabase, backend: str, stores: Callable[[Request], None]
) -> None:
    """At the next statement the driver shows that it is in no transaction."""
    assert attempts_after(stores, new_database(backend)) == (2, True)


@pytest.mark.parametrize("backend", SHOWING)
def test_it_is_seen_without_another_statement(new_database: NewDatabase, backend: str) -> None:
    """At the rollback of what has lost a race in Python."""
    url = new_database(backend)

    def trouble(request: Request) -> None:
        of_the_driver(request)
        raise StaleDataError

    with database(url) as count, app(settings_for(url), *PARTS, index=at_first(trouble)) as web:
        with pytest.raises(StaleDataError):
            web.client.post("/")
        assert count() == 2


@pytest.mark.parametrize("backend", ["postgresql+psycopg2", "mysql+pymysql"])
def test_what_a_driver_stores_that_was_told_to_commit_each_statement(
    new_database: NewDatabase, backend: str
) -> None:
    """In the middle of a transaction, as SQLAlchemy has it."""
    assert attempts_after(autocommit_in_the_middle, new_database(backend)) == (2, True)


def test_another_pool_than_ours_tells_too(new_database: NewDatabase) -> None:
    """Its checkout is an event."""
    url = new_database("postgresql+psycopg")
    null = {"sqlalchemy.poolclass": "sqlalchemy.pool.NullPool"}
    assert attempts_after(of_the_pool, url, **null) == (2, True)


def test_what_a_pool_commits_at_a_return_is_stored(new_database: NewDatabase) -> None:
    """With `pool_reset_on_return`, nobody says COMMIT."""
    url = new_database("postgresql+psycopg")

    def returns(request: Request) -> None:
        with request.registry["sqlalchemy.engine"].connect() as connection:
            # Behind SQLAlchemy's back: it would roll back what it has begun.
            insert_with_driver(request, connection.connection)

    committing = {"sqlalchemy.pool_reset_on_return": "commit"}
    assert attempts_after(returns, url, **committing) == (1, True)


def nothing(request: Request) -> None:
    request.db.execute(text("SELECT 1"))


def pool_rolled_back(request: Request) -> None:
    insert(request)
    pools(request).rollback()
    request.db.execute(text("SELECT 1"))


def rolled_back_in_words(request: Request) -> None:
    insert(request)
    request.db.execute(text("ROLLBACK"))
    request.db.execute(text("SELECT 1"))


def swallowed(request: Request) -> None:
    insert(request)
    with pytest.raises(IntegrityError), request.db.begin_nested():
        insert(request)
    request.db.execute(text("SELECT 1"))


def failed_at_once(request: Request) -> None:
    request.db.rollback()
    with pytest.raises(DBAPIError), request.db.begin_nested():
        request.db.execute(text("INSERT INTO nowhere VALUES (1)"))
    request.db.execute(text("SELECT 1"))


def begun_again(request: Request) -> None:
    insert(request)
    request.db.rollback()
    request.db.execute(text("SELECT 1"))


STORES_NOTHING = [
    nothing,
    pool_rolled_back,
    swallowed,
    failed_at_once,
    begun_again,
]


@pytest.mark.parametrize(
    ("backend", "again"),
    [("postgresql+psycopg", True), ("postgresql+psycopg2", False), ("mysql+pymysql", True)],
)
def test_a_rollback_in_words(new_database: NewDatabase, backend: str, again: bool) -> None:
    """It ends the transaction; psycopg2 begins no other one, and stores what comes next."""
    attempts = attempts_after(rolled_back_in_words, new_database(backend))
    assert attempts == (int(again), not again)


@pytest.mark.parametrize("harmless", STORES_NOTHING)
@pytest.mark.parametrize("backend", SERVERS)
def test_what_stores_nothing_is_tried_again_still(
    new_database: NewDatabase, backend: str, harmless: Callable[[Request], None]
) -> None:
    """Whatever has become of its transaction."""
    assert attempts_after(harmless, new_database(backend)) == (1, False)
