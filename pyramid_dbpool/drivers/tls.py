"""Connections over TLS that could not be opened: is a certificate, a key or an option wrong?

Waiting helps against none of that. A server that is stopped in the middle of a handshake is
another thing, and the texts are all that tells the two apart: OpenSSL's, which no driver
translates, and a few of the drivers' own.
"""

import errno
import re
import ssl

from .driver_errors import driver_error, error_number

__all__ = ["FILE_ERRORS", "is_tls_mistake", "tls_options"]

# The number that MariaDB's and MySQL's client libraries have for whatever fails in TLS.
MYSQL_TLS_ERROR = 2026

# OpenSSL's words where one side does not accept the other's certificate or protocol, with "tlsv1",
# "sslv3" or "ssl/tls" before "alert"; then those of PyMySQL and mysql-connector.
_REFUSED = re.compile(
    r"certificate verify failed"
    r"|alert (?:unknown ca|(?:bad|unsupported) certificate|handshake failure|protocol version"
    r"|certificate (?:expired|required|revoked|unknown)|access denied|decrypt error"
    r"|insufficient security|no application protocol)|unrecognized name"
    r"|unsupported protocol|no protocols available|no shared cipher|no ciphers available"
    r"|no suitable signature algorithm|key too small|md too weak"
    r"|unsafe legacy renegotiation disabled|system error: 71\b"
    r"|SSL is required|Invalid CA Certificate|Invalid Certificate/Key"
    r"|Unable to verify server identity",
    re.IGNORECASE,
)
# What passes by itself, although the number or the class is that of the mistakes.
_PASSES = re.compile(
    r"\beof\b|lib\(0\)|internal error|bad record mac|timed out|Too many open files"
    # GnuTLS, which some build MariaDB's library with; and old releases of MySQL's.
    r"|non-properly terminated|(?:push|pull) function|socket layer",
    re.IGNORECASE,
)
# MariaDB's library puts the number of the system's error at the end, if it was one.
_SYSTEM_ERROR = re.compile(r"\((\d+)\)\W*$")
_FILE_NUMBERS = frozenset({errno.ENOENT, errno.EACCES, errno.EISDIR, errno.ENOTDIR})
# Python's own: PyMySQL reads certificates before it connects, and hands on what comes of that. A
# server's socket that is not there comes in an error of the driver's own.
FILE_ERRORS = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)

# The classes of `ssl` that tell of the connection.
_LOST = (
    ssl.SSLEOFError,
    ssl.SSLSyscallError,
    ssl.SSLWantReadError,
    ssl.SSLWantWriteError,
    ssl.SSLZeroReturnError,
)

_ABOUT_TLS = re.compile(r"SSL|TLS|ssl|X509|certificat|private key|no encryption")
# A role, a database, a host or an option that does not exist may have such a name too.
_NAMES = re.compile(r"""["«»„“][^"«»“”]*["«»“”]|\bhost: '[^']*'""")
# The server was asked with TLS too, and misses an entry for this client in either case.
_ASKED_WITH_TLS = re.compile(r"pg_hba\.conf.*(?:SSL encryption|SSL on)", re.DOTALL)


def is_tls_mistake(error: BaseException) -> bool:
    """Tell whether TLS could not be had because something is configured wrongly.

    An expired certificate of the server is a mistake too: somebody has to renew it, and until then
    a caller would wait for nothing.

    :param error: the driver's own.
    """
    text = str(error)
    if "Too many open files" in text:
        return False
    if _REFUSED.search(text):
        return True
    if isinstance(error, ssl.SSLError):
        return not (isinstance(error, _LOST) or _PASSES.search(text))
    number = getattr(error, "errno", None) or error_number(error)
    return number == MYSQL_TLS_ERROR and not _connection_broke(text)


def _connection_broke(text: str) -> bool:
    found = _SYSTEM_ERROR.search(text)
    if found:
        return int(found[1]) not in _FILE_NUMBERS
    return _PASSES.search(text) is not None


def tls_options(error: BaseException) -> str | None:
    """Name the driver's options to look at; None where an error is not about TLS."""
    said = driver_error(error)
    if type(said).__module__.startswith("psycopg"):
        text = _NAMES.sub("", str(said))
        about = _ABOUT_TLS.search(text) and not _ASKED_WITH_TLS.search(text)
        return "sslmode, sslrootcert, sslcert, sslkey" if about else None
    # PyMySQL reads nothing but certificates and keys.
    about = is_tls_mistake(said) or isinstance(said, FILE_ERRORS)
    return "ssl_ca, ssl_cert, ssl_key" if about else None
