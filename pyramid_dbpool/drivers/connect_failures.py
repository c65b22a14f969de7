"""Why a connection could not be opened: what the drivers' errors say of it.

A database is added by an entry in `CONNECT_CLASSIFIERS` (by SQLAlchemy's name of the dialect).
"""

import enum
import functools
import json
import pkgutil
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping

from sqlalchemy.engine import Dialect
from sqlalchemy.exc import ArgumentError, DBAPIError

from .app_errors import place_in_app
from .driver_errors import driver_error, error_number, sqlite_code, sqlstate
from .tls import FILE_ERRORS, is_tls_mistake

__all__ = [
    "TRANSLATED_MESSAGES",
    "ConnectFailure",
    "classify_connect_failure",
    "connect_failure",
]


class ConnectFailure(enum.Enum):
    """Why a connection could not be opened, and so what helps."""

    SATURATED = "saturated"
    """The server has no room: wait for a connection to be closed."""
    UNREACHABLE = "unreachable"
    """The server is away, starting or stopping: wait for it."""
    CONFIGURATION = "configuration"
    """Password, role, database, file or address are wrong: only a person can help."""


SATURATED, UNREACHABLE, CONFIGURATION = ConnectFailure

# PostgreSQL's codes (errcodes.txt), whole or their beginning; pg8000 keeps them at connect.
SQLSTATES: Mapping[str, ConnectFailure] = {
    "53300": SATURATED,  # too many connections
    "08": UNREACHABLE,  # connection exception
    "57P": UNREACHABLE,  # starting, stopping, terminated by an administrator
    "28": CONFIGURATION,  # invalid authorization specification
    "3D": CONFIGURATION,  # invalid catalog name
    "22023": CONFIGURATION,  # invalid parameter value
    "42501": CONFIGURATION,  # insufficient privilege
    "42704": CONFIGURATION,  # undefined parameter
    "55000": CONFIGURATION,  # the database allows no connections
}


def _read_translated() -> Mapping[ConnectFailure, tuple[str, ...]]:
    found = pkgutil.get_data(__package__, "postgres_messages.json")
    texts = json.loads(found or b"{}")
    return {failure: tuple(texts[failure.value]) for failure in ConnectFailure}


# What a PostgreSQL server says when it refuses a connection, and libpq before it asks for one, in
# all of their languages: libpq drops the SQLSTATE of a failed connect, so the text is all that a
# driver has. Read now: when a connect fails, the process may have no descriptor left for a file,
# or may see another root directory.
# tools/postgres_messages.py writes the file.
TRANSLATED_MESSAGES = _read_translated()

# What no catalogue translates: what PgBouncer says, what newer releases of libpq do, and what
# stands in the server's messages untranslated.
POSTGRES_TEXTS: Mapping[ConnectFailure, tuple[str, ...]] = {
    SATURATED: (
        "no more connections allowed",
        "query_wait_timeout",
        "max clients reached",
    ),
    # Of a certificate's file, for one: it is there, and can be opened in a moment.
    UNREACHABLE: ("Too many open files",),
    CONFIGURATION: (
        "pg_hba.conf",
        "fe_sendauth",
        "SASL authentication failed",
        "no such database: ",
        "no such user: ",
        "unsupported startup parameter",
        "invalid channel_binding value",
        "invalid gssencmode value",
        "invalid load_balance_hosts value",
        "invalid require_auth value",
        "invalid sslcertmode value",
        "invalid sslmode value",
        "invalid sslnegotiation value",
        "invalid target_session_attrs value",
        'invalid "ssl_max_protocol_version" value',
        'invalid "ssl_min_protocol_version" value',
        "invalid ssl_max_protocol_version value",
        "invalid ssl_min_protocol_version value",
        "may not be used with sslnegotiation=direct",
        "may not be used with sslrootcert=system",
        'authentication method requirement "%s" failed',
        "unrecognized configuration parameter",
        "invalid value for parameter",
        "cannot connect to invalid database",
    ),
}

# MySQL's and MariaDB's server and client error numbers.
MYSQL_NUMBERS: Mapping[int, ConnectFailure] = {
    **dict.fromkeys((1040, 1203, 1226), SATURATED),
    # 2026: of TLS, but no mistake in it, for those are told by their words.
    **dict.fromkeys((1053, 2002, 2003, 2005, 2006, 2013, 2026, 2055), UNREACHABLE),
    **dict.fromkeys((1044, 1045, 1049, 1115, 1129, 1130, 1193, 1231, 1251), CONFIGURATION),
    **dict.fromkeys((1698, 1820, 1862, 2019, 2054, 2059, 2061, 3118, 4151), CONFIGURATION),
}

SQLITE_CODES: Mapping[int, ConnectFailure] = {
    sqlite3.SQLITE_BUSY: SATURATED,
    sqlite3.SQLITE_LOCKED: SATURATED,
    sqlite3.SQLITE_AUTH: CONFIGURATION,
    sqlite3.SQLITE_CANTOPEN: CONFIGURATION,
    sqlite3.SQLITE_CORRUPT: CONFIGURATION,
    sqlite3.SQLITE_NOTADB: CONFIGURATION,
    sqlite3.SQLITE_PERM: CONFIGURATION,
    sqlite3.SQLITE_READONLY: CONFIGURATION,
}

# So many are left of "Passwort-Authentifizierung f?r", and more than of anything in Cyrillic.
LEAST_LETTERS = 12

# A path, for example; in a longer text the next part of a message is somebody else's.
LONGEST_NAME = 250

# A server on Windows or an old cluster writes its own encoding; psycopg2 then raises
# UnicodeDecodeError in the place of its own error.
SERVER_ENCODINGS = ("utf-8", "cp1252", "cp1250", "cp1251", "koi8-r", "euc-jp", "euc-kr", "gbk")


def classify_connect_failure(dialect: Dialect, error: BaseException) -> ConnectFailure:
    """Tell why a connection could not be opened.

    `error` is the driver's own error, or SQLAlchemy's around it. What no table knows counts as
    `UNREACHABLE`, for that is what passes by itself; a program's error (a wrong keyword in
    `connect_args`) counts as `CONFIGURATION`.
    """
    error = driver_error(error)
    return _classify_by_driver(dialect, error) or _classify_by_type(dialect, error)


def connect_failure(dialect: Dialect, error: DBAPIError) -> ConnectFailure | None:
    """Classify an error of a session if it is a failed connect, else return None.

    SQLAlchemy tells the two apart only by the missing statement, which errors at COMMIT share:
    those come from a server that is there, so with its number or SQLSTATE.
    """
    orig = driver_error(error)
    if error.statement is not None:
        return None
    if failure := _classify_by_driver(dialect, orig):
        return failure
    answered = sqlstate(orig) or error_number(orig) or sqlite_code(orig)
    return None if answered else _classify_by_type(dialect, orig)


def _classify_postgres(error: BaseException) -> ConnectFailure | None:
    state = sqlstate(error) or ""
    for length in (5, 3, 2):
        if failure := SQLSTATES.get(state[:length]):
            return failure
    for text in _texts(error):
        if failure := _meaning_in_postgres(" ".join(text.split())):
            return failure
    return CONFIGURATION if is_tls_mistake(error) else None


def _texts(error: BaseException) -> Iterator[str]:
    yield str(error)
    raw = getattr(getattr(error, "pgconn", None), "error_message", None)
    if isinstance(error, UnicodeDecodeError):
        raw = error.object
    if isinstance(raw, bytes):
        for encoding in SERVER_ENCODINGS:
            yield raw.decode(encoding, errors="replace")


# Remembered, for it takes half a millisecond: each caller whom an outage refuses asks it again.
@functools.lru_cache(maxsize=32)
def _meaning_in_postgres(text: str) -> ConnectFailure | None:
    for failure, messages in _postgres_messages().items():
        # The first part here, for most messages are ruled out by it: a call for each costs more.
        if any(parts[0] in text and _says(text, parts) for parts in messages):
            return failure
    return None


@functools.cache
def _postgres_messages() -> Mapping[ConnectFailure, tuple[tuple[str, ...], ...]]:
    # In this order: of several addresses one may be full or starting while another refuses.
    translated = {failure: TRANSLATED_MESSAGES[failure] for failure in POSTGRES_TEXTS}
    return {
        failure: tuple(map(_parts, (*messages, *_in_ascii(messages), *POSTGRES_TEXTS[failure])))
        for failure, messages in translated.items()
    }


def _in_ascii(messages: Iterable[str]) -> Iterator[str]:
    """Yield those that a server writes otherwise as long as it does not know our encoding."""
    for message in messages:
        plain = "".join(each if each.isascii() else "?" for each in message)
        # Of a language without Latin letters nothing is left that could be told apart.
        if plain != message and sum(map(str.isalpha, plain)) >= LEAST_LETTERS:
            yield plain


def _parts(message: str) -> tuple[str, ...]:
    # Quotation marks are left out: a server whose encoding has none writes others.
    parts = (part.strip(" \"'«»?:") for part in message.split("%s"))
    return tuple(part for part in parts if part)


def _says(text: str, parts: tuple[str, ...]) -> bool:
    """Tell whether the parts of a message come one after the other, with names between them.

    By hand: a regular expression of all messages takes 0.2 s to make and 2 ms to search with.
    """
    end = -1
    for part in parts:
        begin = text.find(part, end + 1)
        if begin < 0 or 0 <= end < begin - LONGEST_NAME:
            return False
        end = begin + len(part)
    return True


def _classify_mysql(error: BaseException) -> ConnectFailure | None:
    if isinstance(error, RuntimeError):
        return CONFIGURATION  # PyMySQL misses the package `cryptography` for this password
    if is_tls_mistake(error):
        return CONFIGURATION  # before the number, which is 2003 or 2013 where PyMySQL met it
    number = getattr(error, "errno", None) or error_number(error)
    return MYSQL_NUMBERS.get(number) if isinstance(number, int) else None


def _classify_sqlite(error: BaseException) -> ConnectFailure | None:
    code = sqlite_code(error)
    return None if code is None else SQLITE_CODES.get(code)


CONNECT_CLASSIFIERS: Mapping[str, Callable[[BaseException], ConnectFailure | None]] = {
    "postgresql": _classify_postgres,
    "mysql": _classify_mysql,
    "mariadb": _classify_mysql,
    "sqlite": _classify_sqlite,
}


def _classify_by_driver(dialect: Dialect, error: BaseException) -> ConnectFailure | None:
    classify = CONNECT_CLASSIFIERS.get(dialect.name)
    return None if classify is None else classify(error)


def _classify_by_type(dialect: Dialect, error: BaseException) -> ConnectFailure:
    if is_tls_mistake(error):
        return CONFIGURATION
    # The app's own may be looking for a file that somebody is about to write.
    if isinstance(error, FILE_ERRORS) and place_in_app(error) is None:
        return CONFIGURATION
    if isinstance(error, (UnicodeDecodeError, OSError)):
        return UNREACHABLE
    module = dialect.loaded_dbapi
    wrong = (module.ProgrammingError, module.NotSupportedError, ArgumentError)
    program = (AttributeError, ImportError, LookupError, TypeError, ValueError)
    return CONFIGURATION if isinstance(error, wrong + program) else UNREACHABLE
