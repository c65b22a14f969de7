"""Openings fail while the connections that are open work: a rotated password, a resolver."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from sqlalchemy import URL, create_engine, make_url, text
from sqlalchemy.pool import NullPool

from drills import ledger, writes
from drills.faults import Fault
from drills.report import Figure
from drills.stack import SERVER, Programs, ending
from pyramid_dbpool.embedded import PrivatePostgres
from tests.support.servers.ports import kept_port
from tests.support.servers.process import find_program

HOST = "database.drill"
HOSTS = "127.0.0.1 localhost\n"
# All connections of each web process but one end: in their places others are to be opened. The
# worker's only one stays, without which it would have to end, as after any other refused login.
ALL_BUT_ONE = """
SELECT pg_terminate_backend(pid) FROM (
    SELECT pid, row_number() OVER (PARTITION BY application_name) AS number
    FROM pg_stat_activity WHERE application_name LIKE '% web %'
) AS numbered
WHERE number > 1
"""


def password(seconds: float, away: float, patience: float = 5.0) -> list[Figure]:
    """Rotate the password: for `away` seconds the app has the old one."""
    with ending() as (folder, ends), database(folder, ends) as (url, execute):
        passwords = folder / "passwords"
        write_password(passwords, "first")
        made = Programs(folder, "ledger", with_passwords(url, passwords), ends, patience)

        def rotate() -> None:
            execute("ALTER ROLE app PASSWORD 'second'")
            execute(ALL_BUT_ONE)
            time.sleep(away)
            write_password(passwords, "second")

        return writes.under(made, [Fault("password rotated", rotate)], seconds, lambda: url)


def resolver(seconds: float, away: float, patience: float = 5.0) -> list[Figure]:
    """Let the server's name be unknown for `away` seconds."""
    with ending() as (folder, ends), database(folder, ends) as (url, execute):
        passwords, hosts = folder / "passwords", folder / "hosts"
        write_password(passwords, "first")
        hosts.write_text(f"{HOSTS}127.0.0.1 {HOST}\n")
        named = with_passwords(url, passwords, HOST)
        made = Programs(folder, "ledger", named, ends, patience, command=with_hosts(hosts))

        def forget() -> None:
            hosts.write_text(HOSTS)
            execute(ALL_BUT_ONE)
            time.sleep(away)
            hosts.write_text(f"{HOSTS}127.0.0.1 {HOST}\n")

        return writes.under(made, [Fault("name unknown", forget)], seconds, lambda: url)


@contextmanager
def database(folder: Path, ends: ExitStack) -> Iterator[tuple[str, Callable[[str], object]]]:
    """Start PostgreSQL, with a role `app` that has a password; give its URL, and the way to it."""
    port = ends.enter_context(kept_port())
    server = PrivatePostgres(folder / "postgres", port, settings=SERVER, password="secret")
    with server:
        admin = create_engine(server.url(), poolclass=NullPool, isolation_level="AUTOCOMMIT")

        def execute(sql: str) -> None:
            with admin.connect() as connection:
                connection.execute(text(sql))

        execute("CREATE ROLE app LOGIN PASSWORD 'first'")
        ledger.make_tables(server.url())
        execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO app")
        execute("GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO app")
        yield server.url(), execute


def with_passwords(url: str, passwords: Path, host: str = "127.0.0.1") -> str:
    """Have libpq look the password of `app` up in a file, at each opening."""
    found, query = make_url(url), {"passfile": str(passwords)}
    made = URL.create(found.drivername, "app", None, host, found.port, found.database, query)
    return made.render_as_string(hide_password=False)


def write_password(passwords: Path, password: str) -> None:
    """Put another one there; libpq wants nobody else to be able to read it."""
    new = passwords.with_suffix(".new")
    new.write_text(f"*:*:*:*:{password}\n")
    new.chmod(0o600)
    new.rename(passwords)


def with_hosts(hosts: Path) -> Sequence[str]:
    """Start a program that finds these hosts and no other, in a system of its own for that."""
    script = f'mount --bind {hosts} /etc/hosts && exec "$@"'
    return [str(find_program("unshare")), "--map-root-user", "--mount", "sh", "-c", script, "sh"]
