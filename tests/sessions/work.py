"""What goes wrong in the work of these tests."""

from typing import Any

from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool


class Broken(Exception):
    """What the tests' work raises."""


DIES_AT_COMMIT = """
CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER dies AFTER INSERT ON rows DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW EXECUTE FUNCTION die();
"""


def terminate(settings: dict[str, Any]) -> None:
    """End every backend of the database."""
    engine = create_engine(settings["sqlalchemy.url"], poolclass=NullPool)
    with engine.connect() as connection:
        connection.execute(
            text(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        )
