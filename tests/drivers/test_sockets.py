"""The look at a socket, where drivers keep theirs, and a call that cannot hang."""

import socket

import pytest

from pyramid_dbpool.drivers import sockets
from pyramid_dbpool.drivers.sockets import Look, has_ended, socket_of


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
