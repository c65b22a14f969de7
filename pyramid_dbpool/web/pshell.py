"""What `[pshell] setup = pyramid_dbpool.pshell.setup` calls."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from transaction.interfaces import NoTransaction

from ..settings import load_app

__all__ = ["setup"]


def setup(env: dict[str, Any]) -> Iterator[None]:
    """Give pshell `db`, a session inside a transaction.

    Where the app has pyramid_tm, `db` joins `tm`, which has begun: call
    ``tm.commit()`` to keep the work, and ``tm.begin()`` to go on. Without it
    call ``db.commit()``. What is not committed when the shell ends is rolled
    back; the shell says so when it begins.
    """
    request = env["request"]
    attribute = load_app(request.registry.settings).request_attr
    manager = getattr(request, "tm", None)
    how = "db" if manager is None else "tm"
    print(f"What is not committed with {how}.commit() is rolled back when the shell ends.")
    if manager is None:
        env["db"] = getattr(request, attribute)
        yield
        return
    request.environ["tm.active"] = True
    manager.begin()
    env["tm"] = manager
    env["db"] = getattr(request, attribute)
    try:
        yield
    finally:
        with suppress(NoTransaction):
            manager.abort()
        del request.environ["tm.active"]
