"""A network that fails on command: a TCP proxy between a client and a server."""

import contextlib
import enum
import socket
import threading
from collections.abc import Callable

from sqlalchemy import make_url

from tests.support.servers.links import Faults, Link, drop_packets, pass_packets, reset
from tests.support.servers.ports import keep_port

__all__ = ["FaultProxy", "Newcomers"]

PATIENCE = 10.0  # seconds for a thread that was told to end
BACKLOG = 512


class Newcomers(enum.Enum):
    """What happens to those who connect."""

    PASS = "they reach the server"
    REFUSE = "nobody listens"
    RESET = "accepted, and reset after the latency"
    SILENCE = "accepted, and nothing is forwarded"
    DROP = "their packets vanish"


class FaultProxy:
    """Stand before the server at a port of this machine; `url` leads through the proxy.

    `meet` says what happens to new connections, `faults` what befalls the open ones;
    `cut` and `swallow` end those at once. `arrived` counts the connections accepted so far,
    `most_at_once` the most that were there together, since `count_anew`.
    A server that is away looks like one that resets its connections.
    """

    def __init__(self, server_port: int) -> None:
        self.faults = Faults()
        self._keeper = keep_port()
        self.port = self._keeper.getsockname()[1]
        self._server_port = server_port
        # Guards what follows.
        self._lock = threading.Lock()
        self._newcomers = Newcomers.PASS
        # By the client's socket.
        self._links: dict[socket.socket, Link] = {}
        self._waiting: set[socket.socket] = set()
        self._threads: set[threading.Thread] = set()
        self._present = self.arrived = self.most_at_once = 0
        self._closed = False
        self._listener: socket.socket | None = None
        self._acceptor: threading.Thread | None = None
        self._listen()

    def __repr__(self) -> str:
        return f"<FaultProxy at {self.port}, {len(self._links)} connections, {self._newcomers}>"

    @property
    def connections(self) -> int:
        """Count the connections that lead to the server."""
        return len(self._links)

    def url(self, url: str) -> str:
        """Give a server's URL with the proxy's address in it."""
        through = make_url(url).set(host="127.0.0.1", port=self.port)
        return through.render_as_string(hide_password=False)

    def meet(self, newcomers: Newcomers) -> None:
        """Say what happens to those who connect from now on."""
        with self._lock:
            self._newcomers = newcomers
        if newcomers is Newcomers.REFUSE:
            self._deafen()
            return
        listener = self._listener or self._listen()
        if newcomers is Newcomers.DROP:
            drop_packets(listener)
        else:
            pass_packets(listener)

    def lead_to(self, server_port: int) -> None:
        """Lead those who connect from now on to another server."""
        with self._lock:
            self._server_port = server_port

    def cut(self, *, abort: bool = False) -> None:
        """End every open connection, in order or with RST."""
        for link in self._open_links():
            link.cut(abort=abort)
        self._end_silence()

    def swallow(self) -> None:
        """Let the packets of every open connection vanish, unacknowledged."""
        for link in self._open_links():
            link.swallow()

    def count_anew(self) -> None:
        """Forget who has arrived so far."""
        with self._lock:
            self.arrived, self.most_at_once = 0, self._present

    def close(self) -> None:
        """End everything; the threads are gone afterwards."""
        self.meet(Newcomers.REFUSE)
        self.faults.end()
        with self._lock:
            self._closed = True
            threads = set(self._threads)
        for link in self._open_links():
            link.end()
        self._end_silence()
        for thread in threads:
            thread.join(PATIENCE)
        self._keeper.close()

    def _end_silence(self) -> None:
        with self._lock:
            for sock in self._waiting:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RD)

    def _open_links(self) -> list[Link]:
        with self._lock:
            return list(self._links.values())

    def _listen(self) -> socket.socket:
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=BACKLOG)
        self._acceptor = self._start(self._accept, self._listener)
        return self._listener

    def _deafen(self) -> None:
        if self._listener is not None and self._acceptor is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._acceptor.join(PATIENCE)
            self._listener.close()
            self._listener = self._acceptor = None

    def _start(
        self, run: Callable[[socket.socket], None], sock: socket.socket
    ) -> threading.Thread:
        def tracked() -> None:
            try:
                run(sock)
            finally:
                with self._lock:
                    self._threads.discard(thread)

        thread = threading.Thread(target=tracked, name="fault-proxy", daemon=True)
        with self._lock:
            self._threads.add(thread)
        thread.start()
        return thread

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                self._start(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        with self._lock:
            self._present += 1
            self.arrived += 1
            self.most_at_once = max(self.most_at_once, self._present)
            newcomers = self._newcomers
            if newcomers is Newcomers.SILENCE:
                self._waiting.add(client)
        try:
            if newcomers is Newcomers.PASS:
                self._connect(client)
            elif newcomers is Newcomers.SILENCE:
                hear(client)
            else:
                self.faults.delay()
        finally:
            # Before the client knows, who may come again at once; and together: whoever sees
            # by one that it has ended may look at the others next.
            with self._lock:
                self._present -= 1
                self._links.pop(client, None)
                self._waiting.discard(client)
            reset(client)

    def _connect(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            server = socket.create_connection(("127.0.0.1", self._server_port))
            for sock in (client, server):
                # Small answers would wait for acknowledgements, which no real fault makes them do.
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            link = Link(client, server, self.faults)
            with self._lock:
                self._links[client] = link
                late = self._closed
            if late:
                link.end()
            link.run()


def hear(client: socket.socket) -> None:
    """Read and forward nothing, until the client gives up."""
    with contextlib.suppress(OSError):
        while client.recv(65536):
            pass
