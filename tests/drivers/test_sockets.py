"""The look at a socket, where drivers keep theirs, and a call that cannot hang."""

import os
import resource
import socket
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from pyramid_dbpool.drivers import sockets
from pyramid_dbpool.drivers.sockets import (
    Look,
    guard_silence,
    has_ended,
    replace_by_dead,
    shut,
    socket_of,
)
from tests.support.guests import SOCKETS


@pytest.mark.parametrize("libc", [True, False], ids=["libc", "no-libc"])
def test_look_tells_silence_speech_and_the_end(
    libc: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A poll that waits for nothing sees what the kernel knows, with Python's own poll too."""
    if not libc:
        monkeypatch.setattr(sockets, "_poll", None)
    near, far = socket.socketpair()
    look = Look(near.fileno())
    assert not look.speaks()
    assert not look.glance(0, 1)
    far.send(b"notice")
    assert look.speaks()
    assert look.glance(0, 1)
    assert not look.ended()
    assert not has_ended(near)
    far.close()
    assert look.speaks()
    assert look.ended()
    assert has_ended(near)
    look.close()
    near.close()


def test_drivers_sockets_are_found() -> None:
    """Wherever a driver keeps it; None where it shows none."""
    near, far = socket.socketpair()

    class Inside:
        def __init__(self, name: str, inner: object) -> None:
            setattr(self, name, inner)

    pure = Inside("_socket", Inside("sock", near))
    assert socket_of(near) == socket_of(Inside("_sock", near)) == socket_of(pure) == near.fileno()
    assert socket_of(object()) is None
    near.close()
    far.close()
    assert socket_of(near) is None


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Give both ends of a TCP connection."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        near = socket.create_connection(server.getsockname())
        far, _address = server.accept()
    with near, far:
        yield near, far


def descriptors() -> int:
    """Count what this process has open."""
    return len(os.listdir("/proc/self/fd"))


def user_timeout(sock: socket.socket) -> int:
    """Give the milliseconds after which the kernel gives up what nobody acknowledges."""
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)


@pytest.mark.parametrize("tool", SOCKETS)
def test_no_tool_keeps_a_drivers_socket_from_us(
    pair: tuple[socket.socket, socket.socket], tool: str
) -> None:
    """What tests put in the place of `socket.socket` is nothing that is asked here."""
    near, far = pair
    before = descriptors()
    with SOCKETS[tool]():
        guard_silence(near.fileno())
        shut(far.fileno())
    assert user_timeout(near) == sockets.SILENCE_LIMIT * 1000
    assert near.recv(1) == b""
    assert descriptors() == before


@pytest.mark.parametrize("use", [guard_silence, shut])
def test_what_is_no_socket_is_left_alone(tmp_path: Path, use: Callable[[int], None]) -> None:
    """No error, and no descriptor that stays: a tool may show a driver a file of its own."""
    with Path(tmp_path, "file").open("wb") as file:
        before = descriptors()
        use(file.fileno())
        with closing(Look(file.fileno())) as look:
            assert look.glance(0, 1)
        assert descriptors() == before


def test_a_drivers_socket_waits_as_before(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    """An app's `socket.setdefaulttimeout` is for sockets that it makes itself."""
    near, _far = pair
    socket.setdefaulttimeout(30)
    try:
        guard_silence(near.fileno())
    finally:
        socket.setdefaulttimeout(None)
    assert user_timeout(near) == sockets.SILENCE_LIMIT * 1000
    assert os.get_blocking(near.fileno())


def test_without_descriptors_a_look_still_sees(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    """A process that may open nothing more has connections, and is told of their end."""
    near, far = pair
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            os.dup(near.fileno())
        guard_silence(near.fileno())
        look = Look(near.fileno())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with closing(look):
        assert not look.glance(0, 1)
        far.close()
        assert look.glance(0, 1)
        assert look.ended()


@pytest.mark.parametrize("tool", SOCKETS)
def test_an_inherited_socket_is_replaced(
    pair: tuple[socket.socket, socket.socket], tool: str
) -> None:
    """Under its number is a dead one; the connection goes on for whoever else has it."""
    near, far = pair
    with socket.socket(fileno=os.dup(near.fileno())) as parents:
        with SOCKETS[tool]():
            replace_by_dead(near.fileno())
        with suppress(OSError):
            near.send(b"from the child")
        assert near.recv(1) == b""
        parents.send(b"from the parent")
    assert far.recv(100) == b"from the parent"
