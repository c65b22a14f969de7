"""Methods that must not be entered by the garbage collector while they run."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def whole(method: Callable[Concatenate[Any, P], R]) -> Callable[Concatenate[Any, P], R]:
    """Put off what comes inside `method` until it is done.

    The object has `_busy`, which is true meanwhile, and `_late`, a deque to which
    it appends the calls that have to wait.
    """

    @functools.wraps(method)
    def run(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> R:
        outer, self._busy = self._busy, True
        try:
            return method(self, *args, **kwargs)
        finally:
            self._busy = outer
            while self._late and not self._busy:
                self._late.popleft()()

    return run
