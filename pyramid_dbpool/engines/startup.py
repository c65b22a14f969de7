"""The look at the database when a server or a worker starts: `dbpool.startup_check`."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable

from .probes import may_pass, reason, try_to_connect
from .registry import ProcessEngine

__all__ = ["EXIT_STATUS", "check_at_start"]

log = logging.getLogger(__name__)

# Seconds between two tries: doubled from the first to the longest, and shortened by up to
# half at random, so that a hundred processes do not knock as one.
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 2.0
# The one with which gunicorn's master gives up too, where others make it start the worker anew.
EXIT_STATUS = 3


def check_at_start(made: ProcessEngine, wait: Callable[[float], object] = time.sleep) -> None:
    """Try a connection, as the pool's settings say: not at all, once, or until it works.

    :param wait: waits for so many seconds; returns true to give up, because it is time to stop.
    :raises SystemExit: the database is required and cannot be used.
    """
    mode = made.settings.options.startup_check
    if mode == "off":
        return
    patience = 0.0 if mode == "warn" else made.settings.options.startup_timeout
    began = time.monotonic()
    error, stopped = _tries(made, began + patience, wait)
    if error is None or stopped:
        return
    text = _complaint(made, error, time.monotonic() - began)
    if mode == "require":
        log.critical("%s; the process ends.", text)
        raise SystemExit(EXIT_STATUS)
    log.warning("%s; starting all the same.", text)


def _tries(
    made: ProcessEngine, until: float, wait: Callable[[float], object]
) -> tuple[Exception | None, bool]:
    """Return the last error, and whether it was time to stop."""
    number = 0
    while True:
        error = try_to_connect(made)
        if error is None or not may_pass(made, error):
            return error, False
        longest = min(FIRST_PAUSE * 2 ** min(number, 10), LONGEST_PAUSE)
        left = until - time.monotonic()
        if left <= 0:
            return error, False
        # The last try comes when the time is over, not before.
        pause = min(random.uniform(longest / 2, longest), left)
        if number == 0:
            log.warning("%s; waiting up to %.0f s.", _complaint(made, error, 0.0), left)
        if wait(pause):
            return error, True
        number += 1


def _complaint(made: ProcessEngine, error: Exception, seconds: float) -> str:
    settings = made.settings
    waited = f" within {seconds:.0f} s" if seconds >= 1 else ""
    return (
        f"{settings.source('startup_check')} = {settings.options.startup_check}: pool"
        f" {settings.name!r} cannot connect to {settings.masked_url}{waited}"
        f" ({reason(settings, error)})"
    )
