"""The folder in which each process has its socket, `PID.sock`.

It is private: it belongs to whoever runs the app, and nobody else may look into it. What holds:

- A socket has its name only once it listens: one that refuses is a dead process's, and may go.
- A process takes no name away but its own and those of the dead.
- Nothing in the folder is followed that is no socket: no symbolic link, no file.
"""

from __future__ import annotations

import os
import re
import stat
import struct
from _socket import AF_UNIX, SO_PEERCRED, SOCK_NONBLOCK, SOCK_STREAM, SOL_SOCKET
from _socket import socket as Socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

__all__ = ["RunDir", "RunDirError", "peer_uid"]

# What the kernel has room for (`sun_path` in unix(7)), less the zero at the end.
LONGEST_PATH = 107
# How many who ask may wait to be accepted.
BACKLOG = 64
_SOCKET = re.compile(r"([1-9][0-9]*)\.sock")
# Made, and not yet listening: whoever came upon it would take it for a dead process's.
_NEW = re.compile(r"\.([1-9][0-9]*)\.new")
_CREDENTIALS = struct.Struct("3i")


class RunDirError(Exception):
    """The folder of `dbpool.run_dir` cannot be used; the text says why, and what to do."""


class RunDir:
    """A folder of sockets.

    :param path: the folder, absolute.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"<RunDir {self.path}>"

    def make(self) -> int:
        """Make the folder if it is missing and its parent is there; then `check` it.

        :raises RunDirError: it cannot be used.
        """
        try:
            self.path.mkdir(mode=0o700)
        except FileExistsError:
            # Whatever it is: `check` says it in words that help more.
            pass
        except FileNotFoundError:
            raise self._error(f"there is no folder {self.path.parent} to make it in") from None
        except OSError as error:
            raise self._error(f"it cannot be made ({_said(error)})") from error
        return self.check()

    def check(self) -> int:
        """Return the uid of whoever may ask: the folder's owner.

        :raises RunDirError: it is missing, somebody else's, or open to others.
        """
        try:
            found = self.path.lstat()
        except FileNotFoundError:
            raise self._error("there is no such folder: no process has made it yet") from None
        except OSError as error:
            raise self._error(_said(error)) from error
        if not stat.S_ISDIR(found.st_mode):
            raise self._error("it is no folder")
        if os.geteuid() not in (0, found.st_uid):
            raise self._error(
                f"it belongs to user {found.st_uid}, and this process to user {os.geteuid()}"
            )
        if stat.S_IMODE(found.st_mode) & 0o077:
            mode = stat.S_IMODE(found.st_mode)
            raise self._error(
                f"others may look into it (mode {mode:04o}): `chmod 700` it, or name a folder"
                " that is not there yet"
            )
        return found.st_uid

    def _error(self, why: str) -> RunDirError:
        return RunDirError(f"dbpool.run_dir = {self.path}: {why}.")

    def socket_of(self, pid: int) -> Path:
        """Return where a process has its socket."""
        return self.path / f"{pid}.sock"

    # This process's own

    def listen(self) -> tuple[Socket, os.stat_result]:
        """Make this process's socket, and have it listen.

        :return: the socket, and what tells it from another one in its place.
        :raises RunDirError: that is not possible.
        """
        owner = self.make()
        self.sweep()
        pid = os.getpid()
        place, new = self.socket_of(pid), self.path / f".{pid}.new"
        length = len(os.fsencode(place))
        if length > LONGEST_PATH:
            raise self._error(
                f"{place} would be {length} bytes long, and a socket's path has {LONGEST_PATH} at"
                " most: name a shorter folder"
            )
        if _listens(place):
            raise self._error(
                f"another process answers as {place.name}: give each container a folder of its own"
            )
        listener = Socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK)
        try:
            with suppress(FileNotFoundError):
                new.unlink()
            listener.bind(os.fspath(new))
            if os.geteuid() != owner:
                # Of root, in the folder of the user as whom its workers will run.
                os.chown(new, owner, -1, follow_symlinks=False)
            listener.listen(BACKLOG)
            made = new.lstat()
            new.rename(place)
        except OSError as error:
            listener.close()
            with suppress(OSError):
                new.unlink()
            raise self._error(f"{place.name} cannot be made there ({_said(error)})") from error
        return listener, made

    def has_lost(self, pid: int, made: os.stat_result) -> bool:
        """Tell whether somebody has removed a socket's name, or the folder."""
        try:
            return not os.path.samestat(made, self.socket_of(pid).lstat())
        except (FileNotFoundError, NotADirectoryError):
            return True
        except OSError:
            # As of root's folder, where this process is another user by now.
            return False

    def leave(self, pid: int, made: os.stat_result) -> None:
        """Take this process's name away, unless another one has it by now."""
        with suppress(OSError):
            if not self.has_lost(pid, made):
                self.socket_of(pid).unlink()

    # Everybody's

    def sockets(self) -> Iterator[tuple[int, Path]]:
        """List the processes that have one, and where.

        :raises RunDirError: the folder cannot be read.
        """
        try:
            names = sorted(os.listdir(self.path))
        except OSError as error:
            raise self._error(_said(error)) from error
        for name in names:
            found = _SOCKET.fullmatch(name)
            if found and _is_socket(self.path / name):
                yield int(found[1]), self.path / name

    def sweep(self) -> None:
        """Remove what dead processes have left."""
        with suppress(RunDirError):
            for _pid, place in self.sockets():
                self.remove_dead(place)
        with suppress(OSError):
            for name in os.listdir(self.path):
                found = _NEW.fullmatch(name)
                if found and not _lives(int(found[1])):
                    (self.path / name).unlink()

    def remove_dead(self, place: Path) -> bool:
        """Remove a socket if nobody listens there; tell whether nobody does."""
        with suppress(OSError):
            before = place.lstat()
            if not stat.S_ISSOCK(before.st_mode) or _listens(place):
                return False
            # Another process may have come to have that number, and the place.
            if os.path.samestat(before, place.lstat()):
                place.unlink()
        return True


def _is_socket(place: Path) -> bool:
    with suppress(OSError):
        return stat.S_ISSOCK(place.lstat().st_mode)
    return False


def _listens(place: Path) -> bool:
    """Tell whether a process has the socket, also one that is stopped or busy."""
    asking = Socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK)
    try:
        asking.connect(os.fspath(place))
    except (ConnectionRefusedError, FileNotFoundError):
        return False
    except OSError:
        # It has no room for more who ask.
        return True
    finally:
        asking.close()
    return True


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


def _said(error: OSError) -> str:
    return error.strerror or str(error)


def peer_uid(connected: Socket) -> int:
    """Return the uid of who is at the other end, as the kernel has it."""
    credentials = connected.getsockopt(SOL_SOCKET, SO_PEERCRED, _CREDENTIALS.size)
    _pid, uid, _gid = _CREDENTIALS.unpack(credentials)
    return int(uid)
