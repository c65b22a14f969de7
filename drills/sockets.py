"""Browsers on the streamer: each keeps a socket open and remembers the notes that it was sent."""

import json
import threading
import time
from contextlib import suppress

from simple_websocket import Client, ConnectionClosed, ConnectionError

ORIGIN = "http://drill"  # drill.ini: streamer.origins
LISTENING = 1.0  # seconds between two looks whether to go on
PAUSE = 0.3  # seconds before a socket that was closed is opened again


class Sockets:
    """Some open sockets."""

    def __init__(self, port: int, count: int) -> None:
        # Only ever added to, each by its own thread.
        self._seen: list[set[str]] = [set() for _ in range(count)]
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._listen, args=(port, seen), daemon=True)
            for seen in self._seen
        ]
        for thread in self._threads:
            thread.start()

    def unseen(self, notes: set[str], patience: float) -> set[str]:
        """Return those notes that no socket was sent, after so many seconds at the most."""
        end = time.monotonic() + patience
        while time.monotonic() < end and notes - self._together():
            time.sleep(0.1)
        return notes - self._together()

    def close(self) -> None:
        """Close all of them."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _together(self) -> set[str]:
        return set().union(*(set(seen) for seen in self._seen))

    def _listen(self, port: int, seen: set[str]) -> None:
        while not self._stop.is_set():
            # As a browser does, it comes back to a streamer that has gone.
            with suppress(ConnectionClosed, ConnectionError, OSError):
                self._be_open(port, seen)
            self._stop.wait(PAUSE)

    def _be_open(self, port: int, seen: set[str]) -> None:
        client = Client(f"ws://127.0.0.1:{port}/live", headers={"Origin": ORIGIN})
        while not self._stop.is_set():
            message = client.receive(timeout=LISTENING)
            if message is not None:
                seen.update(note["id"] for note in json.loads(message))
        client.close()
