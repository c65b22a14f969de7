"""Celery's tasks: one request, which never ends, for all that a worker process does.

    python -m tests.support.h_shape.tasks INI FOLDER

runs a worker under prefork, whose request was made before its children were forked, and a client
in the same process. A task's result is a file in FOLDER.
"""

import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from celery import Celery, signals

from tests.support.h_shape.app import Broken
from tests.support.h_shape.commands import bootstrapped

# Only the worker's parent reads from this broker.
celery = Celery("tests.support.h_shape.tasks", broker="memory://", set_as_current=False)
celery.conf.update(worker_hijack_root_logger=False, worker_redirect_stdouts=False)


@celery.task(name="annotate")  # type: ignore[untyped-decorator]
def annotate(text: str) -> None:
    """Store an annotation, and mark it as the service of another task would."""
    service = celery.request.find_service("annotations")
    service.create(text)
    service.index(text)
    if "broken" in text:
        raise Broken(text)


@celery.task(name="count")  # type: ignore[untyped-decorator]
def count() -> int:
    """Read only, as a task that reports a metric."""
    return int(celery.request.find_service("annotations").count())


@celery.task(name="in-a-block")  # type: ignore[untyped-decorator]
def in_a_block(text: str) -> None:
    """Look, then write in a transaction of its own."""
    request = celery.request
    before = request.find_service("annotations").count()
    with request.tm:
        request.find_service("annotations").create(text)
    request.find_service("notes").write(f"task {before}")


@signals.task_success.connect  # type: ignore[untyped-decorator]
def commit(sender: Any, **_signal: Any) -> None:
    if sender.app is celery:
        sender.app.request.tm.commit()


@signals.task_failure.connect  # type: ignore[untyped-decorator]
def abort(sender: Any, **_signal: Any) -> None:
    if sender.app is celery:
        sender.app.request.tm.abort()


def main(ini: str, folder: Path) -> None:
    """Run a worker until a client's tasks are done."""

    def done(sender: Any, **_signal: Any) -> None:
        Path(folder, f"{sender.request.id}.{os.getpid()}").touch()

    def client() -> None:
        for number in range(6):
            annotate.apply_async([f"text {number}"], task_id=f"task-{number}")
            annotate.apply_async([f"broken {number}"], task_id=f"broken-{number}")
            in_a_block.apply_async([f"block {number}"], task_id=f"block-{number}")
            count.apply_async(task_id=f"count-{number}")
        until, pause = time.monotonic() + 60.0, threading.Event()
        while time.monotonic() < until and len(list(folder.iterdir())) < 24:
            pause.wait(0.05)
        # The children are idle; whoever runs this looks at their connections, then says so.
        print("done", flush=True)
        sys.stdin.readline()
        worker.stop()

    def begin(**_signal: Any) -> None:
        threading.Thread(target=client, daemon=True).start()

    signals.worker_init.connect(lambda **_: bind(ini), weak=False)
    signals.task_postrun.connect(done, weak=False)
    signals.worker_ready.connect(begin, weak=False)
    worker: Any = celery.Worker(pool="prefork", concurrency=2, loglevel="CRITICAL", quiet=True)
    worker.start()


def bind(ini: str) -> None:
    """Give the tasks their request."""
    celery.request = bootstrapped(ini)
    # What a worker looks up as it starts.
    celery.request.find_service("annotations").count()
    celery.request.tm.commit()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
