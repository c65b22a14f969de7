"""What `[pshell] setup = pyramid_dbpool.pshell.setup` calls."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from transaction.interfaces import NoTransaction

__all__ = ["setup"]


def setup(env: dict[str, Any]) -> Iterator[None]:
    """Give pshell `db`, a session inside a transaction.

    Where the app has pyramid_tm, `db` joins `tm`, which has begun: call
    ``tm.commit()`` to keep the work, and ``tm.begin()`` to go on. Without it
    call ``db.commit()``. What is not committed when the shell ends is rolled
    back.
    """
    request = env["request"]
    manager = getattr(request, "tm", None)
    if manager is None:
        env["db"] = request.db
        yield
        return
    request.environ["tm.active"] = True
    manager.begin()
    env["tm"] = manager
    env["db"] = request.db
    try:
        yield
    finally:
        with suppress(NoTransaction):
            manager.abort()
        del request.environ["tm.active"]
