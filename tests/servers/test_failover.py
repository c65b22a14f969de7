"""The pairs of servers that fail over: what is written arrives, whoever is primary."""

from collections.abc import Callable
from pathlib import Path

from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from tests.support.servers.failover import MariaDBPair, PostgresPair


def rows(url: str) -> list[int]:
    """List the numbers that are in a table at a server."""
    with create_engine(url, poolclass=NullPool).connect() as connection:
        return list(connection.scalars(text("SELECT id FROM numbers ORDER BY id")))


def test_a_standby_of_postgres_takes_over_and_the_old_primary_follows(
    new_postgres_pair: Callable[..., PostgresPair],
) -> None:
    """And over again; the address leads where it was told to."""
    pair = new_postgres_pair(synchronous=True)
    pair.execute("CREATE TABLE numbers (id int)")
    for number in (1, 2):
        pair.execute(f"INSERT INTO numbers VALUES ({number})")
        pair.primary.kill()
        old = pair.promote()
        assert pair.primary is not old
        pair.rejoin(old)
        pair.lead_to(pair.primary)
    pair.execute("INSERT INTO numbers VALUES (3)")
    pair.catch_up()
    assert rows(pair.url()) == rows(pair.standby.url()) == [1, 2, 3]


def test_a_fence_stands_as_it_is_entered(
    new_postgres_pair: Callable[..., PostgresPair],
) -> None:
    """And is gone as it is left, for who was connected before and for who comes then."""
    pair = new_postgres_pair()
    fence = text("SHOW default_transaction_read_only")
    before = create_engine(pair.url(), isolation_level="AUTOCOMMIT")
    after = create_engine(pair.url(), poolclass=NullPool)

    def seen() -> set[str]:
        found = set()
        for engine in (before, after):
            with engine.connect() as connection:
                found.add(connection.scalar(fence))
        return found

    for _ in range(10):
        assert seen() == {"off"}
        with pair.fenced():
            assert seen() == {"on"}
    before.dispose()


def test_a_replica_of_mariadb_takes_over_and_the_old_primary_follows(
    tmp_path: Path, installed_mariadb: Path
) -> None:
    """And over again; once the primary is made read-only, once it crashes."""
    pair = MariaDBPair(tmp_path / "pair", installed_mariadb)
    try:
        pair.replicate()
        pair.execute("CREATE TABLE test.numbers (id int)")
        for number in (1, 2):
            pair.execute(f"INSERT INTO test.numbers VALUES ({number})")
            pair.catch_up()
            if number == 1:
                pair.demote()
            else:
                pair.primary.kill()
            old = pair.promote()
            assert pair.primary is not old
            pair.rejoin(old)
            pair.lead_to(pair.primary)
        pair.execute("INSERT INTO test.numbers VALUES (3)")
        pair.catch_up()
        assert rows(pair.url()) == rows(pair.standby.url("pymysql", "test")) == [1, 2, 3]
    finally:
        pair.stop()
