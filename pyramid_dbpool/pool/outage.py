"""What is known of an outage: since when, why, when the prober tries again; what the log says."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from ..drivers.app_errors import place_in_app
from ..drivers.connect_failures import ConnectFailure
from ..drivers.driver_errors import driver_text
from ..events import Field, Kind, tell
from .options import by_chance, pool_text

log = logging.getLogger(__name__)

# The first pause before another look at a server that is away, in seconds, whoever looks.
FIRST_PAUSE = 0.1
# The prober's longest pause, in seconds. It is that of a long outage, where callers are refused at
# once: a hundred processes that hurry for them would knock 400 times a second at a server that
# may be recovering, and those who were told to come back in a minute gain nothing.
LONGEST_PAUSE = 1.0
# The same while somebody waits whom only the server can help: he is served within 0.4 s of its
# return. Shortened by less, to 0.27 s at least, so that 4 attempts a second are not exceeded.
LONGEST_AWAITED = 0.34
AWAITED_SPREAD = 1 / 5
# From a failure to the next attempt for him, in seconds: a server that takes long to refuse each
# of them would have one after the other.
SHORTEST_AWAITED = 0.05
# For how long what a look at the server has found is taken for true, in seconds.
FRESH = 2 * LONGEST_PAUSE
# What a failed opening tells is held for true until the next one is over, but not for
# longer than this (seconds): a probe that hangs, or never began, must not refuse for ever.
LONGEST_PROBE = 30.0
# How often, in seconds, each open connection is asked in an outage whether it works, when it is
# handed out; and for how long at least its answer stands for the server's.
ASK_EVERY = 1.0
ANSWER_STANDS = 2.0
NEVER = float("-inf")


@dataclass
class Outage:
    """Openings fail: since when, why, and when the prober tries again.

    `retry_at`: when that is; `awaited_retry_at`: the same while somebody waits for nothing else.
    `known_until`: up to when nobody need ask the server to know that it is away.
    `wanted`: whether somebody has asked since the last probe began. A hundred pools of which
    nobody wants anything must not knock at the server's door, nor fill it when it opens.
    `answered_at`: when an open connection, or the server that refused a login or was full, last
    answered. That one was given back says nothing: in a dead network, what nobody has used comes
    back too.
    `ask_at`: from when on the open ones are to be asked again.
    `chance`: gives a number from 0 to 1, at random.
    All times are on the pool's clock, in seconds.
    """

    kind: ConnectFailure
    since: float
    error: BaseException
    chance: Callable[[], float] = by_chance
    retry_at: float = NEVER
    awaited_retry_at: float = NEVER
    known_until: float = NEVER
    attempts: int = 0
    wanted: bool = False
    answered_at: float = NEVER
    ask_at: float = NEVER
    _failed_at: float = NEVER

    def failed(
        self, kind: ConnectFailure, error: BaseException, now: float, began: float | None = None
    ) -> None:
        """Note a failed opening.

        :param began: when it began; None: just now.
        """
        self.kind, self.error = kind, error
        self.known_until = now + FRESH
        if kind is not ConnectFailure.UNREACHABLE:
            # Were it to vanish an hour later, nobody would have waited for it yet.
            self.answered_at = now
        began = now if began is None else began
        if began <= self._failed_at:
            # Several that were under way together are one attempt: counted one by one, a blip
            # would cost everybody the longest pause.
            return
        self._failed_at = now
        self.attempts += 1
        pause = pause_before(self.attempts, LONGEST_PAUSE, self.chance)
        self.retry_at = now + pause
        awaited = min(pause, LONGEST_AWAITED * (1 - AWAITED_SPREAD * self.chance()))
        # From its beginning: one that fails late has told nothing of the time since then, in
        # which the server may have come back.
        self.awaited_retry_at = max(began + awaited, now + SHORTEST_AWAITED)

    def next_attempt(self, now: float, *, waiting: bool) -> float:
        """Say when the server is to be asked again.

        :param waiting: whether somebody waits.
        """
        hurried = waiting and not self.serves_since(now)
        return self.awaited_retry_at if hurried else self.retry_at

    def probing(self, now: float) -> None:
        """Note that a probe begins: until it is over, what is known is known."""
        self.wanted = False
        if now < self.known_until:
            self.known_until = now + LONGEST_PROBE

    def refuses(self, now: float, grace: float | None, *, has_open: bool = False) -> bool:
        """Tell whether nothing has worked for so long that waiting is pointless.

        Also while connections of ours are out: one that is leaked, or hangs, would have everybody
        wait for their whole timeout. Those that answer count, because callers can be served with
        them: a resolver, a firewall or a limit of descriptors keeps only new ones away.

        :param grace: for how many seconds an outage is waited out; None: always.
        :param has_open: whether there are connections that may answer.
        """
        if grace is None or self.kind is not ConnectFailure.UNREACHABLE:
            return False
        patience = max(grace, ANSWER_STANDS) if has_open else grace
        return now - max(self.since, self.answered_at) >= patience and now < self.known_until

    def asks(self, now: float) -> bool:
        """Tell whether the open connections are to be asked (again): from now on they are."""
        if self.kind is not ConnectFailure.UNREACHABLE or now < self.ask_at:
            return False
        self.ask_at = now + ASK_EVERY
        return True

    def serves_since(self, time: float) -> bool:
        """Tell whether callers have been served since then with connections that are open."""
        if self.kind is not ConnectFailure.UNREACHABLE:
            return True
        return self.answered_at >= time - ANSWER_STANDS


def pause_before(number: int, longest: float, chance: Callable[[], float] = by_chance) -> float:
    """Return how many seconds to wait before another look at a server that is away.

    Doubled from one look to the next, and shortened at random.

    :param number: which look it is, after the first: 1, 2 and so on.
    :param longest: more than so many seconds it never is.
    """
    pause: float = min(longest, FIRST_PAUSE * 2 ** min(number - 1, 10))
    # By up to half, so that a hundred processes do not all knock at once.
    return pause * (1 + chance()) / 2


class _LogLine(NamedTuple):
    kind: Kind
    text: str
    fields: dict[str, Field]


class OutageLog:
    """Says once that the server is away, or refuses us, and once that this is over.

    What is to be said is decided with the pool's lock held, and said without it: a
    handler of the log may write to a disk or a network, or to a table of this pool.
    """

    def __init__(
        self,
        pool_name: str | None,
        grace: float | None,
        explain: Callable[[Outage], str] = lambda outage: driver_text(outage.error),
    ) -> None:
        self._name = pool_name
        self._grace = grace
        self._explain = explain
        # What was said last and is not over; since when it is so, and whether by the app's code.
        self._said: ConnectFailure | None = None
        self._since = 0.0
        self._apps = False
        self._refused = 0
        self._lines: deque[_LogLine] = deque()

    def note(self, outage: Outage | None, now: float) -> None:
        """See whether an outage begins or is over."""
        kind = None if outage is None else outage.kind
        if kind in (self._said, ConnectFailure.SATURATED):
            return
        self.answered(now)
        if kind is None and self._said is not None:
            lasted = now - self._since
            self._say_back(lasted, accepted_text(self._name, lasted, self._refused))
        if outage is not None:
            self._since, self._refused = outage.since, 0
            away = kind is ConnectFailure.UNREACHABLE
            self._apps = place_in_app(outage.error) is not None
            text = (
                away_text(self._name, self._grace, outage.error)
                if away
                else refused_text(self._explain(outage))
            )
            self._lines.append(_LogLine(Kind.OUTAGE, text, {"reason": outage.kind.value}))
        self._said = kind

    def answered(self, now: float) -> None:
        """Note that the server is there, whatever it says."""
        if self._said is ConnectFailure.UNREACHABLE:
            lasted = now - self._since
            text = back_text(self._name, lasted, self._refused, apps=self._apps)
            self._say_back(lasted, text)
            self._said = None

    def _say_back(self, lasted: float, text: str) -> None:
        reason = None if self._said is None else self._said.value
        fields = {"reason": reason, "seconds": lasted, "refused": self._refused}
        self._lines.append(_LogLine(Kind.BACK, text, fields))

    def refused(self, count: int = 1) -> None:
        """Count callers who got no connection in this outage."""
        self._refused += count

    def write(self) -> None:
        """Write what is to be said; never with the pool's lock held."""
        # Another thread may take the last line at any moment.
        with suppress(IndexError):
            while True:
                line = self._lines.popleft()
                tell(log, line.kind, line.text, self._name, **line.fields)


def away_text(pool_name: str | None, grace: float | None, error: BaseException) -> str:
    """Say in the log that an outage begins."""
    refused = ""
    if grace is not None:
        refused = (
            f", and are refused at once after {grace:g} s of it, unless connections that are open"
            " still work"
        )
    what, until = "the database server is unreachable", "it is back"
    if place_in_app(error) is not None:
        what, until = "the app's own code opens no connection", "it does"
    return (
        f"{pool_text(pool_name)}: {what} ({driver_text(error)})."
        f" Callers wait until {until} or their time is over{refused}."
    )


def back_text(pool_name: str | None, lasted: float, refused: int, *, apps: bool = False) -> str:
    """Say in the log that an outage is over.

    :param apps: whether the app's own code was to blame for it.
    """
    what = "connections are opened again" if apps else "the database server is back"
    return f"{pool_text(pool_name)}: {what} after {lasted:.1f} s{_ending(refused)}"


def refused_text(explained: str) -> str:
    """Say in the log that a database refuses new connections while others are open.

    :param explained: what callers are told, without a full stop.
    """
    return (
        f"{explained}. Callers wait for connections that are open; while any of them waits, a new"
        " one is tried again."
    )


def accepted_text(pool_name: str | None, lasted: float, refused: int) -> str:
    """Say in the log that a database accepts new connections again."""
    return (
        f"{pool_text(pool_name)}: the database accepts new connections again after"
        f" {lasted:.1f} s{_ending(refused)}"
    )


def _ending(refused: int) -> str:
    callers = "1 caller" if refused == 1 else f"{refused} callers"
    return f"; {callers} got no connection meanwhile." if refused else ". Every caller was served."
