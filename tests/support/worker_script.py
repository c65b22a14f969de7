"""A worker process for the tests: `worker_script.py KIND URL FILE`.

KIND says what it waits on; with an event, that is set when FILE is there.

Prints `waiting` when it waits for its second message and `ended` when `consume` has returned.
"""

import sys

if "gevent" in sys.argv[1]:
    from gevent import monkey

    monkey.patch_all()

import queue
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from pyramid_dbpool.worker.loop import consume


def say(what: str) -> None:
    print(what, flush=True)


def blocking() -> Iterator[str]:
    """Yield one message, then wait for ever."""
    yield "a"
    say("waiting")
    while True:
        time.sleep(3600)


class Queue(queue.Queue[str]):
    """A queue that says when its second message is waited for."""

    def get(self, block: bool = True, timeout: float | None = None) -> str:
        if self.empty():
            say("waiting")
        return super().get(block, timeout)


def source(kind: str) -> Any:
    if "iterator" in kind:
        return blocking()
    made = Queue()
    made.put("a")
    return made


def handle(message: str, session: Session) -> None:
    session.execute(text("SELECT 1"))
    if "busy" in sys.argv[1]:
        say("waiting")
        sys.stdin.readline()


def stop_by(kind: str, file: str) -> dict[str, Any]:
    """Return the arguments that stop the worker; SIGTERM always ends up in them."""
    if "event" not in kind.split("-"):
        return {"stop_on_sigterm": True}
    stop = threading.Event()

    def wait_for_file() -> None:
        while not Path(file).exists():
            time.sleep(0.02)
        stop.set()

    threading.Thread(target=wait_for_file, daemon=True).start()
    return {"stop": stop}


def main(kind: str, url: str, file: str) -> None:
    former = signal.getsignal(signal.SIGTERM)
    settings = {"sqlalchemy.url": url}
    options = {"ack": lambda message: say(f"acked {message}"), **stop_by(kind, file)}
    consume(source(kind), handle, settings, **options)
    assert signal.getsignal(signal.SIGTERM) is former
    say("ended")


if __name__ == "__main__":
    main(*sys.argv[1:])
