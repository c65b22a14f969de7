"""Fork with one connection idle and one in a transaction; tell what parent and child see.

    python -m tests.support.fork_script URL HOW FIRST [CONNECT_ARGS [POOL]]

HOW is `fork`, `multiprocessing`, or `without-hooks`: a fork that Python does not notice, in
what looks like uWSGI's master. FIRST is what the child does first, a key of `FIRST`. Prints one
JSON object: what the child reported, and whether each of the parent's connections is still the
same and works, after the child has ended.
"""

import ctypes
import gc
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from sqlalchemy import text
from sqlalchemy.orm import Session

from pyramid_dbpool import get_engine, session_factory

BACKEND = {
    "postgresql": "SELECT pg_backend_pid()",
    "mysql": "SELECT CONNECTION_ID()",
    "sqlite": "SELECT 0",
}

MASTER = os.getpid()
UWSGI = SimpleNamespace(masterpid=lambda: MASTER)


def backend(session: Session) -> int:
    statement = BACKEND[session.get_bind().dialect.name.replace("mariadb", "mysql")]
    return int(session.scalar(text(statement)) or 0)


def error_of(action: Callable[[], Any]) -> str:
    try:
        action()
    except Exception as error:
        return type(error).__name__
    return "no error"


FIRST: dict[str, Callable[[Session], Any]] = {
    "execute": lambda held: held.execute(text("SELECT 1")),
    "commit": lambda held: held.commit(),
    "close": lambda held: held.close(),
    "dispose": lambda held: held.get_bind().engine.dispose(),
    "exit": lambda held: sys.exit(),
    "own": lambda held: held.get_bind().engine.connect().close(),
}


def in_child(settings: dict[str, str], held: Session, report: Path, first: str) -> None:
    report.write_text("{}")
    own = session_factory(settings)
    seen: dict[str, Any] = {
        "first": error_of(lambda: FIRST[first](held)),
        "use of the held session": error_of(lambda: held.execute(text("SELECT 1"))),
        "commit of the held session": error_of(held.commit),
        "close of the held session": error_of(held.close),
        "backend": backend(own),
        "same engine": get_engine(settings) is held.get_bind(),
    }
    own.commit()
    own.close()
    gc.collect()
    get_engine(settings).dispose()
    report.write_text(json.dumps(seen))


def fork(how: str, child: Callable[[], None]) -> None:
    if how == "multiprocessing":
        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        process.join()
        return
    pid = ctypes.PyDLL(None).fork() if how == "without-hooks" else os.fork()
    if pid == 0:
        child()
        sys.exit()
    os.waitpid(pid, 0)


def main(
    url: str, how: str, first: str = "execute", connect_args: str = "{}", pool: str = "ManagedPool"
) -> None:
    settings = {"sqlalchemy.url": url, "sqlalchemy.connect_args": connect_args}
    if pool == "ManagedPool":
        # Two sessions at a time are meant here.
        settings["dbpool.hold_warning"] = "off"
    else:
        settings["sqlalchemy.poolclass"] = pool
    if how == "without-hooks":
        sys.modules["uwsgi"] = cast("Any", UWSGI)
    idle, held = session_factory(settings), session_factory(settings)
    before = [backend(idle), backend(held)]
    idle.close()
    # The child leaves this function too, and a context manager would remove the folder there.
    folder = Path(tempfile.mkdtemp())
    fork(how, lambda: in_child(settings, held, folder / "child", first))
    child = json.loads((folder / "child").read_text())
    shutil.rmtree(folder)
    again = session_factory(settings)
    after = [backend(again), backend(held)]
    held.commit()
    again.close()
    if "backend" in child:
        child["own backend"] = child.pop("backend") not in before or "sqlite" in url
    print(json.dumps({"child": child, "parent unharmed": before == after}))


if __name__ == "__main__":
    main(*sys.argv[1:])
