"""Run the whole example: a private PostgreSQL, the web app and the streamer.

It needs nothing but Python. Ctrl-C stops everything.
"""

import argparse
import fcntl
import http.client
import json
import signal
import socket
import sys
import uuid
from collections.abc import Sequence
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from time import monotonic
from typing import TextIO

from sqlalchemy.exc import SQLAlchemyError

from example_app import ini
from example_app.initialize_db import create_tables
from example_app.programs import Program, ProgramEnded, Programs, Stopped, show
from pyramid_dbpool import dispose_engine
from pyramid_dbpool.embedded import EmbeddedServerError, PrivatePostgres, free_port

INI = Path(__file__).parents[1] / "development.ini"
WEB_PORT = 6543
POSTGRES_PORT = 25432  # what development.ini says
PATIENCE = 60  # seconds until everything must be up
WELCOME = """
  Open           {web}
  Write a note   curl -X PUT {web}/api/notes/{id} -d '{{"text": "Hello"}}'
  Read them      curl {web}/api/notes

  The streamer shows each note below. Ctrl-C stops everything.
"""


class DemoError(Exception):
    """The demo cannot go on; says why."""


EXPECTED = (DemoError, EmbeddedServerError, OSError, ProgramEnded, SQLAlchemyError, ValueError)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo."""
    args = arguments(argv)
    programs = Programs()
    programs.listen_to_signals()
    try:
        run(programs, args)
    except Stopped:
        pass
    except EXPECTED as error:
        # A Ctrl-C that comes while PostgreSQL starts makes the start fail.
        if not programs.stop_asked:
            print(f"demo: {error}", file=sys.stderr)
            return 1
    return 0


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="demo", description=__doc__)
    parser.add_argument("config_uri", nargs="?", default=str(INI), help="default: %(default)s")
    parser.add_argument("--port", type=int, help=f"of the web app; {WEB_PORT} if it is free")
    parser.add_argument("--folder", type=Path, default=Path("var/demo"), help="for all data")
    parser.add_argument("--check", action="store_true", help="write one note, see it, stop")
    return parser.parse_args(argv)


def run(programs: Programs, args: argparse.Namespace) -> None:
    """Start everything, wait for the end, stop everything."""
    port = web_port(args.port)
    with ExitStack() as stack:
        stack.enter_context(sole_user(args.folder))
        show("Starting PostgreSQL, the streamer and the web app ...")
        server = stack.enter_context(postgres(args.folder / "postgres"))
        variables = {
            "database_url": server.url(),
            "broker_folder": str((args.folder / "broker").absolute()),
            "http_port": str(port),
        }
        create_tables_of(args.config_uri, variables)
        stack.callback(programs.stop)
        stack.callback(show, "Stopping the web app, the streamer and PostgreSQL ...")
        start_programs(programs, args.config_uri, variables)
        wait_until_it_answers(programs, port)
        if args.check:
            check(programs, port)
        else:
            show(WELCOME.format(web=f"http://127.0.0.1:{port}", id=uuid.uuid4()))
            watch(programs, server)


def web_port(wanted: int | None) -> int:
    """Choose the port of the web app."""
    if wanted is None:
        return WEB_PORT if is_free(WEB_PORT) else free_port()
    if not 1 <= wanted <= 65535:
        raise DemoError(f"--port {wanted}: a port is a number from 1 to 65535")
    if not is_free(wanted):
        raise DemoError(f"--port {wanted}: it is taken; give another one, or leave it out")
    return wanted


def is_free(port: int) -> bool:
    """Tell whether a port can be listened on."""
    with socket.socket() as probe:
        # Without it, the connections of a demo that just ended still count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def sole_user(folder: Path) -> TextIO:
    """Make the folder and lock it: two demos in one would stop each other's server."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
    except OSError as error:
        raise DemoError(f"--folder {folder}: cannot write there: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise DemoError(f"--folder {folder}: another demo is running there") from None
    return lock


def postgres(folder: Path) -> PrivatePostgres:
    """Describe the private server; its port is the one in development.ini, if that is free."""
    return PrivatePostgres(folder, POSTGRES_PORT if is_free(POSTGRES_PORT) else None)


def create_tables_of(config_uri: str, variables: dict[str, str]) -> None:
    """Create the tables of the app that the ini file describes."""
    settings = ini.read(config_uri, variables)
    create_tables(settings)
    dispose_engine(settings)


def start_programs(programs: Programs, config_uri: str, variables: dict[str, str]) -> None:
    """Start the streamer, and the web app when the streamer has its queue."""
    # A % in a value would start an interpolation.
    ini_words = [config_uri, *(f"{k}={v.replace('%', '%%')}" for k, v in variables.items())]
    streamer = [sys.executable, "-m", "example_app.streamer", *ini_words]
    programs.start("streamer", streamer, signal.SIGTERM)
    if not programs.wait_for(lambda program, line: "Listening" in line, PATIENCE):
        raise DemoError(f"the streamer does not listen after {PATIENCE} s")
    web = [sys.executable, "-m", "pyramid.scripts.pserve", *ini_words]
    programs.start("web", web, signal.SIGINT)  # at SIGTERM, pserve would drop its requests


def wait_until_it_answers(programs: Programs, port: int) -> None:
    """Wait for the web app."""
    end = monotonic() + PATIENCE
    while monotonic() < end:
        programs.wait_for(nothing, 0.2)
        with suppress(OSError, http.client.HTTPException):
            if call(port, "GET", "/api/notes") == 200:
                return
    raise DemoError(f"the web app does not answer after {PATIENCE} s")


def check(programs: Programs, port: int) -> None:
    """Write a note and see it come out of the streamer."""
    note = str(uuid.uuid4())
    status = call(port, "PUT", f"/api/notes/{note}", {"text": "Does everything work?"})
    if status != 201:
        raise DemoError(f"the note was answered with status {status}")
    if not programs.wait_for(lambda program, line: f"note {note}" in line, PATIENCE):
        raise DemoError(f"the streamer does not show the note after {PATIENCE} s")
    show("Everything works: the streamer has shown the note.")


def watch(programs: Programs, server: PrivatePostgres) -> None:
    """Show what the programs print, as long as everything runs."""
    while server.running:
        programs.wait_for(nothing, 1)
    raise DemoError(f"PostgreSQL has ended; its log is {server.log}")


def nothing(program: Program, line: str) -> bool:
    """Wait for no line in particular."""
    return False


def call(port: int, method: str, path: str, body: dict[str, str] | None = None) -> int:
    """Ask the web app for something and give its answer's status."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    with closing(connection):
        connection.request(method, path, json.dumps(body) if body else None)
        return connection.getresponse().status


if __name__ == "__main__":
    sys.exit(main())
