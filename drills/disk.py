"""The disk of the database is full for a while: reads go on, writes are refused or wait."""

import time

from drills import writes
from drills.faults import Fault
from drills.ledger import Entry, Handled
from drills.openings import database
from drills.report import Figure
from drills.stack import Programs, ending
from tests.support.servers.disks import SmallDisk

MEGABYTES = 8


def drill(seconds: float, away: float, patience: float = 5.0) -> list[Figure]:
    """Let what the app writes into be full for `away` seconds; needs root, for the disk."""
    with ending() as (folder, ends):
        disk = SmallDisk(folder / "disk", MEGABYTES)
        ends.callback(disk.close)
        with database(folder, ends) as (url, execute):
            execute(f"CREATE TABLESPACE small LOCATION '{disk.folder}'")
            execute("ALTER TABLE ALL IN TABLESPACE pg_default SET TABLESPACE small")
            for table in (Entry.__tablename__, Handled.__tablename__):
                # A page that has room would go on taking rows.
                execute(f"ALTER TABLE {table} SET (fillfactor = 10)")

            def fill() -> None:
                disk.fill()
                time.sleep(away)
                disk.free()

            made = Programs(folder, "ledger", url, ends, patience)
            return writes.under(
                made, [Fault("disk full", fill)], seconds, lambda: url, refused=True
            )
