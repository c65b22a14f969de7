"""A websocket's reading end, light enough for hundreds of them in one thread."""

import json
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from processes import PATIENCE

TEXT, CLOSE, PING = 1, 8, 9
PONG = b"\x8a\x80\0\0\0\0"  # empty, with a mask of zeros
GOODBYE = b"\x88\x80\0\0\0\0"  # the same
HANDSHAKE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


class Listener:
    """Collects the notes that come over a connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.notes: list[Any] = []
        self.close_code: int | None = None
        self._buffer = bytearray()
        self._greeted = False

    @classmethod
    def connect(cls, settings: dict[str, Any]) -> "Listener":
        """Connect as the page does."""
        address = urlsplit(settings["streamer.address"])
        sock = socket.create_connection((address.hostname, address.port), timeout=PATIENCE)
        headers = {"Host": address.netloc, "Origin": settings["streamer.origins"], **HANDSHAKE}
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        sock.sendall(f"GET {address.path} HTTP/1.1\r\n{lines}\r\n".encode())
        return cls(sock)

    def fileno(self) -> int:
        """Let a selector wait for it."""
        return self.sock.fileno()

    def read(self) -> bool:
        """Take what has come; wait for it if nothing has. False at the end."""
        try:
            data = self.sock.recv(1 << 18)
        except ConnectionResetError:  # so it ends where our goodbye came too late
            data = b""
        self._buffer += data
        if not self._greeted:
            head, end, rest = self._buffer.partition(b"\r\n\r\n")
            if not end:
                return bool(data)
            assert head.startswith(b"HTTP/1.1 101 "), head
            self._greeted, self._buffer = True, rest
        for opcode, payload in self._frames():
            if opcode == TEXT:
                self.notes += json.loads(payload)
            elif opcode == PING:
                self.sock.sendall(PONG)
            elif opcode == CLOSE:
                (self.close_code,) = struct.unpack("!H", payload[:2])
                with suppress(OSError):  # the server need not wait for it
                    self.sock.sendall(GOODBYE)
        return bool(data)

    def read_to_the_end(self) -> None:
        """Take everything until the other side closes."""
        while self.read():
            pass

    def _frames(self) -> Iterator[tuple[int, bytes]]:
        """Cut the frames that are complete out of the buffer; a server's have no mask."""
        while len(self._buffer) >= 2:
            size, start = self._buffer[1], 2
            if size >= 126:
                start = 4 if size == 126 else 10
                if len(self._buffer) < start:
                    return
                size = int.from_bytes(self._buffer[2:start], "big")
            if len(self._buffer) < start + size:
                return
            yield self._buffer[0] & 15, bytes(self._buffer[start : start + size])
            del self._buffer[: start + size]
