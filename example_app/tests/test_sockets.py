"""The lines before the sockets, on socket pairs."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from listener import HANDSHAKE, Listener
from processes import PATIENCE, Program, wait_until
from simple_websocket import Server

from example_app import sockets
from example_app.sockets import LINE, Hub, Sock, Socket

ENVIRON = {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in HANDSHAKE.items()}
LONG = json.dumps("x" * 10_000)


@pytest.fixture(autouse=True)
def endless_sends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no send give up by itself: a socket that is stuck has to be cut."""
    monkeypatch.setattr(sockets, "SEND_TIMEOUT", 600)


@pytest.fixture
def hub() -> Iterator[Hub]:
    """Give a hub; at the end its sockets are closed and their threads have ended."""
    hub = Hub()
    before = set(threading.enumerate())
    yield hub
    hub.close()
    for thread in set(threading.enumerate()) - before:
        thread.join(PATIENCE)
        assert not thread.is_alive()


@pytest.fixture
def listen(hub: Hub) -> Iterator[Callable[[], Listener]]:
    """Open sockets that the hub serves, each in a thread."""
    opened = []

    def open_one() -> Listener:
        ours, theirs = socket.socketpair()
        opened.extend([ours, theirs])
        theirs.settimeout(PATIENCE)
        threading.Thread(target=hub.serve, args=(served_by(ours),)).start()
        return Listener(theirs)

    yield open_one
    hub.close()
    wait_for_sockets(hub, 0)
    for each in opened:
        each.close()


def served_by(sock: socket.socket) -> Socket:
    """Make what the hub serves, on a connection that asks for it."""
    return Socket({"HTTP_HOST": "here", **ENVIRON, "gunicorn.socket": sock})


def wait_for_sockets(hub: Hub, count: int) -> None:
    """Wait until the hub serves so many."""
    wait_until(lambda: hub.count == count)


def read_until(listener: Listener, note: str | int) -> None:
    """Read until a note comes."""
    while note not in listener.notes:
        assert listener.read()


def test_notes_come_in_order_and_together(hub: Hub, listen: Callable[[], Listener]) -> None:
    """What has waited is sent at once, in the order in which it was pushed."""
    listener = listen()
    wait_for_sockets(hub, 1)
    for number in range(500):
        hub.push(str(number))
    hub.push('"last"')
    read_until(listener, "last")
    assert [each for each in listener.notes if isinstance(each, int)] == list(range(500))


def test_dead_socket_holds_nobody_up_and_is_dropped(
    hub: Hub, listen: Callable[[], Listener]
) -> None:
    """A socket that is not read costs the others nothing; when its line is full it is cut."""
    dead, alive = listen(), listen()
    wait_for_sockets(hub, 2)
    for number in range(3 * LINE):
        hub.push(LONG)
        if number % 100 == 0:
            hub.push(str(number))
            read_until(alive, number)
    wait_for_sockets(hub, 1)
    dead.read_to_the_end()
    assert dead.notes.count(json.loads(LONG)) < 3 * LINE


def test_socket_is_there_before_its_browser_is_greeted(
    hub: Hub, listen: Callable[[], Listener], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page that catches up when its socket opens misses nothing that comes after."""

    def greet(*words: Any, **options: Any) -> Server:
        hub.push('"meanwhile"')
        return Server(*words, **options)

    monkeypatch.setattr(sockets, "Server", greet)
    read_until(listen(), "meanwhile")


def test_close_tells_the_browsers(
    hub: Hub, listen: Callable[[], Listener], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every socket hears that the server goes away, also one that comes too late."""
    monkeypatch.setattr(sockets, "GOODBYE", PATIENCE)
    listeners = [listen() for _ in range(3)]
    wait_for_sockets(hub, 3)
    closing = threading.Thread(target=hub.close)
    closing.start()
    for listener in listeners:
        listener.read_to_the_end()
        assert listener.close_code == 1001
    closing.join()
    late = listen()
    late.read_to_the_end()
    assert late.close_code == 1001


def test_close_does_not_wait_for_a_dead_socket(hub: Hub, listen: Callable[[], Listener]) -> None:
    """One whose send is stuck is cut."""
    listen()
    wait_for_sockets(hub, 1)
    for _ in range(LINE // 2):
        hub.push(LONG)
    hub.close()
    wait_for_sockets(hub, 0)


def test_browser_that_goes_is_forgotten(hub: Hub, listen: Callable[[], Listener]) -> None:
    """Without a close, as when a phone loses its network."""
    listener = listen()
    wait_for_sockets(hub, 1)
    listener.sock.close()
    wait_for_sockets(hub, 0)


def test_browser_that_goes_before_it_is_greeted(hub: Hub) -> None:
    """It is nobody's error either."""
    ours, theirs = socket.socketpair()
    with ours:
        theirs.close()
        hub.serve(served_by(ours))
    assert hub.count == 0


def test_what_a_browser_says_is_not_kept(hub: Hub, listen: Callable[[], Listener]) -> None:
    """Its words have no meaning here; too many of them at once end the connection."""
    listener = listen()
    listener.sock.sendall(b"\x81\x80\0\0\0\0" * 10)  # empty messages
    wait_for_sockets(hub, 1)
    hub.push('"after"')
    read_until(listener, "after")
    listener.sock.sendall(b"\x81\xfe\x08\x00\0\0\0\0" + bytes(2048))
    listener.read_to_the_end()
    hub.push('"anybody there?"')
    wait_for_sockets(hub, 0)


class Late(threading.Thread):
    """Something that happens in the middle of something else, unless a lock prevents it."""

    def interfere(self) -> None:
        """Happen now; if it cannot, it happens later."""
        self.start()
        self.join(0.2)


def test_a_ping_does_not_come_in_the_middle_of_a_note() -> None:
    """The browser would take the rest of the note for nonsense, and close."""
    taken = []

    def sendall(data: bytes) -> None:
        if data == b"note":
            ping.interfere()
        taken.append(data)

    fake = SimpleNamespace(sendall=sendall, settimeout=id, recv=None, fileno=None, close=None)
    sock = Sock(fake)
    ping = Late(target=sock.send, args=(b"ping",))
    sock.send(b"note")
    ping.join()
    assert taken == [b"note", b"ping"]


class FakeSocket(Socket):
    """Serves nobody until it is closed."""

    def __init__(self) -> None:
        self.closed = threading.Event()
        self.pushed: list[str] = []
        self.push, self.close = self.pushed.append, self.closed.set  # type: ignore[method-assign]

    def run(self) -> None:
        """Wait for the end."""
        self.closed.wait()


def test_a_socket_may_come_while_a_note_is_pushed() -> None:
    """The hub's sockets do not change while they are looked through."""
    hub, early, newcomer = Hub(), FakeSocket(), FakeSocket()
    late = Late(target=hub.serve, args=(newcomer,))

    class Visited(set[Socket]):
        def __iter__(self) -> Iterator[Socket]:
            for each in super().__iter__():
                late.interfere()
                yield each

    hub._sockets = Visited([early])
    assert hub.push("note") == 1
    newcomer.close()
    late.join()
    assert (early.pushed, newcomer.pushed) == (["note"], [])


UNDER_GEVENT = """
import sys
from gevent import monkey
monkey.patch_all()
import pytest
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", "-k", "not all_of_this", sys.argv[1]]))
"""


@pytest.mark.programs
def test_all_of_this_under_gevent() -> None:
    """The same holds for greenlets, whose sockets may send a part of what they are given."""
    tests = Program("-c", UNDER_GEVENT, __file__)
    assert tests.end(seconds=100) == 0, tests.output
