"""What stands in a line: connections, waiters, and what a waiter is granted."""

from __future__ import annotations

import enum
from collections.abc import Callable
from contextvars import Context
from typing import TypeVar


class State(enum.Enum):
    """Where an entry is."""

    NEW = "new"
    IDLE = "idle"
    LEASED = "leased"
    HELD = "held"
    GONE = "gone"


NEW, IDLE, LEASED, HELD, GONE = State


class Entry:
    """One open connection's place in the line; `since` is when it was last returned."""

    __slots__ = ("holder", "label", "leased_at", "since", "state")

    def __init__(self) -> None:
        self.state = NEW
        self.since = 0.0
        self.leased_at = 0.0
        self.label: object | None = None
        self.holder = 0

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.state.value}>"


E = TypeVar("E", bound=Entry)


class Slot:
    """What a waiter is granted when it may open a connection itself."""

    def __repr__(self) -> str:
        return "<Slot>"


class Refusal:
    """What a waiter is granted when waiting on has become pointless."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __repr__(self) -> str:
        return f"<Refusal {self.error!r}>"


SLOT = Slot()
Grant = Entry | Slot | Refusal


class Waiter:
    """One caller in the line; `wake` is called once, when `granted` has been set."""

    __slots__ = ("context", "granted", "since", "wake")

    def __init__(
        self, wake: Callable[[], object], since: float, context: Context | None = None
    ) -> None:
        self.wake = wake
        self.since = since
        # In which a connection may be opened for it; the opening that uses it takes it away.
        self.context = context
        self.granted: Grant | None = None

    def __repr__(self) -> str:
        return f"<Waiter since={self.since} granted={self.granted!r}>"
