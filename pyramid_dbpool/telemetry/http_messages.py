"""As much of HTTP/1.1 as is spoken over the sockets: one request, one answer, and the end.

So that `curl --unix-socket` works. `http.server` has a thread for each peer, and waits for ever
for one that says nothing: here one thread serves all, and can be stopped for a fork.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, urlsplit

__all__ = ["Refused", "Request", "answer", "parsed_answer", "parsed_request", "request"]

# In bytes: a request may be so long, and its head.
LONGEST_REQUEST, LONGEST_HEAD = 65_536, 16_384
_FIRST_LINE = re.compile(r"([A-Z]{1,16}) (\S{1,4096}) HTTP/1\.[01]")
_LENGTH = re.compile(r"^content-length:\s*(\d{1,9})\s*$", re.IGNORECASE | re.MULTILINE)
_CHUNKED = re.compile(r"^transfer-encoding:", re.IGNORECASE | re.MULTILINE)


class Refused(Exception):
    """A request that is answered with an error; its text is for people."""

    def __init__(self, status: HTTPStatus, why: str) -> None:
        super().__init__(why)
        self.status = status


@dataclass(frozen=True)
class Request:
    """What somebody asks: `query` are the values behind the `?`, the last of each name."""

    method: str
    path: str
    query: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    def json(self) -> dict[str, Any]:
        """Return the body's object.

        :raises Refused: it is none.
        """
        try:
            found = json.loads(self.body or b"{}")
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise Refused(HTTPStatus.BAD_REQUEST, "the body is no JSON object")
        return found


def parsed_request(received: bytes) -> Request | None:
    """Return the request; None: there is more to come.

    :raises Refused: it is none, or too long.
    """
    head, end, body = received.partition(b"\r\n\r\n")
    if len(head) > LONGEST_HEAD:
        raise Refused(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the head is too long")
    first, _, headers = head.decode("latin-1").partition("\r\n")
    line = _FIRST_LINE.fullmatch(first)
    # Also before its end: of nonsense there may never be one.
    if line is None and (end or "\n" in first or len(first) > 4200):
        raise Refused(HTTPStatus.BAD_REQUEST, "this is no request of HTTP/1.1")
    if line is None or not end:
        return None
    if _CHUNKED.search(headers):
        raise Refused(HTTPStatus.LENGTH_REQUIRED, "the body's length has to be given")
    given = _LENGTH.search(headers.replace("\r", ""))
    length = int(given[1]) if given else 0
    if length > LONGEST_REQUEST:
        raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the body is too long")
    return _request(line[1], line[2], body[:length]) if len(body) >= length else None


def _request(method: str, target: str, body: bytes) -> Request:
    try:
        parts = urlsplit(target)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    except ValueError:
        raise Refused(HTTPStatus.BAD_REQUEST, "the path cannot be read") from None
    return Request(method, parts.path, query, body)


def answer(status: HTTPStatus, content: object) -> bytes:
    """Return an answer in JSON."""
    body = json.dumps(content, default=str).encode() + b"\n"
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


def request(method: str, target: str, content: object = None) -> bytes:
    """Return a request, with a body in JSON if there is something to say."""
    body = b"" if content is None else json.dumps(content).encode()
    head = f"{method} {target} HTTP/1.1\r\nHost: dbpool\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def parsed_answer(received: bytes) -> tuple[int, Any]:
    """Return the status and the content of a whole answer.

    :raises ValueError: it is none.
    """
    head, end, body = received.partition(b"\r\n\r\n")
    words = head.split(b"\r\n", 1)[0].split(b" ", 2)
    if not end or len(words) < 2 or not words[0].startswith(b"HTTP/1."):
        raise ValueError("this is no answer of HTTP/1.1")
    given = _LENGTH.search(head.decode("latin-1").replace("\r", ""))
    if given is not None and len(body) < int(given[1]):
        raise ValueError("the answer ends before its end")
    return int(words[1]), json.loads(body)
