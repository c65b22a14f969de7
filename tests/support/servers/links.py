"""One connection through the fault proxy: two sockets, a thread for each direction."""

import contextlib
import ctypes
import socket
import struct
import threading

__all__ = ["Faults", "Link", "drop_packets", "pass_packets", "reset"]

CHUNK = 65536

# <asm-generic/socket.h>; Python has no names for them.
SO_ATTACH_FILTER, SO_DETACH_FILTER = 26, 27
# One instruction of classic BPF: keep zero bytes (BPF_RET | BPF_K, see socket(7)).
DROP = struct.pack("HBBI", 0x06, 0, 0, 0)
# Close without a farewell: the peer gets RST (SO_LINGER with no time to linger).
ABORT = struct.pack("ii", 1, 0)


def drop_packets(sock: socket.socket) -> None:
    """Have the kernel drop what arrives, before TCP sees it: nothing is acknowledged."""
    program = ctypes.create_string_buffer(DROP, len(DROP))
    filters = struct.pack("HL", 1, ctypes.addressof(program))
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, filters)


def pass_packets(sock: socket.socket) -> None:
    """Undo `drop_packets`."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)


def reset(sock: socket.socket) -> None:
    """Close with RST."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
    sock.close()


class Faults:
    """What befalls the connections that are open; read at every piece of data."""

    def __init__(self) -> None:
        self.latency = 0.0
        """Seconds by which each piece of data is late, in each direction."""
        self.half_open = False
        """Whether the client is not told that the server has closed."""
        self.answer_limit: int | None = None
        """Bytes of the server's that a connection may carry before it is cut."""
        self.fatal_request: bytes | None = None
        """The server gets the next request with these bytes; its answer is lost."""
        self._lock = threading.Lock()
        # Waited on instead of slept, so that a proxy that closes waits for nobody.
        self._over = threading.Event()

    def delay(self) -> None:
        """Be late."""
        if self.latency:
            self._over.wait(self.latency)

    def is_fatal(self, request: bytes) -> bool:
        """Tell whether this request's answer is to be lost; true once."""
        with self._lock:
            found = self.fatal_request is not None and self.fatal_request in request
            if found:
                self.fatal_request = None
            return found

    def end(self) -> None:
        """Let nobody be late any more."""
        self._over.set()


class Link:
    """Forward between a client and the server until one of them closes, or a fault ends it."""

    def __init__(
        self,
        client: socket.socket,
        server: socket.socket,
        faults: Faults,
    ) -> None:
        self.client = client
        self.server = server
        self._faults = faults
        self._lock = threading.Lock()
        self._running = 2
        self._carried = 0
        self._cut = False
        self._abort = False
        self._answer_lost = False

    def __repr__(self) -> str:
        return f"<Link {self._carried} bytes carried{', cut' if self._cut else ''}>"

    def run(self) -> None:
        """Forward what the client sends, and what the server answers, until both have ended."""
        answers = threading.Thread(target=self._forward_answers, daemon=True)
        answers.start()
        self._forward_requests()
        answers.join()

    def cut(self, *, abort: bool = False) -> None:
        """End both connections, in order or with RST."""
        self._abort |= abort
        self._cut = True
        self._wake(socket.SHUT_RD)

    def swallow(self) -> None:
        """Let the packets of the client vanish from now on."""
        with contextlib.suppress(OSError):
            drop_packets(self.client)

    def end(self) -> None:
        """End both connections whatever they are in the middle of."""
        self._cut = True
        self._wake(socket.SHUT_RDWR)

    def _wake(self, how: int) -> None:
        # Only a shutdown wakes a thread that waits for data; a close would let it sleep on.
        for sock in (self.client, self.server):
            with contextlib.suppress(OSError):
                sock.shutdown(how)

    def _forward_requests(self) -> None:
        with contextlib.suppress(OSError):
            while (data := self.client.recv(CHUNK)) and not self._cut:
                self._faults.delay()
                self._answer_lost |= self._faults.is_fatal(data)
                self._send_request(data)
        self._finish(self.server)

    def _send_request(self, data: bytes) -> None:
        try:
            self.server.sendall(data)
        except OSError:
            # The client of a half-open connection is not to learn that nobody listens.
            if not self._faults.half_open:
                raise

    def _forward_answers(self) -> None:
        with contextlib.suppress(OSError):
            while (data := self.server.recv(CHUNK)) and not self._cut:
                self._faults.delay()
                room = self._room(len(data))
                self.client.sendall(data[:room])
                self._carried += room
                if room < len(data):
                    self.cut()
        self._finish(self.client)

    def _room(self, wanted: int) -> int:
        if self._answer_lost:
            return 0
        limit = self._faults.answer_limit
        return wanted if limit is None else max(0, min(wanted, limit - self._carried))

    def _finish(self, peer: socket.socket) -> None:
        hidden = peer is self.client and self._faults.half_open and not self._cut
        if not (hidden or self._abort):
            with contextlib.suppress(OSError):
                peer.shutdown(socket.SHUT_WR)
        with self._lock:
            self._running -= 1
            if self._running:
                return
        for sock in (self.client, self.server):
            if self._abort:
                reset(sock)
            sock.close()
