"""What runs in the background of a process: a thread that calls functions when they are due.

It knows no pool.  It starts when something is to be done, sleeps until the
next thing is due, ends when nothing is, and never keeps a process alive.
In uWSGI's master it does not start: its workers would hang.
Under gevent's patched `threading` it is a greenlet.
"""

from __future__ import annotations

import ctypes
import functools
import heapq
import itertools
import logging
import os
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from os import getpid

from ..clock import monotonic
from .fork_gate import run_passing
from .inheritance import uwsgi_may_fork

log = logging.getLogger(__name__)

# A thread that has nothing to do waits this long (seconds) for more before it
# ends: a busy line asks for a look every few milliseconds.
LINGER = 1.0
# How long a fork waits (seconds) for a task that is just being run.
STOP_WAIT = 1.0
# After how many seconds whoever was interrupted is back in Python's code.
THROW_AFTER = 0.01

_Thread = threading.Thread


class Task:
    """A call to come; `cancel` forgets it."""

    __slots__ = ("run",)

    def __init__(self, run: Callable[[], object] | None) -> None:
        self.run = run

    def cancel(self) -> None:
        """Make sure that the call is not started any more."""
        self.run = None


class Housekeeper:
    """Call functions at their time, in one thread that lives only while it has work.

    Any thread may call `call_at`, the garbage collector in the middle of another
    call too; so it takes no lock: new tasks go through a deque (its append is
    atomic), and the thread alone touches its heap.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._inbox: deque[tuple[float, int, Task]] = deque()
        self._heap: list[tuple[float, int, Task]] = []
        self._serial = itertools.count()
        self._thread: threading.Thread | None = None
        self._paused = False
        # Held while the thread sleeps; released to wake it.
        self._wake = threading.Lock()
        # Held only by the thread: when it means to wake up by itself.
        self._until = 0.0
        # Held while a thread is being started, so that there is never more than one.
        self._starting = threading.Lock()

    def __repr__(self) -> str:
        alive = self._thread is not None
        return f"<Housekeeper alive={alive} tasks={len(self._heap) + len(self._inbox)}>"

    @property
    def runs(self) -> bool:
        """Whether anything is ever called: nothing is where uWSGI may fork."""
        return not uwsgi_may_fork()

    def call_at(self, due: float, run: Callable[[], object]) -> Task | None:
        """Call `run` at `due`, on the monotonic clock; pass a `WeakCall` to keep nothing alive.

        :return: None if no thread can be started: nothing is called, so ask again later.
        """
        if self._thread is None and not self._start():
            return None
        task = Task(run)
        self._inbox.append((due, next(self._serial), task))
        if due < self._until:
            self._rouse()
        # It may have ended meanwhile.
        if self._thread is None and not self._start():
            task.cancel()
            return None
        return task

    def call_off(self, task: Task) -> None:
        """Forget a task; if it was the only one, the thread ends soon."""
        task.cancel()
        self._rouse()

    def _rouse(self) -> None:
        with suppress(RuntimeError):  # awake already
            self._wake.release()

    def _start(self) -> bool:
        """Start the thread, unless there is one; false if there can be none."""
        if self._paused or not self.runs:
            return self._paused
        # Without a wait, which would never end where the collector runs this inside itself;
        # whoever is starting the thread will find our task in the inbox.
        if not self._starting.acquire(blocking=False):
            return True
        try:
            if self._thread is None:
                self._wake = threading.Lock()
                thread = new_thread(target=self._loop, name="dbpool-housekeeper")
                self._thread = thread
                try:
                    thread.start()
                except RuntimeError:  # there are too many, or the interpreter is shutting down
                    self._thread = None
                    return False
                except BaseException:
                    if not thread.is_alive():
                        self._thread = None
                    raise
            return True
        finally:
            self._starting.release()

    def _loop(self) -> None:
        try:
            self._serve()
        finally:
            # Killed, as a greenlet may be: the next task starts another thread.
            if self._thread is threading.current_thread():
                self._thread = None

    def _serve(self) -> None:
        idle_since: float | None = None
        while not self._paused:
            while self._inbox:
                heapq.heappush(self._heap, self._inbox.popleft())
            now = self._clock()
            if self._heap and self._heap[0][0] <= now:
                _run(heapq.heappop(self._heap)[2])
                idle_since = None
                continue
            self._forget_cancelled()
            if self._heap:
                self._until, idle_since = self._heap[0][0], None
            else:
                idle_since = now if idle_since is None else idle_since
                self._until = idle_since + LINGER
                if now >= self._until and self._end():
                    return
            self._wake.acquire(blocking=False)
            # Whoever comes after this sees the new `_until`; who came before is in the inbox.
            if not self._inbox and not self._paused:
                self._wake.acquire(timeout=max(0.0, min(self._until - now, 3600.0)))

    def _forget_cancelled(self) -> None:
        while self._heap and self._heap[0][2].run is None:
            heapq.heappop(self._heap)

    def _end(self) -> bool:
        """Resign, unless a task came in while nobody could tell that we would."""
        me, self._thread = self._thread, None
        if not self._inbox:
            return True
        with self._starting:
            if self._thread is not None:
                return True
            self._thread = me
        return False

    def pause(self) -> None:
        """Stop the thread and wait for it, as before a fork; tasks are kept."""
        self._paused = True
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            self._rouse()
            # Another thread may be starting it just now.
            with suppress(RuntimeError):
                thread.join(STOP_WAIT)

    def resume(self) -> None:
        """Go on after `pause`, when somebody calls `start_again` or hands a task in."""
        self._paused = False

    def start_again(self) -> None:
        """Start the thread, if there is work for it."""
        if (self._heap or self._inbox) and self._thread is None:
            self._start()


def _run(task: Task) -> None:
    run, task.run = task.run, None
    if run is not None:
        try:
            run()
        except BaseException:
            # One pool's failure must not end the upkeep of the others.
            log.exception("A background task failed")


def new_thread(
    name: str, target: Callable[[], object], *, brief: bool = False
) -> threading.Thread:
    """Make a thread that never keeps a process alive.

    :param brief: whether it ends soon after it has opened a connection, if it opens one.
    """
    # What gevent puts there is to be used; what an app's test puts there starts nothing.
    found = threading.Thread
    made = found if isinstance(found, type) else _Thread
    run = functools.partial(run_passing, target, brief=brief)
    return made(name=name, target=run, daemon=True)


def start_thread(name: str, run: Callable[[], object]) -> None:
    """Run something in a thread of its own; here and now where there must be none.

    :raises RuntimeError: no thread can be started, as at interpreter shutdown.
    """
    if uwsgi_may_fork():
        run()
    else:
        new_thread(target=run, name=name, brief=True).start()


def run_beside(name: str, run: Callable[[], object]) -> None:
    """Run something in a thread of its own; here and now where none can be started."""
    try:
        start_thread(name, run)
    except RuntimeError:
        run()


class WeakCall:
    """Call a method if its object still lives; keeps nothing alive."""

    __slots__ = ("_method",)

    def __init__(self, method: Callable[[], object]) -> None:
        self._method = weakref.WeakMethod(method)

    def __call__(self) -> None:
        """Call the method, if there is one left."""
        method = self._method()
        if method is not None:
            method()


# By process id: a child that was forked without Python's hooks gets one of its own too.
_keepers: dict[int, Housekeeper] = {}


def housekeeper() -> Housekeeper:
    """Return this process's housekeeper; a forked child gets one of its own."""
    pid = getpid()
    # `setdefault`: of two that came at once, one would be missed by `pause`.
    return _keepers.get(pid) or _keepers.setdefault(pid, Housekeeper())


def _before_fork() -> None:
    # Python 3.12 and later warn when a process forks while it has threads.
    housekeeper().pause()


def _after_fork_in_parent() -> None:
    keeper = housekeeper()
    keeper.resume()
    # Beside other threads Python warns anyway, and the main one may not come to a pending call.
    if threading.active_count() > 1 or "gevent.monkey" in sys.modules:
        keeper.start_again()
        for start in list(_starters):
            start()
    else:
        _soon.extend(_starters)


# Called after each fork, and what is called once, as soon as threads may be started.
_starters: list[Callable[[], object]] = []
_soon: deque[Callable[[], object]] = deque()


def start_after_forks(start: Callable[[], object]) -> None:
    """Have something called soon after each fork, in parent and child; it may start a thread."""
    _starters.append(start)


def call_soon(call: Callable[[], object]) -> None:
    """Have something called in the main thread, as soon as that runs Python again."""
    _soon.append(call)
    _wake_main_thread()


def _start_again(_nothing: object) -> int:
    keeper = housekeeper()
    try:
        keeper.start_again()
        with suppress(IndexError):
            while True:
                _soon.popleft()()
    except BaseException as error:
        # As Ctrl-C's: a signal's handler ran in here, where nothing can be raised.
        here, raised = ctypes.c_ulong(threading.get_ident()), ctypes.py_object(type(error))
        throw = functools.partial(ctypes.pythonapi.PyThreadState_SetAsyncExc, here, raised)
        keeper.call_at(monotonic() + THROW_AFTER, throw)
    return 0


def _after_fork_in_child() -> None:
    # The child's own is there already, and has tasks: its pools have left the parent before. Were
    # it forgotten, a fork of the child's would not find it, and come in the middle of its work.
    for pid in _keepers.keys() - {getpid()}:
        del _keepers[pid]
    if _starters:
        _soon.extend(_starters)
        _wake_main_thread()


# Python 3.13 looks for threads when all of its hooks have run, so that one which is started in a
# hook would be warned of. What is pending is called as soon as the main thread runs Python again;
# a function of C's, and the last hook, for one of Python's would be soon enough.
_pending = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(_start_again)
_wake_main_thread = functools.partial(ctypes.pythonapi.Py_AddPendingCall, _pending, None)

os.register_at_fork(
    before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child
)
os.register_at_fork(after_in_parent=_wake_main_thread)
