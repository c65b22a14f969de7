"""Bring the database's tables to what the code needs: `example-app-migrate some.ini`."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from alembic import command
from alembic.config import Config

from example_app import ini

PROGRAM = "example-app-migrate"
# Any number that no other advisory lock of this database has.
LOCK = 7_265_113


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script."""
    settings = ini.read_command_line(PROGRAM, __doc__, argv)
    with ini.one_line_errors(PROGRAM):
        upgrade(settings)
    return 0


def upgrade(settings: Mapping[str, Any]) -> None:
    """Run the migrations that the database lacks, all or none; several processes may try."""
    config = Config(attributes={"settings": settings})
    config.set_main_option("script_location", "example_app:migrations")
    command.upgrade(config, "head")


if __name__ == "__main__":
    sys.exit(main())
