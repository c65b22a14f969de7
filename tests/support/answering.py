"""Processes that answer in a folder what a test has them say, with reports made by hand."""

import json
import os
import socketserver
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.support.makers import in_thread

__all__ = ["Answering", "answering"]


class Answering:
    """A folder in which processes answer.

    - `reports`: what each says, by process id; change it as you like.
    - `told`: the commands that came: process id, name, and what was said.
    - `refusal`: why they are refused, if they are.
    """

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        folder.mkdir(mode=0o700)
        self.folder = folder
        self.reports: dict[int, Any] = {}
        self.told: list[tuple[int, str, dict[str, Any]]] = []
        self.refusal: str | None = None
        self._stack = stack

    def add(self, report: Any) -> None:
        """Have one more process answer, or another report of the same one."""
        pid = report["pid"]
        if pid not in self.reports:
            self._serve(pid)
        self.reports[pid] = report

    def silent(self, pid: int) -> None:
        """Have a process that takes questions and answers none."""
        listener = socketserver.UnixStreamServer(
            str(self.folder / f"{pid}.sock"), socketserver.BaseRequestHandler
        )
        self._stack.callback(listener.server_close)

    def _serve(self, pid: int) -> None:
        given = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.0"

            def address_string(self) -> str:
                return "somebody"

            def log_message(self, *args: Any) -> None:
                """Say nothing."""

            def do_GET(self) -> None:
                query = parse_qs(urlsplit(self.path).query)
                after = int(query.get("after", ["0"])[0])
                report = given.reports[pid]
                events = [each for each in report["events"] if each["number"] > after]
                self._answer(report | {"events": events})

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                said = json.loads(body)
                given.told.append((pid, self.path.strip("/"), said))
                if given.refusal is not None:
                    self._answer({"error": given.refusal}, 400)
                    return
                names = [pool["name"] for pool in given.reports[pid]["pools"]]
                self._answer({"pools": [n for n in names if said["pool"] in (None, n)]})

            def _answer(self, content: Mapping[str, Any], status: int = 200) -> None:
                body = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        server = socketserver.ThreadingUnixStreamServer(
            os.fspath(self.folder / f"{pid}.sock"), Handler
        )
        server.daemon_threads = True
        thread = in_thread(lambda: server.serve_forever(0.01))
        self._stack.callback(self._end, server, thread)

    @staticmethod
    def _end(server: socketserver.UnixStreamServer, thread: threading.Thread) -> None:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def answering(tmp_path: Path) -> Iterator[Answering]:
    """Give a folder in which processes answer."""
    with ExitStack() as stack:
        yield Answering(tmp_path / "run", stack)
