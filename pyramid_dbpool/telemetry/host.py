"""Asks all processes of this host that answer in one folder, side by side.

None of them can hold the others up: one that is stuck, stopped or busy is *silent*, and what it
is told to do it may still do later.
"""

from __future__ import annotations

import json
import os
import selectors
from _socket import AF_UNIX, SOCK_NONBLOCK, SOCK_STREAM
from _socket import socket as Socket
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..clock import monotonic
from .http_messages import parsed_answer, request
from .report import VERSION
from .run_dir import RunDir, RunDirError, peer_uid

__all__ = ["TIMEOUT", "Answer", "RunDirError", "ask", "command"]

# How long processes may take to answer, in seconds.
TIMEOUT = 0.5
# What is longer, in bytes, is no answer of ours.
LONGEST_ANSWER = 64 * 1024 * 1024
_CHUNK = 262_144


@dataclass(frozen=True)
class Answer:
    """What one process has answered.

    - `report`: its report, or what it says to a command; None: nothing that can be shown.
    - `silent`: why there is none, a sentence without a full stop; None: there is one.
    """

    pid: int
    report: dict[str, Any] | None
    silent: str | None = None


def ask(
    run_dir: str,
    *,
    stacks: bool = True,
    after: Mapping[int, int] | None = None,
    timeout: float = TIMEOUT,
) -> list[Answer]:
    """Ask all processes for their reports; in the order of their ids.

    Sockets of processes that are dead are removed.

    :param run_dir: the folder; `dbpool.run_dir`.
    :param stacks: whether to say where in the code holders and waiters are.
    :param after: only events with a higher number than this, by process id.
    :param timeout: how long to wait for all of them, in seconds.
    :raises RunDirError: the folder is missing, or is not ours to look into.
    """
    known = after or {}

    def question(pid: int) -> bytes:
        return request("GET", f"/report?stacks={int(stacks)}&after={known.get(pid, 0)}")

    return [_checked(each) for each in _ask_all(run_dir, question, timeout, None)]


def command(
    run_dir: str,
    name: str,
    *,
    pool: str | None = None,
    pids: Collection[int] | None = None,
    by: str | None = None,
    timeout: float = TIMEOUT,
    **arguments: Any,
) -> list[Answer]:
    """Tell processes to do something with their pools.

    :param name: `refresh`, `resize`, `pause` or `resume`.
    :param pool: the pool's name; None: all pools.
    :param pids: which processes; None: all.
    :param by: who asks, for the log.
    :param timeout: how long to wait for all of them, in seconds.
    :param arguments: the command's own, such as `size` and `max_overflow`.
    :raises RunDirError: the folder is missing, or is not ours to look into.
    """
    said = {"pool": pool, "by": by} | arguments
    asked = request("POST", f"/{name}", said)
    return _ask_all(run_dir, lambda _pid: asked, timeout, pids)


def _ask_all(
    run_dir: str,
    question: Callable[[int], bytes],
    timeout: float,
    pids: Collection[int] | None,
) -> list[Answer]:
    folder = RunDir(run_dir)
    owner = folder.check()
    until = monotonic() + timeout
    calls = [
        _Call(pid, place, question(pid), {0, owner})
        for pid, place in folder.sockets()
        if pids is None or pid in pids
    ]
    try:
        with selectors.DefaultSelector() as selector:
            waiting = [each for each in calls if each.begin(folder)]
            _wait(selector, waiting, until)
    except OSError as error:
        # Who has no descriptor left cannot ask; that is no silence of theirs.
        for each in calls:
            each.hang_up()
        raise RunDirError(
            f"dbpool.run_dir = {run_dir}: {error.strerror} in this process."
        ) from error
    for each in waiting:
        each.end(timeout)
    return sorted((each.answer for each in calls if each.answer), key=lambda each: each.pid)


def _wait(selector: selectors.BaseSelector, calls: list[_Call], until: float) -> None:
    """Have all of them go on until they are over, or the time is."""
    for each in calls:
        selector.register(each.fileno(), each.events, each)
    while selector.get_map() and (left := until - monotonic()) > 0:
        for key, _events in selector.select(left):
            call: _Call = key.data
            if not call.go_on():
                selector.unregister(key.fd)
            elif call.events != key.events:
                selector.modify(key.fd, call.events, call)


class _Call:
    """One process that is asked."""

    def __init__(self, pid: int, place: Path, said: bytes, trusted: set[int]) -> None:
        self.pid = pid
        self.answer: Answer | None = None
        self._place = place
        self._trusted = trusted
        self._to_send = memoryview(said)
        self._received: list[bytes] = []
        self._length = 0
        self._connected: Socket | None = None

    @property
    def events(self) -> int:
        return selectors.EVENT_WRITE if self._to_send else selectors.EVENT_READ

    def fileno(self) -> int:
        """Return the descriptor of the socket."""
        return -1 if self._connected is None else self._connected.fileno()

    def begin(self, folder: RunDir) -> bool:
        """Connect; false if it is over with that."""
        connected = self._connected = Socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK)
        try:
            connected.connect(os.fspath(self._place))
            if peer_uid(connected) not in self._trusted:
                self._fail("is another user's process, and is not asked")
                return False
        except (ConnectionRefusedError, FileNotFoundError):
            folder.remove_dead(self._place)
            self.hang_up()
            return False
        except BlockingIOError:
            self._fail("is busy: too many ask it already")
            return False
        except OSError as error:
            self._fail(f"cannot be asked ({error.strerror})")
            return False
        return True

    def go_on(self) -> bool:
        """Send or receive what can be; false if it is over."""
        connected = self._connected
        if connected is None:
            return False
        try:
            if self._to_send:
                self._to_send = self._to_send[connected.send(self._to_send) :]
                return True
            said = connected.recv(_CHUNK)
        except BlockingIOError:
            return True
        except OSError as error:
            self._fail(f"has hung up ({error.strerror})")
            return False
        self._received.append(said)
        self._length += len(said)
        if not said:
            self._read()
        elif self._length > LONGEST_ANSWER:
            self._fail("says more than can be read")
        return self.answer is None

    def _read(self) -> None:
        received = b"".join(self._received)
        if not received:
            self._fail("has hung up without a word: it may be ending")
            return
        try:
            status, content = parsed_answer(received)
        except (ValueError, RecursionError):
            self._fail("does not answer in JSON: another version, or another program")
            return
        if not isinstance(content, dict):
            self._fail("answers in another form: another version")
        elif status != 200:
            self._fail(f"says: {content.get('error', status)}")
        else:
            self.answer = Answer(self.pid, content)
            self.hang_up()

    def end(self, timeout: float) -> None:
        """Give up, if there is no answer."""
        if self.answer is None:
            self._fail(f"does not answer within {timeout:g} s")

    def _fail(self, why: str) -> None:
        self.answer = Answer(self.pid, None, why)
        self.hang_up()

    def hang_up(self) -> None:
        """Close the socket."""
        if self._connected is not None:
            self._connected.close()
            self._connected = None


def _checked(answer: Answer) -> Answer:
    """Take no report for one of ours that is of another form."""
    report = answer.report
    if report is None:
        return answer
    version = report.get("version")
    if version != VERSION or not isinstance(report.get("pools"), list):
        told = json.dumps(version) if isinstance(version, int | str) else "none"
        return Answer(answer.pid, None, f"reports in version {told}, and {VERSION} is read here")
    return answer
