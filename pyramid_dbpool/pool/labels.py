"""What holders of connections are called: texts that are made when somebody looks."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_label: ContextVar[object | None] = ContextVar("dbpool_label", default=None)

# A bound method: it is read on every checkout.
current_label = _label.get

# Code that stands between a caller and its unit of work.
_BETWEEN = frozenset({"contextlib", __name__.partition(".")[0]})

# What stands behind the name of one who has finished.
ENDED = " (ended)"


def name_holder(label: object | None) -> object | None:
    """Name those who check connections out from now on; return the name so far."""
    former = _label.get()
    _label.set(label)
    return former


@contextmanager
def holder_label(label: object) -> Iterator[None]:
    """Name those who check connections out inside the block, for errors and statistics.

    :param label: a short text such as `GET /items`, or an object whose `str()` is one;
        no personal data, no secret.
    """
    token = _label.set(label)
    try:
        yield
    finally:
        _label.reset(token)


class Label:
    """A holder's name whose text is made when somebody looks at it, which is hardly ever.

    Who checks connections out inside its `with` has it; afterwards the holder has finished.

    :param make: returns the text; called in any thread, so it may not change anything.
        An empty text says that the name is no longer known.
    :ivar over: whether the holder has finished: then its thread may be at other work.
    """

    __slots__ = ("_former", "_make", "over")

    # The name before this one.
    _former: object | None

    def __init__(self, make: Callable[[], str]) -> None:
        self._make = make
        self.over = False

    def __enter__(self) -> None:
        self._former = _label.get()
        _label.set(self)

    def __exit__(self, *_: object) -> None:
        self.over = True
        # By no token: an interrupt may come before there is one, and a generator be closed in
        # another context than it was begun in, which refuses it.
        if _label.get() is self:
            _label.set(self._former)

    def __str__(self) -> str:
        text = self._make()
        return f"{text}{ENDED}" if text and self.over else text


def has_ended(label: object | None) -> bool:
    """Tell whether a holder has finished, and so has left behind whatever it still holds."""
    return isinstance(label, Label) and label.over


def is_same_holder(
    held_as: object | None, holder: int, wanted_as: object | None, caller: int
) -> bool:
    """Tell whether a caller holds a connection already, by its thread or by its own label.

    :param held_as: the label of the connection's holder; `holder`: its `threading.get_ident()`.
    :param wanted_as: the caller's label; `caller`: its `threading.get_ident()`.
    """
    if has_ended(held_as):
        # Left behind by earlier work in this thread: whoever works there now is innocent.
        return False
    # A label that is plain text may be that of many; an object is one holder's, in
    # whichever thread it works.
    return holder == caller or (isinstance(wanted_as, Label) and held_as is wanted_as)


def label_of(thing: object) -> Label:
    """Return a label that says `str(thing)`, for as long as there is the thing."""
    # Weakly: the last label of a connection stays with it while it is idle.
    weakly = weakref.ref(thing)
    return Label(lambda: "" if (alive := weakly()) is None else str(alive))


def caller_label(what: str) -> Label:
    """Return a label that names the function which called this package.

    :param what: what that function does, such as `unit_of_work`.
    """
    # From whoever called the function that calls this.
    frame = sys._getframe(2)
    module = str(frame.f_globals.get("__name__", ""))
    while frame.f_back is not None and module.partition(".")[0] in _BETWEEN:
        frame = frame.f_back
        module = str(frame.f_globals.get("__name__", ""))
    # A frame would keep its variables alive.
    code = frame.f_code
    return Label(lambda: f"{what} in {module}.{code.co_qualname}")
