"""The fault proxy fails as networks do, and nothing of it is left behind."""

import contextlib
import os
import socket
import socketserver
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.pool_load import until
from tests.support.servers.ports import deaf_port
from tests.support.servers.proxy import FaultProxy, Newcomers

PATIENCE = 30.0
only_linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's socket filters")


class Echo(socketserver.BaseRequestHandler):
    """Sends everything back, and closes after a `bye`."""

    def handle(self) -> None:
        """Serve one client."""
        self.server.clients.append(self.request)  # type: ignore[attr-defined]
        with contextlib.suppress(OSError):
            while (data := self.request.recv(65536)) and data != b"bye":
                self.request.sendall(data)


@pytest.fixture
def server() -> Iterator[Any]:
    """Give a server that echoes; `clients` are its sockets."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Echo) as made:
        made.clients = []  # type: ignore[attr-defined]
        made.daemon_threads = True
        thread = threading.Thread(target=made.serve_forever, args=(0.01,))
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.fixture
def proxy(server: Any) -> Iterator[FaultProxy]:
    """Give a proxy before it; both are gone afterwards."""
    made = FaultProxy(server.server_address[1])
    yield made
    made.close()


def client(proxy: FaultProxy) -> socket.socket:
    """Connect, with the patience that a busy machine needs."""
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=PATIENCE)


def has_left(server: Any) -> bool:
    """Tell whether the server has closed the one connection that it had."""
    return [client.fileno() for client in server.clients] == [-1]


def reset() -> pytest.RaisesExc[ConnectionResetError]:
    """Expect a reset: also while connecting, where it may come before the call is back."""
    return pytest.raises(ConnectionResetError)


def counted_anew(proxy: FaultProxy) -> tuple[int, int]:
    """Give how many have arrived, and were there together, since now."""
    proxy.count_anew()
    return proxy.arrived, proxy.most_at_once


def echo(sock: socket.socket, words: bytes = b"hello") -> bytes:
    """Send and return what comes back."""
    sock.sendall(words)
    return sock.recv(len(words))


def test_passes_everything_on(proxy: FaultProxy) -> None:
    """Without a fault it is not there, and it counts who came."""
    with client(proxy) as one, client(proxy) as two:
        assert (echo(one), echo(two, b"x" * 1000)) == (b"hello", b"x" * 1000)
        assert (proxy.connections, proxy.arrived, proxy.most_at_once) == (2, 2, 2)
    until(lambda: counted_anew(proxy) == (0, 0), "the links end with their clients")
    assert proxy.connections == 0


def test_passes_the_end_of_the_server_on(proxy: FaultProxy) -> None:
    """A server that closes is seen to close."""
    with client(proxy) as sock:
        assert echo(sock, b"bye") == b""


def test_refuses(proxy: FaultProxy) -> None:
    """Nobody listens; those inside stay; afterwards it listens at the same port."""
    with client(proxy) as before:
        assert echo(before) == b"hello"
        proxy.meet(Newcomers.REFUSE)
        with pytest.raises(ConnectionRefusedError):
            client(proxy)
        assert echo(before) == b"hello"
    proxy.meet(Newcomers.PASS)
    with client(proxy) as after:
        assert echo(after) == b"hello"


def test_resets_newcomers(proxy: FaultProxy) -> None:
    """They are counted, though the server never sees them."""
    proxy.meet(Newcomers.RESET)
    with reset(), client(proxy) as sock:
        sock.recv(1)
    assert (proxy.arrived, proxy.connections) == (1, 0)


def test_is_silent(proxy: FaultProxy) -> None:
    """It takes everything and answers nothing, until it is told to cut."""
    proxy.meet(Newcomers.SILENCE)
    with client(proxy) as sock:
        sock.settimeout(0.05)
        with pytest.raises(TimeoutError):
            echo(sock)
        until(lambda: proxy.arrived == 1, "the proxy has met the client")
        sock.settimeout(PATIENCE)
        proxy.cut()
        with reset():
            sock.recv(1)


def test_cuts_in_order(proxy: FaultProxy) -> None:
    """The client reads the end of the stream."""
    with client(proxy) as sock:
        assert echo(sock) == b"hello"
        proxy.cut()
        assert sock.recv(1) == b""
        until(lambda: proxy.connections == 0, "the link is gone")


def test_cuts_with_a_reset(proxy: FaultProxy) -> None:
    """The client reads an error."""
    with client(proxy) as sock:
        assert echo(sock) == b"hello"
        proxy.cut(abort=True)
        with reset():
            sock.recv(1)


def test_cuts_after_so_many_bytes(proxy: FaultProxy) -> None:
    """No further byte arrives, in the middle of an answer or not."""
    proxy.faults.answer_limit = 7
    with client(proxy) as sock:
        assert echo(sock) == b"hello"
        assert echo(sock) == b"he"
        assert sock.recv(1) == b""


def test_loses_the_answer_to_a_request(proxy: FaultProxy) -> None:
    """The server got it; the next connection is spared."""
    proxy.faults.fatal_request = b"COMMIT"
    with client(proxy) as sock:
        assert echo(sock) == b"hello"
        assert echo(sock, b"COMMIT;") == b""
    with client(proxy) as sock:
        assert echo(sock, b"COMMIT;") == b"COMMIT;"


def test_is_late(proxy: FaultProxy) -> None:
    """Nothing arrives before its time."""
    with client(proxy) as sock:
        assert echo(sock) == b"hello"
        proxy.faults.latency = 3600
        sock.settimeout(0.05)
        with pytest.raises(TimeoutError):
            echo(sock)


def test_leaves_a_connection_half_open(proxy: FaultProxy, server: Any) -> None:
    """The server has gone; the client hears nothing of it and may go on sending."""
    proxy.faults.half_open = True
    with client(proxy) as sock:
        sock.sendall(b"bye")
        until(lambda: has_left(server), "the server has read it alone, and left")
        sock.settimeout(0.05)
        for _ in range(3):
            with pytest.raises(TimeoutError):
                echo(sock)


@only_linux
def test_swallows_packets(proxy: FaultProxy) -> None:
    """Nothing is acknowledged any more, and nothing comes back."""
    with client(proxy) as sock:
        assert echo(sock) == b"hello"
        proxy.swallow()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 300)
        with pytest.raises(TimeoutError) as caught:
            echo(sock)
    # The kernel's own error; the socket's timeout has no number.
    assert caught.value.errno


@only_linux
def test_drops_newcomers(proxy: FaultProxy) -> None:
    """Nobody even refuses them; those inside stay."""
    with client(proxy) as before:
        assert echo(before) == b"hello"
        proxy.meet(Newcomers.DROP)
        with pytest.raises(TimeoutError):
            socket.create_connection(("127.0.0.1", proxy.port), timeout=0.05)
        assert echo(before) == b"hello"
    proxy.meet(Newcomers.PASS)
    with client(proxy) as after:
        assert echo(after) == b"hello"


def test_a_server_that_is_away_resets() -> None:
    """Nobody listens behind the proxy."""
    proxy = FaultProxy(deaf_port())
    with reset(), client(proxy) as sock:
        sock.recv(1)
    proxy.close()


def test_closing_leaves_nothing_behind(proxy: FaultProxy) -> None:
    """Whatever its connections are in the middle of, threads and descriptors go."""
    threads, files = set(threading.enumerate()), len(os.listdir("/proc/self/fd"))
    other = FaultProxy(proxy.port)
    with client(other) as idle, client(other) as late, contextlib.ExitStack() as silent:
        assert (echo(idle), echo(late)) == (b"hello", b"hello")
        other.meet(Newcomers.SILENCE)
        silent.enter_context(client(other)).sendall(b"hello")
        other.faults.latency = 3600
        late.sendall(b"hello")
        until(lambda: other.arrived == 3, "all have come")
        other.close()
    until(lambda: proxy.connections == 0, "the other's links end")
    # The echo server starts one for each client too.
    until(lambda: set(threading.enumerate()) <= threads, "its threads end")
    until(lambda: len(os.listdir("/proc/self/fd")) <= files, "its descriptors are closed")
