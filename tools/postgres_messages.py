"""Write what PostgreSQL servers say when they refuse a connection, in all of their languages.

Run as `python tools/postgres_messages.py [FOLDER]`, where FOLDER is the locale folder of the
server's message catalogues (/usr/share/locale on Debian), and look at the difference before it
is committed: a newer server may have dropped a translation that older ones still send.
"""

import gettext
import json
import sys
from pathlib import Path

TARGET = Path(__file__).parent.parent / "pyramid_dbpool" / "drivers" / "postgres_messages.json"

ABOUT = (
    "What a PostgreSQL server says when it refuses a connection, by language."
    " Written by tools/postgres_messages.py from the server's own message catalogues."
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
        'role "%s" does not exist',
        'role "%s" is not permitted to log in',
        'database "%s" does not exist',
        'database "%s" is not currently accepting connections',
        "permission denied for database %s",
        'permission denied for database "%s"',
    ),
}

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
    catalogues = [
        gettext.GNUTranslations(path.open("rb"))
        for path in sorted(folder.glob("*/LC_MESSAGES/postgres-*.mo"))
    ]
    found: dict[str, object] = {"about": ABOUT}
    for kind, messages in MESSAGES.items():
        lines = dict.fromkeys(messages)
        for catalogue in catalogues:
            lines |= dict.fromkeys(" ".join(catalogue.gettext(m).split()) for m in messages)
        found[kind] = [*(lines | dict.fromkeys(REPORTED[kind]))]
    text = json.dumps(found, ensure_ascii=False, indent=1)
    TARGET.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "/usr/share/locale"))
