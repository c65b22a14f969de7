"""What an operator asks of a pool at run time: refresh, resize, pause, resume.

Each decides under the lock, and closes, opens and tells without it.  Called in the middle of the
pool's own work, as by a signal's handler, it comes when that is done.  What is asked twice is
done once, and told once.
"""

from __future__ import annotations

import functools
import logging

from ..events import Kind, tell
from .health import Health
from .line import Pause
from .opener import BackgroundOpener, CallersOpen
from .options import pool_text
from .shared import Shared

log = logging.getLogger(__name__)

# Who has asked, where nobody says so.
SOMEBODY = "the app's own code"
# So much of a name, in characters, is told: it comes from outside.
LONGEST_NAME = 200


class Commands:
    """Do what an operator asks of one pool."""

    def __init__(
        self,
        shared: Shared,
        health: Health,
        opener: BackgroundOpener | CallersOpen,
    ) -> None:
        self._shared, self._line = shared, shared.line
        self._door, self._lock = shared.door, shared.lock
        self._health, self._opener = health, opener
        self._name = shared.options.pool_name

    def refresh(self, by: str) -> None:
        """Retire every connection: what is idle now, what is out when it comes back."""
        if self._door.is_inside():
            self._door.call_later(functools.partial(self.refresh, by))
            return
        with self._door, self._lock:
            self._health.refresh_locked()
            idle, leased, opening = len(self._line.idle), self._line.leased, self._line.opening
        text = refreshed_text(self._name, by, idle, leased, opening)
        counts = {"idle": idle, "leased": leased, "opening": opening}
        try:
            tell(log, Kind.REFRESH, text, self._name, logging.INFO, by=by, **counts)
        finally:
            # Whatever interrupts the log: nobody else would close them before they are asked for.
            self._health.close_retired()

    def resize(self, size: int | None, overflow: int | None, by: str) -> None:
        """Have another size.

        :param size: how many connections to keep; None: as before.
        :param overflow: how many more there may be; below 0: no limit; None: as before.
        """
        if self._door.is_inside():
            self._door.call_later(functools.partial(self.resize, size, overflow, by))
            return
        shared, line = self._shared, self._line
        with self._door, self._lock:
            before = shared.sizes
            after = (
                before[0] if size is None else size,
                before[1] if overflow is None else max(overflow, -1),
            )
            # Also if it has that size: what an interrupt has left undone is done now. The sizes
            # last: whoever asks again is to begin with the same ones.
            line.resize(after[0] or None, None if after[1] < 0 else sum(after))
            shared.sizes = after
            too_many = 0 if line.capacity is None else line.total - line.capacity
        try:
            if after != before:
                text = resized_text(self._name, by, before, after, too_many)
                sizes = {"size": after[0], "max_overflow": after[1]}
                former = {"size_before": before[0], "max_overflow_before": before[1]}
                tell(log, Kind.RESIZE, text, self._name, logging.INFO, by=by, **sizes, **former)
        finally:
            self._opener.replan()
            self._health.close_surplus()

    def pause(self, by: str) -> None:
        """Serve nobody until `resume`, and close what is idle now and what comes back."""
        if self._door.is_inside():
            self._door.call_later(functools.partial(self.pause, by))
            return
        line = self._line
        with self._door, self._lock:
            pauses = line.paused is None
            # A caller may take one of them until it is closed, which needs no lock: he sees.
            for each in list(line.idle):
                each.retire()
            if pauses:
                self._opener.pause_locked()
                line.pause(Pause(self._shared.clock(), by))
            leased, waiting = line.leased, line.waiting
        try:
            if pauses:
                text = paused_text(self._name, by, leased, waiting)
                tell(log, Kind.PAUSE, text, self._name, by=by, leased=leased, waiting=waiting)
        finally:
            self._health.close_surplus()

    def resume(self, by: str, *, tells: bool = True) -> None:
        """Serve the line again.

        :param tells: whether it is to be told of: not for a pool that another has replaced.
        """
        if self._door.is_inside():
            self._door.call_later(functools.partial(self.resume, by, tells=tells))
            return
        line = self._line
        with self._door, self._lock:
            pause, now, waiting = line.paused, self._shared.clock(), line.waiting
            if pause is not None:
                # Interrupted after it, the pool is paused still, and whoever asks again is told.
                self._opener.resume_locked()
            # Also if it is not paused: what an interrupt has left undone is done now.
            line.resume(now)
        try:
            # Before it is told of: callers wait for that, and not for the log.
            self._opener.replan()
        finally:
            if pause is not None and tells:
                lasted = now - pause.since
                text = resumed_text(self._name, by, pause, lasted, waiting)
                numbers = {"seconds": lasted, "waiting": waiting}
                tell(log, Kind.RESUME, text, self._name, by=by, paused_by=pause.by, **numbers)


def checked_name(by: object) -> str:
    """Return what to call whoever asks, on one line.

    :raises ValueError: it is no text.
    """
    if by is None:
        return SOMEBODY
    if not isinstance(by, str):
        raise ValueError(
            f"by = {by!r} does not say who asks: give a text for the log, as by='a deploy script'."
        )
    return " ".join(by.split())[:LONGEST_NAME] or SOMEBODY


def check_sizes(shared: Shared, size: object, overflow: object) -> tuple[int | None, int | None]:
    """Return the sizes for `Commands.resize`.

    :raises ValueError: one of them cannot be; the text says which, and what can be.
    """
    spelled, who = shared.source.spelled, pool_text(shared.options.pool_name)
    keys = spelled("pool_size"), spelled("max_overflow")
    if size is None and overflow is None:
        raise ValueError(
            f"{who}: resize takes a size, a max_overflow, or both; neither was given."
        )
    wanted = _whole(size, 1, f"{who}: {keys[0]}", "a pool without a limit is made so at its start")
    more = _whole(overflow, -1, f"{who}: {keys[1]}", "-1 means no limit")
    least = shared.options.min_idle
    if wanted is not None and wanted < least:
        raise ValueError(
            f"{who}: {keys[0]} = {wanted} is less than {spelled('min_idle')} = {least}, which are"
            f" to be open at any time: ask for {least} or more."
        )
    if wanted is None and shared.size == 0:
        raise ValueError(
            f"{who}: it has no limit, so {keys[1]} = {more} alone gives it none: say a size too."
        )
    return wanted, more


def _whole(value: object, least: int, what: str, note: str) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(
            f"{what} cannot be resized to {value!r}: give a whole number from {least} on ({note})."
        )
    return value


def refreshed_text(pool_name: str | None, by: str, idle: int, leased: int, opening: int) -> str:
    """Say in the log that everything that is open goes."""
    more = f", {opening} being opened" if opening else ""
    return (
        f"{pool_text(pool_name)}: refreshed by {by}: {idle} idle"
        f" {'connection is' if idle == 1 else 'connections are'} closed now, {leased} in use{more}"
        " when they come back."
    )


def resized_text(
    pool_name: str | None,
    by: str,
    before: tuple[int, int],
    after: tuple[int, int],
    too_many: int,
) -> str:
    """Say in the log which size a pool has now.

    :param before: size and overflow until now.
    :param too_many: how many connections there are more than there may be.
    """
    goes = "1 connection too many is" if too_many == 1 else f"{too_many} connections too many are"
    ending = f" {goes} closed: idle ones now, others when they come back." if too_many > 0 else ""
    return (
        f"{pool_text(pool_name)}: resized by {by} from size {before[0]} and overflow"
        f" {_overflow(before[1])} to size {after[0]} and overflow {_overflow(after[1])}.{ending}"
    )


def _overflow(count: int) -> str:
    return "without limit" if count < 0 else str(count)


def paused_text(pool_name: str | None, by: str, leased: int, waiting: int) -> str:
    """Say in the log that nobody is served from now on."""
    out = f" {leased} connections are in use, and are closed when they come back."
    if leased == 1:
        out = " 1 connection is in use, and is closed when it comes back."
    callers = "1 waits" if waiting == 1 else f"{waiting} wait"
    return (
        f"{pool_text(pool_name)}: paused by {by}: callers ({callers} now) wait in line until it is"
        f" resumed or their time is over, and nothing is opened.{out if leased else ''}"
    )


def resumed_text(pool_name: str | None, by: str, pause: Pause, lasted: float, waiting: int) -> str:
    """Say in the log that a pause is over."""
    callers = "1 caller who waits is" if waiting == 1 else f"{waiting} callers who wait are"
    served = f"; {callers} served" if waiting else ""
    return (
        f"{pool_text(pool_name)}: resumed by {by}, {lasted:.1f} s after {pause.by} had paused it"
        f"{served}."
    )
