"""A Celery worker under prefork whose parent has used the pool, and its client.

    python -m tests.fork_celery FOLDER

The parent of the worker's children is this process, which holds a session and has an idle
connection. Prints one JSON object: what each task saw, and whether the parent's connections
still work at the end. FORK_APP_URL is the database.
"""

import json
import os
import sys
import threading
from typing import Any

from celery import Celery, signals
from celery.result import allow_join_result
from sqlalchemy import text

from pyramid_dbpool import ForkedConnectionError, session_factory, unit_of_work

settings = {"sqlalchemy.url": os.environ["FORK_APP_URL"]}
BACKEND = text("SELECT pg_backend_pid()")
held, idle = session_factory(settings), session_factory(settings)

folder = sys.argv[1]
app = Celery("tests.fork_celery", broker="filesystem://", result_backend=f"file://{folder}")
app.conf.update(
    broker_transport_options={
        "data_folder_in": folder,
        "data_folder_out": folder,
        "control_folder": folder,
        "polling_interval": 0.05,
    },
    worker_hijack_root_logger=False,
    worker_redirect_stdouts=False,
    broker_connection_retry_on_startup=False,
)


@app.task(name="backend")  # type: ignore[untyped-decorator]
def backend() -> dict[str, Any]:
    """Tell the backend of this process, and what the parent's session says."""
    with unit_of_work(settings) as session:
        own = session.scalar(BACKEND)
    try:
        error = str(held.execute(BACKEND))
    except ForkedConnectionError as refused:
        error = str(refused)
    return {"backend": own, "held": error}


def main() -> None:
    """Run the worker until a client's six tasks are done."""
    masters = [held.scalar(BACKEND), idle.scalar(BACKEND)]
    idle.close()
    tasks: list[Any] = []

    def client() -> None:
        waiting = [backend.delay() for _ in range(6)]
        with allow_join_result():
            tasks.extend(task.get(timeout=30) for task in waiting)
        worker.stop()

    def report(**_signal: Any) -> None:
        # The children have ended.
        after = [held.scalar(BACKEND), idle.scalar(BACKEND)]
        seen = {"tasks": tasks, "masters": masters, "masters unharmed": masters == after}
        print(json.dumps(seen), flush=True)

    signals.worker_shutdown.connect(report, weak=False)
    worker: Any = app.Worker(pool="prefork", concurrency=2, loglevel="ERROR", quiet=True)
    threading.Thread(target=client, daemon=True).start()
    worker.start()


if __name__ == "__main__":
    main()
