"""A Celery worker under prefork whose parent has used the pool, and its client.

    python -m tests.support.fork_celery FOLDER

The parent of the worker's children is this process, which holds a session and has an idle
connection. Prints one JSON object: what each task saw, and whether the parent's connections
still work at the end. FORK_APP_URL is the database.
"""

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from celery import Celery, signals
from sqlalchemy import text

from pyramid_dbpool import ForkedConnectionError, session_factory, unit_of_work

# Two sessions at a time are meant here.
settings = {"sqlalchemy.url": os.environ["FORK_APP_URL"], "dbpool.hold_warning": "off"}
BACKEND = text("SELECT pg_backend_pid()")
held, idle = session_factory(settings), session_factory(settings)

folder = Path(sys.argv[1])
# Only the parent reads from the broker.
app = Celery("tests.support.fork_celery", broker="memory://")
app.conf.update(worker_hijack_root_logger=False, worker_redirect_stdouts=False)


@app.task(name="backend")  # type: ignore[untyped-decorator]
def backend(number: int) -> None:
    """Tell the backend of this process, and what the parent's session says."""
    with unit_of_work(settings) as session:
        own = session.scalar(BACKEND)
    try:
        error = str(held.execute(BACKEND))
    except ForkedConnectionError as refused:
        error = str(refused)
    unfinished = folder / f"{number}.unfinished"
    unfinished.write_text(json.dumps({"backend": own, "held": error}))
    unfinished.rename(folder / f"{number}.json")


def main() -> None:
    """Run the worker until a client's six tasks are done."""
    masters = [held.scalar(BACKEND), idle.scalar(BACKEND)]
    idle.close()
    tasks: list[Any] = []

    def client() -> None:
        results = [folder / f"{number}.json" for number in range(6)]
        for number in range(6):
            backend.delay(number)
        until, pause = time.monotonic() + 60.0, threading.Event()
        while time.monotonic() < until and not all(each.exists() for each in results):
            pause.wait(0.05)
        tasks.extend(json.loads(each.read_text()) for each in results if each.exists())
        worker.stop()

    def report(**_signal: Any) -> None:
        # The children have ended.
        after = [held.scalar(BACKEND), idle.scalar(BACKEND)]
        seen = {"tasks": tasks, "masters": masters, "masters unharmed": masters == after}
        print(json.dumps(seen), flush=True)

    def begin(**_signal: Any) -> None:
        # Now the children are there: a fork beside a thread that is sending may copy a lock
        # that is held.
        threading.Thread(target=client, daemon=True).start()

    signals.worker_ready.connect(begin, weak=False)
    signals.worker_shutdown.connect(report, weak=False)
    worker: Any = app.Worker(pool="prefork", concurrency=2, loglevel="ERROR", quiet=True)
    worker.start()


if __name__ == "__main__":
    main()
