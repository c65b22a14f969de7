"""Create the tables that are missing: `python -m example_app.initialize_db development.ini`."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from example_app import ini
from example_app.models import Base
from pyramid_dbpool import get_engine


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script."""
    settings = ini.read_command_line(__doc__, argv)
    with ini.one_line_errors("initialize_db"):
        create_tables(settings)
    return 0


def create_tables(settings: Mapping[str, Any]) -> None:
    """Create the tables that are missing."""
    Base.metadata.create_all(get_engine(settings))


if __name__ == "__main__":
    sys.exit(main())
