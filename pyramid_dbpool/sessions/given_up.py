"""What giving a connection back gives up besides changes: locks, and notifications to be sent.

PostgreSQL can be asked for its locks; of the others' only the statements tell.
"""

from sqlalchemy import Connection, text

from ..engines.sent import Sent

__all__ = ["gives_up"]

# A transaction has a number once it has written, or locked a row. The modes that are left out are
# those of a SELECT, also with FOR UPDATE where it finds no row; nextval() locks its sequence.
# An advisory lock of the session outlives the transaction, but its author loses it all the same.
_POSTGRESQL_HOLDS = text(
    "SELECT txid_current_if_assigned() IS NOT NULL OR EXISTS ("
    "SELECT FROM pg_locks l LEFT JOIN pg_class c ON c.oid = l.relation AND c.relkind = 'S'"
    " WHERE l.pid = pg_backend_pid() AND l.locktype <> 'virtualxid' AND c.oid IS NULL"
    " AND l.mode NOT IN ('AccessShareLock', 'RowShareLock', 'SIReadLock'))"
)


def gives_up(connection: Connection, sent: Sent) -> bool:
    """Tell whether giving this connection back would give up what somebody counts on.

    On PostgreSQL that includes every change, and costs a round trip.
    """
    if connection.dialect.name != "postgresql":
        # PostgreSQL knows better than the statements what is written.
        return sent.changed or sent.tables or bool(sent.held)
    return bool(sent.held) or bool(connection.scalar(_POSTGRESQL_HOLDS))
