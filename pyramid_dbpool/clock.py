"""The one clock, which no test of an app's stops, and a sleep that it does not cut short.

Locks wait by the kernel's clock.  Whoever asks another one how long is left waits for ever once
that stands still, and freezegun stops `time.monotonic` wherever it finds it, by name or by
identity; `unittest.mock` replaces names.  So this is neither, also where it is imported while
time stands still, and all that waits here, or says how long something took, asks it.
"""

import functools
import threading
import time

__all__ = ["monotonic", "sleep"]

monotonic = functools.partial(time.clock_gettime, time.CLOCK_MONOTONIC)


def sleep(seconds: float) -> None:
    """Wait so long; under gevent the others go on meanwhile.

    An app's test that replaces `time.sleep` wants to see its own calls, and would have ours spin.
    """
    never = threading.Lock()
    never.acquire()
    never.acquire(timeout=max(0.0, seconds))
