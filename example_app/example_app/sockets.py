"""The websockets of this process, and the line of notes before each of them.

Whoever pushes a note never waits for a socket: each has a line of its own and a
thread that empties it (a greenlet under gevent). A socket whose line is full is
dropped; its browser comes back and catches up.
"""

import threading
from collections import deque
from contextlib import suppress
from functools import partial
from socket import SHUT_RDWR
from time import sleep
from typing import Any

from simple_websocket import ConnectionClosed, Server
from wsproto.utilities import LocalProtocolError

LINE = 1000  # notes that may wait before a socket
PING = 25  # seconds between two signs of life; without an answer to one the socket is closed
SEND_TIMEOUT = 10  # seconds that a send may take
GOODBYE = 0.5  # seconds that a browser has to answer a close
LOOK = 0.02  # seconds between two looks whether it has
GOING_AWAY = 1001


class Hub:
    """The open sockets."""

    def __init__(self) -> None:
        # Guards both; held for no send.
        self._lock = threading.Lock()
        self._sockets: set[Socket] = set()
        self._closed = False

    @property
    def count(self) -> int:
        """Tell how many sockets there are."""
        return len(self._sockets)

    def push(self, note: str) -> int:
        """Put a note into every socket's line; return how many sockets there are."""
        with self._lock:
            sockets = list(self._sockets)
        for socket in sockets:
            socket.push(note)
        return len(sockets)

    def serve(self, socket: "Socket") -> None:
        """Send a socket what is pushed, until it is closed.

        Raises what `Socket.run` raises.
        """
        with self._lock:
            self._sockets.add(socket)
            if self._closed:
                socket.close()
        try:
            socket.run()
        finally:
            with self._lock:
                self._sockets.discard(socket)

    def close(self) -> None:
        """Close all sockets, as one that goes away; cut those that do not listen."""
        with self._lock:
            self._closed = True
            sockets = list(self._sockets)
        for socket in sockets:
            socket.close()
        # Counts looks and not seconds: a busy machine holds up the goodbyes, and would cut them.
        for _ in range(int(GOODBYE / LOOK)):
            if not self.count:
                break
            sleep(LOOK)
        for socket in sockets:
            socket.cut()


class Socket:
    """One browser's connection."""

    def __init__(self, environ: dict[str, Any]) -> None:
        self._line: deque[str] = deque()
        self._closing = False
        # Set when there is a note, a wish to close, or the other side has gone.
        self._news = threading.Event()
        self._environ = environ
        self._sock = Sock(environ["gunicorn.socket"])

    def push(self, note: str) -> None:
        """Put a note into the line; a line that is full ends the connection."""
        if len(self._line) < LINE:
            self._line.append(note)
            self._news.set()
        else:
            self.cut()

    def close(self) -> None:
        """Have the connection closed in order."""
        self._closing = True
        self._news.set()

    def cut(self) -> None:
        """End the connection at once, and whatever waits for it."""
        self._sock.cut()

    def run(self) -> None:
        """Greet the browser and send what comes into the line, until either side closes.

        Raises simple-websocket's ConnectionError, or wsproto's RemoteProtocolError, if the other
        side does not ask for a websocket.
        """
        # A browser that has gone is nobody's error.
        with suppress(ConnectionClosed, LocalProtocolError, OSError):
            ws = self._greet()
            try:
                self._send_until_closed(ws)
            finally:
                self.cut()
                # gunicorn closes the socket next, and a reader that has not seen the end by then
                # would look for it until its next ping.
                ws.thread.join(GOODBYE)

    def _greet(self) -> Server:
        return Server(
            {**self._environ, "gunicorn.socket": self._sock},
            ping_interval=PING,
            max_message_size=1024,
            # A reader that waits for a dead browser must not keep the process alive.
            thread_class=partial(threading.Thread, daemon=True),
            event_class=lambda: self._news,
        )

    def _send_until_closed(self, ws: Server) -> None:
        while ws.connected and not self._closing:
            self._send_line(ws)
            # simple-websocket may tell of an end before it shows as one: look again.
            self._news.wait(PING)
            self._news.clear()
            # Browsers have nothing to say here.
            ws.input_buffer.clear()
        if ws.connected:
            ws.close(GOING_AWAY, "The streamer is stopping")
            ws.thread.join(GOODBYE)

    def _send_line(self, ws: Server) -> None:
        # All at once: a socket that has fallen behind costs no more than the others.
        notes = [self._line.popleft() for _ in range(len(self._line))]
        if notes:
            ws.send(f"[{','.join(notes)}]")


class Sock:
    """A connection that sends all or fails, one sender at a time.

    simple-websocket sends from two threads, and takes `socket.send` to send everything: with a
    slow browser the half of a note would be lost, or a ping come in the middle of one.
    """

    def __init__(self, sock: Any) -> None:
        self._sock = sock
        self._lock = threading.Lock()  # held for a whole message
        sock.settimeout(SEND_TIMEOUT)
        self.recv, self.fileno, self.close = sock.recv, sock.fileno, sock.close

    def send(self, data: bytes) -> int:
        """Send all of it, or raise OSError."""
        with self._lock:
            self._sock.sendall(data)
        return len(data)

    def cut(self) -> None:
        """End what is sent and received, in whatever thread."""
        with suppress(OSError):  # it may have ended already
            self._sock.shutdown(SHUT_RDWR)
