"""Answers whoever asks this process, from one thread that sleeps until somebody does.

What holds:

- One thread serves all peers, and none of them can hold it up: it never waits for a single one,
  and each has so many seconds in all. It takes a pool's lock as `snapshot` does, for the time of a
  copy; what is sent is sent without it.
- A socket belongs to the process that made it. A child closes what it has inherited, takes no name
  away, and makes its own; at the latest when it uses an engine.
- Before a fork the thread ends, as Python wants it, and goes on soon afterwards.
- Whatever goes wrong is said once, and nobody's work fails for it.

Under gevent it is a greenlet, which may be the pool's neighbour; a thread that was begun before
gevent had patched everything gives way to one.
"""

from __future__ import annotations

import _thread
import atexit
import logging
import os
import select
import sys
import threading
from _socket import socket as Socket
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from os import getpid
from typing import Any

from ..clock import monotonic, sleep
from ..engines import connecting, registry
from ..pool import inheritance
from ..pool.fork_gate import run_passing
from ..pool.housekeeper import STOP_WAIT, call_soon, start_after_forks
from ..pool.inheritance import uwsgi_may_fork
from ..pool.leases import worker_kind
from . import commands
from .http_messages import Refused, Request, answer, parsed_request
from .report import process_report
from .run_dir import RunDir, RunDirError, peer_uid

__all__ = ["answer_in", "attend"]

log = logging.getLogger(__name__)

# How long a peer may take, in seconds: to say what it wants, and to read the answer.
ASK_WITHIN, READ_WITHIN = 2.0, 10.0
# How many are served at a time; others wait to be accepted.
MOST_PEERS = 16
_CHUNK = 65_536
# How often a child that was forked by a thread is looked at (seconds): it may have ended.
LOOK_EVERY = 1.0
_FIRST_MAIN_THREAD = threading.main_thread()


class _Peer:
    """One who asks: what it has said so far, what is still to be sent, and until when."""

    def __init__(self, connected: Socket, until: float) -> None:
        self.connected = connected
        self.until = until
        self.received = b""
        self.answer = memoryview(b"")

    @property
    def awaits(self) -> int:
        """What the kernel is asked to tell of."""
        return select.POLLOUT if self.answer else select.POLLIN

    def go_on(self, reply: Callable[[bytes], bytes | None]) -> bool:
        """Receive or send what can be; tell whether there is more to come."""
        try:
            if not self.answer:
                said = self.connected.recv(_CHUNK)
                self.received += said
                found = reply(self.received) if said else b""
                if not found:
                    # Gone, or not done yet.
                    return found is None
                self.answer, self.until = memoryview(found), monotonic() + READ_WITHIN
            self.answer = self.answer[self.connected.send(self.answer) :]
        except BlockingIOError:
            return True
        except OSError:
            return False
        return bool(self.answer)


class _Listener:
    """One process's socket, and the peers that it has accepted."""

    def __init__(self, run_dir: RunDir) -> None:
        self.pid = getpid()
        self.run_dir = run_dir
        self.may_ask = {0, run_dir.make()}
        self._socket, self._made = run_dir.listen()
        # Written to when whoever serves is to stop waiting.
        self._wakeup = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.peers: dict[int, _Peer] = {}
        self.woken = self.closed = False

    def wake(self) -> None:
        """Have whoever serves stop waiting."""
        with suppress(OSError):
            os.eventfd_write(self._wakeup, 1)

    def has_lost_name(self) -> bool:
        """Tell whether nobody finds it any more: somebody has removed its name."""
        return self.run_dir.has_lost(self.pid, self._made)

    def listen_again(self) -> None:
        """Take the place again.

        :raises RunDirError: that is not possible.
        """
        found, made = self.run_dir.listen()
        self._socket.close()
        self._socket, self._made = found, made

    def leave(self) -> None:
        """Take its name away."""
        self.run_dir.leave(self.pid, self._made)

    def serve_once(self) -> None:
        """Wait until something is to be done, and do it."""
        poller = select.poll()
        poller.register(self._wakeup, select.POLLIN)
        if len(self.peers) < MOST_PEERS:
            poller.register(self._socket.fileno(), select.POLLIN)
        for fd, peer in self.peers.items():
            poller.register(fd, peer.awaits)
        for fd, _what in poller.poll(self._milliseconds_left()):
            if self.closed:
                return
            if fd == self._wakeup:
                self.woken = True
                with suppress(OSError):
                    os.eventfd_read(self._wakeup)
            elif fd == self._socket.fileno():
                self._accept()
            elif not self.peers[fd].go_on(_reply):
                self.peers.pop(fd).connected.close()
        self._drop_late(monotonic())

    def _milliseconds_left(self) -> float | None:
        if not self.peers:
            # An idle process sleeps.
            return None if threading.main_thread() is _FIRST_MAIN_THREAD else LOOK_EVERY * 1000
        left = min(each.until for each in self.peers.values()) - monotonic()
        return max(0.0, left) * 1000 + 1

    def _accept(self) -> None:
        try:
            fd, _address = self._socket._accept()  # type: ignore[attr-defined]
        except OSError:
            # Gone again; or there is no descriptor left, and the loop is not to spin for that.
            sleep(0.05)
            return
        connected = Socket(fileno=fd)
        connected.setblocking(False)
        if peer_uid(connected) in self.may_ask:
            self.peers[fd] = _Peer(connected, monotonic() + ASK_WITHIN)
        else:
            connected.close()

    def _drop_late(self, now: float) -> None:
        for fd in [fd for fd, each in self.peers.items() if each.until <= now]:
            self.peers.pop(fd).connected.close()

    def close(self) -> None:
        """Close it in this process; its maker's name is not touched."""
        self.closed = True
        self.wake()
        self._socket.close()
        for peer in list(self.peers.values()):
            peer.connected.close()
        self.peers.clear()
        wakeup, self._wakeup = self._wakeup, -1
        with suppress(OSError):
            os.close(wakeup)


def _reply(received: bytes) -> bytes | None:
    """Return what is answered; None: the request is not complete."""
    try:
        asked = parsed_request(received)
        return None if asked is None else answer(HTTPStatus.OK, _content(asked))
    except Refused as error:
        return answer(error.status, {"error": f"{error}"})
    except Exception as error:
        log.debug("A question could not be answered", exc_info=True)
        why = f"the answer could not be made ({type(error).__name__})"
        return answer(HTTPStatus.INTERNAL_SERVER_ERROR, {"error": why})


def _content(asked: Request) -> dict[str, Any]:
    name = asked.path.strip("/")
    if name == "report":
        if asked.method != "GET":
            raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, "/report is asked for with GET")
        return process_report(
            stacks=asked.query.get("stacks", "1") != "0", after=_number(asked, "after")
        )
    if name in commands.COMMANDS:
        if asked.method != "POST":
            raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, f"/{name} is asked for with POST")
        return commands.run(name, asked.json())
    known = ", ".join(f"/{each}" for each in ("report", *commands.COMMANDS))
    raise Refused(HTTPStatus.NOT_FOUND, f"there is nothing here; there are {known}")


def _number(asked: Request, name: str) -> int:
    given = asked.query.get(name, "0")
    if not given.isascii() or not given.isdigit() or len(given) > 18:
        raise Refused(HTTPStatus.BAD_REQUEST, f"{name} has to be a number")
    return int(given)


def _is_over() -> bool:
    """Tell whether this is a child of a thread's, and that thread, its main one, has ended.

    The process ends with its last thread then, which is not to be this one.
    """
    main = threading.main_thread()
    if main is _FIRST_MAIN_THREAD or main.is_alive():
        return False
    return all(each.daemon for each in threading.enumerate())


class _Server:
    """Owns this process's listener, and the thread that serves it."""

    def __init__(self) -> None:
        self._run_dir: RunDir | None = None
        self._listener: _Listener | None = None
        # Held by the thread, until it ends.
        self._ended = threading.Lock()
        # The listener that is being served, and by what: a thread or a greenlet.
        self._served: tuple[_Listener, str] | None = None
        self._paused = False
        self._failed_in: int | None = None
        # Whether this process, or one that it was forked from, has said what is wrong.
        self._said = False
        self._starting = threading.Lock()

    def __repr__(self) -> str:
        return f"<Server {self._run_dir} serving={self._served is not None}>"

    def answer_in(self, path: str) -> None:
        """Answer in a folder from now on, in this process and its children."""
        if self._run_dir is None:
            self._run_dir = RunDir(path)
        elif self._run_dir.path != RunDir(path).path and not self._said:
            self._said = True
            log.warning(
                "dbpool.run_dir = %s: this process answers in %s already, where an earlier engine"
                " said so. Give all settings of a process the same folder.",
                path,
                self._run_dir.path,
            )
        self.start()

    def start(self) -> None:
        """Answer, unless that is done already; what goes wrong is said once."""
        run_dir = self._run_dir
        if run_dir is None or self._paused:
            return
        if self._is_served():
            self._look_for_name()
            return
        if self._failed_in == getpid() or uwsgi_may_fork():
            return
        self.abandon()
        starting = self._starting
        # Without a wait: a signal's handler, or the collector, may come here inside of this.
        if not starting.acquire(blocking=False):
            return
        try:
            if not self._is_served():
                self._start(run_dir)
        except Exception as error:
            self._failed_in = getpid()
            self._tell(error)
        finally:
            starting.release()

    def _is_served(self) -> bool:
        served = self._served
        return served is not None and served[0].pid == getpid()

    def _look_for_name(self) -> None:
        """Have whoever serves take its place again, if somebody has cleared the folder."""
        listener = self._listener
        if listener is not None and listener.has_lost_name():
            listener.wake()

    def _start(self, run_dir: RunDir) -> None:
        listener = self._listener = self._listener or _Listener(run_dir)
        kind = worker_kind()
        self._served = listener, kind
        try:
            if kind == "greenlet":
                # Without a wait for its beginning: in gevent's hub nobody may wait.
                gevent: Any = sys.modules.get("gevent")
                gevent.spawn(self._serve, listener, kind)
            else:
                self._ended = threading.Lock()
                self._ended.acquire()
                # None of `threading`'s, which misses one that ends after gevent has patched it.
                _thread.start_new_thread(self._run, (listener, kind, self._ended))
        except BaseException:
            self._served = None
            self._leave()
            raise

    def _run(self, listener: _Listener, kind: str, ended: threading.Lock) -> None:
        """Serve, in a thread that whoever forks waits for."""
        number = threading.get_native_id()
        inheritance.unlisted_threads.add(number)
        try:
            # Until it is gone: it is there for a moment after its last line.
            run_passing(lambda: self._serve(listener, kind), brief=False)
        finally:
            inheritance.unlisted_threads.discard(number)
            ended.release()

    def _tell(self, error: Exception) -> None:
        if isinstance(error, RunDirError):
            text = str(error)
        else:
            folder = self._run_dir.path if self._run_dir else ""
            text = f"dbpool.run_dir = {folder}: {type(error).__name__}: {error}."
        level = logging.DEBUG if self._said else logging.WARNING
        self._said = True
        log.log(level, "%s This process answers nobody who asks; all else works.", text)

    def _serve(self, listener: _Listener, kind: str) -> None:
        try:
            while (
                self._served == (listener, kind) and listener.pid == getpid() and not self._paused
            ):
                if kind != worker_kind():
                    # gevent has patched everything by now: locks are for greenlets.
                    self._served = None
                    call_soon(self.start)
                    return
                listener.serve_once()
                self._keep_place(listener)
                if _is_over():
                    self._leave()
                    return
        except Exception:
            if not listener.closed:
                log.debug("The server of dbpool.run_dir has ended", exc_info=True)
        finally:
            if self._served == (listener, kind):
                self._served = None

    def _keep_place(self, listener: _Listener) -> None:
        """Take the place again, if that is what it was woken for."""
        woken, listener.woken = listener.woken, False
        if not woken or self._paused or listener.closed or not listener.has_lost_name():
            return
        try:
            listener.listen_again()
        except RunDirError as error:
            self._tell(error)

    # Forks, and the end

    def pause(self) -> None:
        """End the thread before a fork: Python warns of those that there are then."""
        served = self._served
        if served is None or served[1] == "greenlet":
            return
        self._paused = True
        served[0].wake()
        if self._ended.acquire(timeout=STOP_WAIT):
            self._ended.release()

    def resume(self) -> None:
        """Go on after `pause`, in the parent; begin, in the child."""
        self._paused = False
        self.start()

    def abandon(self) -> None:
        """Close what was inherited, in a child."""
        listener = self._listener
        if listener is None or listener.pid == getpid():
            return
        self._listener = self._served = None
        self._paused = False
        # Another thread of the parent's may have held it.
        self._starting = threading.Lock()
        listener.close()

    def end(self) -> None:
        """Take the socket away, when the interpreter ends."""
        self._run_dir = None
        if self._listener is not None and self._listener.pid == getpid():
            self._leave()

    def _leave(self) -> None:
        listener, self._listener, self._served = self._listener, None, None
        if listener is not None:
            listener.leave()
            listener.close()


_server = _Server()


def answer_in(path: str) -> None:
    """Have this process, and those that are forked from it, answer in a folder.

    Whatever goes wrong is said in the log, once.

    :param path: the folder, absolute; `dbpool.run_dir`.
    """
    _server.answer_in(path)


def attend() -> None:
    """Answer for the engines of this process whose settings name a folder."""
    registry.on_run_dir(answer_in)
    connecting.before_each_opening.append(_server.start)
    inheritance.watch(_server)
    start_after_forks(_server.resume)
    os.register_at_fork(before=_server.pause)
    atexit.register(_server.end)
