"""Clients of the web app, and what became of each of their requests."""

import http.client
import random
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from uuid import uuid4

TIMEOUT = 60.0  # seconds that a client waits for an answer
NO_ANSWER = 0
IN_DOUBT = "X-In-Doubt"  # the ledger's answer to a POST whose COMMIT was not answered


@dataclass(frozen=True)
class Request:
    """What a client asks for; `note` is the id of the note that it writes."""

    method: str
    path: str
    body: bytes | None = None
    note: str | None = None


@dataclass(frozen=True)
class Answer:
    """What became of a request; the status is NO_ANSWER if there was none.

    `in_doubt`: the app has said that it does not know whether the write is stored.
    """

    request: Request
    status: int
    began: float
    seconds: float
    retry_after: str | None = None
    in_doubt: bool = False

    @property
    def ok(self) -> bool:
        """Tell whether it is a 2xx."""
        return 200 <= self.status < 300


class Clients:
    """Some clients that ask one thing after another until they are told to stop.

    `think` is the mean of each one's random pause between two requests, in seconds. One that
    is told when to come back does so then, unless it is not `patient`.
    """

    def __init__(
        self,
        port: int,
        count: int,
        ask: Callable[[random.Random], Request],
        think: float,
        *,
        patient: bool = True,
    ) -> None:
        self._port = port
        self._patient = patient
        self._ask = ask
        self._think = think
        self._stop = threading.Event()
        # Each client has its own: no lock between them.
        self._answers: list[list[Answer]] = [[] for _ in range(count)]
        self._threads = [
            threading.Thread(target=self._run, args=(number,), daemon=True)
            for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> list[Answer]:
        """Let each client wait for its last answer; return all of them."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        return self.so_far()

    def so_far(self) -> list[Answer]:
        """Return the answers that have come, by the time of their requests."""
        every = [answer for answers in self._answers for answer in list(answers)]
        return sorted(every, key=lambda answer: answer.began)

    def _run(self, number: int) -> None:
        chance = random.Random(number)
        while not self._stop.is_set():
            answer = send(self._port, self._ask(chance))
            self._answers[number].append(answer)
            self._stop.wait(self._pause(answer, chance))

    def _pause(self, answer: Answer, chance: random.Random) -> float:
        if self._patient and answer.retry_after is not None:
            return float(answer.retry_after)
        return chance.expovariate(1 / self._think) if self._think else 0.0


def send(port: int, request: Request) -> Answer:
    """Send one request, on a connection of its own: a reused one could fail by itself."""
    began = time.monotonic()
    status, later, in_doubt = NO_ANSWER, None, False
    headers = {"Connection": "close", "Content-Type": "application/json"}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    # No answer is an answer here: it is counted as one that failed.
    with closing(connection), suppress(OSError, http.client.HTTPException):
        connection.request(request.method, request.path, request.body, headers)
        response = connection.getresponse()
        response.read()
        status, later = response.status, response.headers["Retry-After"]
        in_doubt = IN_DOUBT in response.headers
    return Answer(request, status, began, time.monotonic() - began, later, in_doubt)


def readers_and_writers(chance: random.Random) -> Request:
    """Ask for the newest notes, or write one."""
    if chance.random() < 0.6:
        return Request("GET", "/api/notes?limit=20")
    note = str(uuid4())
    return Request("PUT", f"/api/notes/{note}", b'{"text": "drill"}', note)
