"""What is known of an outage: since when, why, and when the prober tries again."""

from __future__ import annotations

import random
from dataclasses import dataclass

from ..drivers.connect_failures import ConnectFailure

# The prober's pauses, in seconds: doubling from the first to the last, each one
# shortened by up to half at random, so that many processes do not knock as one.
FIRST_PAUSE = 0.1
LAST_PAUSE = 1.0
# The prober's pause, in seconds, while nobody asks.
SLOW_PAUSE = 10.0
# What a failed opening tells is held for true until the next one is over, but not for
# longer than this (seconds): a probe that hangs, or never began, must not refuse for ever.
LONGEST_PROBE = 30.0
NEVER = float("-inf")


@dataclass
class Trouble:
    """Openings fail: since when, why, and when the prober tries again.

    `known_until`: up to when nobody need ask the server to know that it is away.
    All times are on the pool's clock, in seconds.
    """

    kind: ConnectFailure
    since: float
    error: BaseException
    retry_at: float = NEVER
    known_until: float = NEVER
    tries: int = 0

    def failed(
        self, kind: ConnectFailure, error: BaseException, now: float, *, asked: bool
    ) -> None:
        """Note a failed opening; at the slow pace unless somebody has `asked` lately."""
        self.kind, self.error = kind, error
        self.known_until = now + 2 * LAST_PAUSE
        if now < self.retry_at:
            # Several that began together and failed together are one try: counted one
            # by one, a blip would cost everybody the longest pause.
            return
        self.tries += 1
        pause = min(LAST_PAUSE, FIRST_PAUSE * 2 ** min(self.tries - 1, 10))
        if not asked:
            pause = SLOW_PAUSE
        self.retry_at = now + pause * random.uniform(0.5, 1.0)

    def asked(self, now: float) -> None:
        """Note that somebody asks: a prober at the slow pace tries at once."""
        if self.retry_at > now + LAST_PAUSE:
            self.retry_at = now

    def probing(self, now: float) -> None:
        """Note that a probe begins: until it is over, what is known is known."""
        if now < self.known_until:
            self.known_until = now + LONGEST_PROBE

    def refuses(self, now: float, grace: float | None) -> bool:
        """Tell whether the outage has lasted so long that waiting is pointless.

        Also while connections of ours are out: one that is leaked, or held for long,
        would have everybody wait for their whole timeout.

        :param grace: for how many seconds an outage is waited out; None: always.
        """
        return (
            grace is not None
            and self.kind is ConnectFailure.UNREACHABLE
            and now - self.since >= grace
            and now < self.known_until
        )
