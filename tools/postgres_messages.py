"""Write what PostgreSQL servers and libpq say of a connection that cannot be, in all languages.

Run as `python tools/postgres_messages.py [FOLDER]`, where FOLDER is the locale folder of the
message catalogues of the server and of libpq (/usr/share/locale on Debian), and look at the
difference before it is committed: a newer release may have dropped a translation that older ones
still send.
"""

import gettext
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

TARGET = Path(__file__).parent.parent / "pyramid_dbpool" / "drivers" / "postgres_messages.json"

ABOUT = (
    "What a PostgreSQL server says when it refuses a connection, and libpq when it asks for none,"
    " by language. Written by tools/postgres_messages.py from their own message catalogues."
)

# By the value of `pyramid_dbpool.drivers.connect_failures.ConnectFailure`.
MESSAGES = {
    "saturated": (
        "sorry, too many clients already",
        "remaining connection slots are reserved for non-replication superuser connections",
        "remaining connection slots are reserved for roles with the %s attribute",
        'remaining connection slots are reserved for roles with privileges of the "%s" role',
        'too many connections for role "%s"',
        'too many connections for database "%s"',
    ),
    "unreachable": (
        "the database system is starting up",
        "the database system is shutting down",
        "the database system is in recovery mode",
        "the database system is not accepting connections",
        "the database system is not yet accepting connections",
    ),
    "configuration": (
        'password authentication failed for user "%s"',
        'Peer authentication failed for user "%s"',
        'Ident authentication failed for user "%s"',
        'LDAP authentication failed for user "%s"',
        'PAM authentication failed for user "%s"',
        'GSSAPI authentication failed for user "%s"',
        'certificate authentication failed for user "%s"',
        'RADIUS authentication failed for user "%s"',
        '"trust" authentication failed for user "%s"',
        'authentication failed for user "%s": host rejected',
        "connection requires a valid client certificate",
        'role "%s" does not exist',
        'role "%s" is not permitted to log in',
        'database "%s" does not exist',
        'database "%s" is not currently accepting connections',
        "permission denied for database %s",
        'permission denied for database "%s"',
    ),
}

# What libpq says before it sends anything, or of what it is answered: the beginnings of its texts,
# whose ends differ from release to release.
CLIENT_MESSAGES = (
    'root certificate file "%s" does not exist',
    "could not get home directory to locate root certificate file",
    'could not read root certificate file "%s"',
    'could not open certificate file "%s"',
    'could not read certificate file "%s"',
    'certificate present, but not private key file "%s"',
    'private key file "%s" has group or world access',
    'private key file "%s" is not a regular file',
    'could not load private key file "%s"',
    'could not stat private key file "%s"',
    'certificate does not match private key file "%s"',
    'server certificate for "%s" does not match host name "%s"',
    "could not get server's host name from server certificate",
    "host name must be specified for a verified SSL connection",
    "server does not support SSL, but SSL was required",
    'sslmode value "%s" invalid when SSL support is not compiled in',
    "could not set minimum SSL protocol version",
    "could not set maximum SSL protocol version",
    "invalid SSL protocol version range",
    "server doesn't support GSSAPI encryption, but it was required",
    "channel binding is required, but client does not support it",
    "channel binding is required, but server did not offer an authentication method",
    "channel binding required but not supported by server's authentication request",
    "channel binding required, but SSL not in use",
    "channel binding required, but server authenticated client without channel binding",
    "none of the server's SASL authentication mechanisms are supported",
    'requirepeer specifies "%s", but actual peer user name is "%s"',
    'definition of service "%s" not found',
    'service file "%s" not found',
    'syntax error in service file "%s"',
    'line %d too long in service file "%s"',
    "nested service specifications not supported in service file",
    'invalid connection option "%s"',
    'invalid integer value "%s" for connection option "%s"',
    'invalid port number: "%s"',
    "could not match %d port numbers to %d hosts",
    "could not match %d host names to %d hostaddr values",
    'Unix-domain socket path "%s" is too long',
)

# What people report from servers whose translation the newest releases no longer ship.
REPORTED = {
    "saturated": ("desculpe, muitos clientes",),
    "unreachable": (),
    "configuration": (
        "autenticação do tipo senha falhou para",
        'banco de dados "%s" não existe',
        "autoryzacja hasłem nie powiodła się",
        'baza danych "%s" nie istnieje',
        'rola "%s" nie istnieje',
    ),
}


def main(folder: Path) -> None:
    """Write the package's file."""
    servers, clients = _catalogues(folder, "postgres"), _catalogues(folder, "libpq5")
    found: dict[str, object] = {"about": ABOUT}
    for kind, messages in MESSAGES.items():
        lines = dict.fromkeys(messages)
        for catalogue in servers:
            lines |= dict.fromkeys(" ".join(catalogue.gettext(m).split()) for m in messages)
        lines |= dict.fromkeys(REPORTED[kind])
        if kind == "configuration":
            lines |= dict.fromkeys(map(_plain, CLIENT_MESSAGES))
            for catalogue in clients:
                lines |= dict.fromkeys(_beginnings(catalogue))
        found[kind] = [*lines]
    text = json.dumps(found, ensure_ascii=False, indent=1)
    TARGET.write_text(text + "\n", encoding="utf-8")


def _catalogues(folder: Path, program: str) -> list[gettext.GNUTranslations]:
    paths = sorted(folder.glob(f"*/LC_MESSAGES/{program}-*.mo"))
    return [gettext.GNUTranslations(path.open("rb")) for path in paths]


def _beginnings(catalogue: gettext.GNUTranslations) -> Iterator[str]:
    """Give libpq's messages in the language of a catalogue, as far as they are the same in all."""
    # The one way to a message of which only the beginning is known.
    known = vars(catalogue)["_catalog"]
    for message in CLIENT_MESSAGES:
        for whole, translated in known.items():
            if isinstance(whole, str) and whole.startswith(message):
                yield _plain(re.split(r"[;\n]", translated)[0])


def _plain(message: str) -> str:
    """Put a text on one line, with %s wherever it is filled in, but not at its end."""
    text = " ".join(re.sub(r"%(?:\d+\$)?[lz]*[a-z]", "%s", message).split())
    return text.removesuffix("%s").rstrip(" :") if text.endswith(": %s") else text


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "/usr/share/locale"))
