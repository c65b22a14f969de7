"""A network that drops silently: packets vanish, nobody acknowledges, nothing is closed.

A proxy that only stops reading is no black hole, for its kernel goes on acknowledging.
This one has the kernel drop, before TCP sees it, what arrives for its sockets.
"""

import contextlib
import ctypes
import socket
import struct
import threading
from collections.abc import Callable

# <asm-generic/socket.h>; Python has no names for them.
SO_ATTACH_FILTER, SO_DETACH_FILTER = 26, 27
# One instruction of classic BPF: keep zero bytes (BPF_RET | BPF_K, see socket(7)).
DROP = struct.pack("HBBI", 0x06, 0, 0, 0)


def _drop_all(sock: socket.socket) -> None:
    program = ctypes.create_string_buffer(DROP, len(DROP))
    filters = struct.pack("HL", 1, ctypes.addressof(program))
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, filters)


class BlackHole:
    """Stands before a server; `swallow` makes the network drop, `spit` lets new ones pass."""

    def __init__(self, port: int) -> None:
        self._server_port = port
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._start(self._accept)

    def __repr__(self) -> str:
        return f"<BlackHole at {self.port}, {len(self._sockets) // 2} connections>"

    def swallow(self, *, newcomers: bool = True) -> None:
        """Drop what comes from now on, on every connection, and new connections too."""
        for sock in self._sockets[::2]:
            with contextlib.suppress(OSError):
                _drop_all(sock)
        if newcomers:
            _drop_all(self._listener)

    def spit(self) -> None:
        """Let new connections pass again; those swallowed stay so."""
        self._listener.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)

    def close(self) -> None:
        """End everything."""
        for sock in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
        for sock in (self._listener, *self._sockets):
            sock.close()

    def _start(self, run: Callable[..., None], *args: socket.socket) -> None:
        thread = threading.Thread(target=run, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._server_port))
                self._sockets += [client, server]
                self._start(self._forward, client, server)
                self._start(self._forward, server, client)

    @staticmethod
    def _forward(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_RDWR)
