"""What of a request's recording somebody ought to know first, in sentences."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ..telemetry.wording import duration
from .recording import FAILED, UNKNOWN, Checkout, Recording

__all__ = ["Finding", "findings"]

# From this time on, in seconds, and from this share of a hold on, it is worth a word that a
# connection was held and nothing was asked of it.
_IDLE_SECONDS, _IDLE_SHARE = 0.1, 0.5
# The same of a wait.
_WAIT_SECONDS = 0.1


class Finding(NamedTuple):
    """A sentence, and how bad that is: `danger`, `warning` or `info`."""

    level: str
    text: str


def findings(recording: Recording, now: float) -> list[Finding]:
    """List what there is to know of a request, the worst first.

    :param now: by the clock.
    """
    found = [
        *_attempts(recording),
        *(each for checkout in recording.checkouts for each in _of(checkout, now)),
        *_beside(recording.checkouts, now),
        *_held_at_the_end(recording),
    ]
    order = ("danger", "warning", "info")
    return sorted(dict.fromkeys(found), key=lambda each: order.index(each.level))


def _attempts(recording: Recording) -> Iterator[Finding]:
    follows = len(recording.attempts) > recording.number
    if recording.number > 1:
        before = recording.attempts[recording.number - 2]
        text = f"Attempt {recording.number}: the one before ended in {before.error or 'an error'}."
        yield Finding("info", text)
    if follows:
        text = f"Attempt {recording.number} ended in {recording.error or 'an error'}."
        yield Finding("warning", f"{text} The request was tried again: see the next one.")
    elif recording.is_of_database and not any(each.refusal for each in recording.checkouts):
        yield Finding("warning", f"Ended in {recording.error}.")


def _of(checkout: Checkout, now: float) -> Iterator[Finding]:
    if checkout.refusal is not None:
        text = f"Refused a connection after {duration(checkout.waited(now))}: {checkout.refusal}"
        yield Finding("danger", text)
        return
    ends = {each.end for each in checkout.transactions}
    if UNKNOWN in ends:
        text = "nobody knows whether it is stored: the connection was lost under its COMMIT."
        yield Finding("danger", f"Pool {checkout.pool!r}: {text}")
    if FAILED in ends:
        yield Finding("danger", f"Pool {checkout.pool!r}: a COMMIT has failed.")
    waited, idle = checkout.waited(now), checkout.longest_idle
    if waited >= _WAIT_SECONDS:
        text = f"waited {duration(waited)} for a connection of pool {checkout.pool!r}."
        yield Finding("warning", f"{_who(checkout)} {text}")
    if idle >= _IDLE_SECONDS and idle >= _IDLE_SHARE * checkout.held(now):
        place = checkout.idle_after
        after = "" if place is None else f", after that in {place.function} ({place.short})"
        text = (
            f"held a connection of pool {checkout.pool!r} for {duration(idle)} without a"
            f" statement{after}. Before something slow that needs none, give it back:"
            " request.release_db() does so with the sessions of a request."
        )
        yield Finding("warning", f"{_who(checkout)} {text}")


def _beside(checkouts: list[Checkout], now: float) -> Iterator[Finding]:
    for each in checkouts:
        first = next((one for one in checkouts if _is_beside(one, each, now)), None)
        if first is not None:
            yield Finding(
                "warning",
                f"{_who(each)} asked for a connection of pool {each.pool!r} while"
                f" {_who(first)} held one. When every connection is the first of such a pair, all"
                " wait for each other: use one session, or give the first one back before.",
            )


def _is_beside(first: Checkout, second: Checkout, now: float) -> bool:
    if first is second or first.pool != second.pool or first.taken is None or first.refusal:
        return False
    returned = now if first.returned is None else first.returned
    # Whoever works in another thread is not waited for by the holder, as far as one sees.
    return first.taken <= second.asked < returned and first.thread == second.thread


def _held_at_the_end(recording: Recording) -> Iterator[Finding]:
    end = recording.ended
    for each in recording.checkouts:
        late = end is not None and (each.returned is None or each.returned > end)
        if late and each.taken is not None and each.taken <= (end or 0) and not each.refusal:
            text = f"still held a connection of pool {each.pool!r} when the answer was made."
            yield Finding("info", f"{_who(each)} {text}")


def _who(checkout: Checkout) -> str:
    return checkout.by or checkout.thread or "The request"
