"""What holders of connections are called: texts that are made when somebody looks."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import FrameType

_label: ContextVar[object | None] = ContextVar("dbpool_label", default=None)

# A bound method: it is read on every checkout.
current_label = _label.get

# Code that stands between a caller and its unit of work.
_BETWEEN = frozenset({"contextlib", __name__.partition(".")[0]})


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

    :param make: returns the text; called in any thread, so it may not change anything.
        An empty text says that the name is no longer known.
    :ivar over: whether the holder has finished: then its thread may be at other work.
    """

    __slots__ = ("_make", "over")

    def __init__(self, make: Callable[[], str]) -> None:
        self._make = make
        self.over = False

    def __str__(self) -> str:
        text = self._make()
        return f"{text} (over)" if text and self.over else text

    def end(self, text: str | None = None) -> None:
        """Note that the holder has finished.

        :param text: its name from now on; lets go of what the name was to be made from.
        """
        self.over = True
        if text is not None:
            self._make = lambda: text


@contextmanager
def labelled_by(thing: object) -> Iterator[None]:
    """Name those who check connections out inside the block after `str(thing)`."""
    # Weakly: the last label of a connection stays with it while it is idle.
    weakly = weakref.ref(thing)
    with _labelled(Label(lambda: "" if (alive := weakly()) is None else str(alive))):
        yield


@contextmanager
def labelled_by_caller(what: str) -> Iterator[None]:
    """Name the holder after the function that called us, unless it has a name already.

    :param what: what the function does, such as `unit_of_work`.
    """
    if current_label() is not None:
        yield
        return
    frame = sys._getframe(1)
    while frame.f_back is not None and _module(frame).partition(".")[0] in _BETWEEN:
        frame = frame.f_back
    # A frame would keep its variables alive.
    code, module = frame.f_code, _module(frame)
    del frame
    with _labelled(Label(lambda: f"{what} in {module}.{code.co_qualname}")):
        yield


@contextmanager
def _labelled(label: Label) -> Iterator[None]:
    try:
        with holder_label(label):
            yield
    finally:
        label.end()


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))
