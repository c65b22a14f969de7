"""What a connection's socket shows without a round trip, and what can be done to it.

A connection that the server closed or reset makes its socket readable at once,
so a poll that waits for nothing finds it for microseconds.  *Silent* means alive
as far as this machine knows; *speaking* means that a ping has to tell; *ended*
means dead for certain.
"""

from __future__ import annotations

import ctypes
import functools
import os
import select
import socket
import sys
from _socket import socket as Socket
from _socket import socketpair
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any

_RDHUP = getattr(select, "POLLRDHUP", 0)
_EVENTS = select.POLLIN | select.POLLPRI | _RDHUP
_ENDED = select.POLLHUP | select.POLLERR | select.POLLNVAL | _RDHUP

# Seconds: of silence before the kernel's first probe, between two probes, and without an answer
# after which it gives a connection up.
PROBE_AFTER, PROBE_INTERVAL, SILENCE_LIMIT = 5, 3, 12


class _PollFD(ctypes.Structure):
    """C's `struct pollfd`, see poll(2)."""

    _fields_ = (("fd", ctypes.c_int), ("events", ctypes.c_short), ("revents", ctypes.c_short))


def _find_poll() -> Any:
    # `PyDLL` keeps the interpreter's lock during the call.  Python's own poll gives
    # it away for a call that never waits, and then stands in line for it: with many
    # threads that costs a thousand times what the look costs.
    try:
        return ctypes.PyDLL(None).poll
    except (AttributeError, OSError):
        return None


_poll = _find_poll()


def _looking(seen: _PollFD) -> Callable[[], object]:
    """Return what looks at a socket, without a wait, and puts what there is to see into `seen`."""
    if _poll is None:
        return functools.partial(_ask_python, seen)
    return functools.partial(_poll, ctypes.byref(seen), 1, 0)


def _ask_python(seen: _PollFD) -> bool:
    # gevent's own poll goes through its hub, at fifty times the cost; ours never waits.
    monkey = sys.modules.get("gevent.monkey")
    poller = (monkey.get_original("select", "poll") if monkey else select.poll)()
    poller.register(seen.fd, _EVENTS)
    found = poller.poll(0)
    seen.revents = found[0][1] if found else 0
    return bool(found)


class Look:
    """A look at one socket that never waits.

    `glance(0, 1)` is the quick one: empty while the socket is silent.  `speaks()`
    says the same without giving the interpreter's lock away, and lets `ended` tell more.
    """

    __slots__ = ("_epoll", "_seen", "glance", "speaks")

    def __init__(self, fd: int) -> None:
        self._seen = seen = _PollFD(fd, _EVENTS, 0)
        self.speaks = _looking(seen)
        self.glance: Callable[[int, int], object] = lambda *_: self.speaks()
        self._epoll = _epoll_of(fd)
        if self._epoll is not None:
            self.glance = self._epoll.poll

    def close(self) -> None:
        """Let the descriptor go; nobody looks afterwards."""
        if self._epoll is not None:
            self._epoll.close()

    def ended(self) -> bool:
        """Tell whether the last look saw that the other side is gone for certain."""
        return bool(self._seen.revents & _ENDED)


def _epoll_of(fd: int) -> Any:
    """Return what asks the kernel about one socket in half the time of a poll, if it can be had.

    gevent takes it out of the module; it needs a descriptor of its own, and there may be none.
    """
    if not hasattr(select, "epoll"):
        return None
    with suppress(OSError):
        epoll = select.epoll()
        epoll.register(fd, _EVENTS)
        return epoll
    return None


def socket_of(connection: Any) -> int | None:
    """Return the file descriptor of a driver's connection; None if the driver shows none.

    psycopg, psycopg2 and mysqlclient have `fileno()`; PyMySQL and the pure
    mysql-connector-python keep a socket inside; the latter's C extension does not.
    """
    sock = connection
    if not hasattr(sock, "fileno"):
        inner = getattr(connection, "_sock", None) or getattr(connection, "_socket", None)
        sock = getattr(inner, "sock", inner)
    fileno = getattr(sock, "fileno", None)
    if fileno is None:
        return None
    try:
        fd = fileno()
    except Exception:
        return None
    return fd if isinstance(fd, int) and fd >= 0 else None


def has_ended(connection: Any) -> bool:
    """Look, for a microsecond, whether the other side of a driver's connection is gone.

    False too where it cannot be seen: without a socket, or over a network that drops silently.
    """
    fd = socket_of(connection)
    if fd is None:
        return False
    seen = _PollFD(fd, _EVENTS, 0)
    _looking(seen)()
    return bool(seen.revents & _ENDED)


def closed_by(connection: Any) -> Callable[[], object] | None:
    """Return what tells, without I/O, whether the driver has closed a connection.

    psycopg and psycopg2 have `closed`; PyMySQL and mysqlclient have `open`.  None for
    a driver that has neither.
    """
    if isinstance(getattr(connection, "closed", None), int):
        return functools.partial(getattr, connection, "closed")
    if isinstance(getattr(connection, "open", None), int):
        return lambda: not connection.open
    return None


@contextmanager
def _borrowed(fd: int) -> Iterator[Socket]:
    """Yield a socket object for a descriptor that is a driver's, and stays open.

    It is of the class beneath `socket.socket`, in whose place test tools put one that refuses,
    or that knows no descriptors, and gevent one that takes the driver's socket for its own.
    """
    copy = os.dup(fd)
    try:
        # An app that calls socket.setdefaulttimeout() would have the driver's socket return at
        # once where it should wait: the two descriptors share that.
        blocks = os.get_blocking(copy)
        ours = Socket(fileno=copy)
    except BaseException:
        os.close(copy)
        raise
    with closing(ours):
        os.set_blocking(copy, blocks)
        yield ours


def shut(fd: int) -> None:
    """End a socket's traffic, so that whoever waits on it returns with an error at once."""
    with suppress(OSError), _borrowed(fd) as ours:
        ours.shutdown(socket.SHUT_RDWR)


def guard_silence(fd: int) -> None:
    """Make the kernel give a TCP connection up after `SILENCE_LIMIT` seconds without an answer.

    Without it a statement on a network that drops silently hangs for the kernel's
    own fifteen minutes.  Sets keepalive for the silent phases (tcp(7)) and
    TCP_USER_TIMEOUT (RFC 5482) for data that nobody acknowledges.
    """
    if not hasattr(socket, "TCP_USER_TIMEOUT"):
        return
    probes = max(1, SILENCE_LIMIT // PROBE_INTERVAL)
    with suppress(OSError), _borrowed(fd) as ours:
        if ours.family not in (socket.AF_INET, socket.AF_INET6):
            return
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, PROBE_AFTER)
        ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, PROBE_INTERVAL)
        ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, probes)
        ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENCE_LIMIT * 1000)


def replace_by_dead(fd: int) -> None:
    """Put a dead socket under the number of one that was inherited, in this process."""
    dead, other = socketpair()
    other.close()
    os.dup2(dead.fileno(), fd, inheritable=False)
    dead.close()
