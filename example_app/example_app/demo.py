"""Run the whole example: a private PostgreSQL, the web app and the streamer.

It needs nothing but Python. Ctrl-C stops everything; r and Enter restart PostgreSQL.
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
from typing import Any, TextIO

from pyramid.exceptions import ConfigurationError
from simple_websocket import Client
from sqlalchemy.exc import SQLAlchemyError

from example_app import broker, ini
from example_app.programs import Keys, Program, ProgramEnded, Programs, Stopped, show
from pyramid_dbpool import get_engine
from pyramid_dbpool.embedded import EmbeddedServerError, PrivatePostgres, free_port

INI = Path(__file__).parents[1] / "development.ini"
STREAMER_INI = INI.with_name("development-streamer.ini")
# What the ini files say.
WEB_PORT = 6543
STREAMER_PORT = 6544
POSTGRES_PORT = 25432
PATIENCE = 60  # seconds until everything must be up
AWAY = 8  # seconds that PostgreSQL is away in a restart: a note is to be written meanwhile
WELCOME = """
  Open           {web}     (in two windows: what you write in one appears in the other)
  Write a note   curl -X PUT {web}/api/notes/{id} -d '{{"text": "Hello"}}'
  Read them      curl {web}/api/notes
  See the pools  {web}/dbpool
  Look inside    {web}/_debug_toolbar/     (what each request did with its connections)

  Restart the database and see that nothing fails: r and Enter, then write a note at once.
  Ctrl-C stops everything.
"""
STOPPED = f"""
  PostgreSQL is stopped, for {AWAY} s. Write a note now: it is stored when PostgreSQL is back.
"""
BACK = """
  PostgreSQL is back.
"""
ENDED = """
  PostgreSQL has ended; its log is {log}
  r and Enter start it again, Ctrl-C stops the rest.
"""


class DemoError(Exception):
    """The demo cannot go on; says why."""


EXPECTED = (
    ConfigurationError,
    DemoError,
    EmbeddedServerError,
    OSError,
    ProgramEnded,
    SQLAlchemyError,
    ValueError,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo."""
    args = arguments(argv)
    programs = Programs()
    programs.listen_to_signals()
    try:
        with suppress(Stopped):  # the end that was asked for: everything is stopped by now
            run(programs, args)
    except EXPECTED as error:
        # A Ctrl-C that comes while PostgreSQL starts makes the start fail.
        if not programs.stop_asked:
            print(f"demo: {error}", file=sys.stderr)
            return 1
    return 0


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="demo", description=__doc__)
    parser.add_argument("config_uri", nargs="?", default=f"{INI}#demo", help="of the web app")
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
        server = start_postgres(args.folder / "postgres")
        stack.callback(server.stop)
        streamer_port = STREAMER_PORT if is_free(STREAMER_PORT) else free_port()
        tell_of_others("PostgreSQL", server.port, POSTGRES_PORT)
        tell_of_others("the streamer", streamer_port, STREAMER_PORT)
        if args.port is None:
            tell_of_others("the page", port, WEB_PORT)
        variables = {
            "database_url": server.url(),
            "broker_folder": str((args.folder / "broker").absolute()),
            "run_dir": str((args.folder / "run").absolute()),
            "http_port": str(port),
            "streamer_port": str(streamer_port),
        }
        # A % in a value would start an interpolation.
        variables = {key: value.replace("%", "%%") for key, value in variables.items()}
        check_settings(ini.read(args.config_uri, variables))
        stack.callback(programs.stop)
        stack.callback(show, "\nStopping the web app, the streamer and PostgreSQL ...")
        start_programs(programs, args.config_uri, variables)
        if args.check:
            check(programs, variables)
        else:
            show(WELCOME.format(web=f"http://127.0.0.1:{port}", id=uuid.uuid4()))
            watch(programs, server, Keys())


def check_settings(settings: dict[str, Any]) -> None:
    """Refuse a wrong setting in one line: the web app's error would come with a traceback."""
    get_engine(settings)
    broker.connect(settings)
    broker.needed(settings, "streamer.address")


def web_port(wanted: int | None) -> int:
    """Choose the port of the web app."""
    if wanted is None:
        return WEB_PORT if is_free(WEB_PORT) else free_port()
    if not 1 <= wanted <= 65535:
        raise DemoError(f"--port {wanted}: a port is a number from 1 to 65535")
    if not is_free(wanted):
        raise DemoError(f"--port {wanted} is taken; give another one, or leave it out")
    return wanted


def tell_of_others(what: str, port: int | None, usual: int) -> None:
    """Say that something is not where the ini files have it."""
    if port != usual:
        show(f"Port {usual} is taken, so {what} is at {port}.")


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


def start_postgres(folder: Path) -> PrivatePostgres:
    """Start the private server, at the port that development.ini says if that is free."""
    if is_free(POSTGRES_PORT):
        server = PrivatePostgres(folder, POSTGRES_PORT)
        try:
            server.start()
        except EmbeddedServerError:
            # Another demo may have taken the port meanwhile.
            if is_free(POSTGRES_PORT):
                raise
        else:
            return server
    server = PrivatePostgres(folder)
    server.start()
    return server


def start_programs(programs: Programs, config_uri: str, variables: dict[str, str]) -> None:
    """Start the web app, which makes the tables, then the streamer; wait until both are there."""
    pserve = [sys.executable, "-m", "pyramid.scripts.pserve", "-q"]
    words = [f"{key}={value}" for key, value in variables.items()]
    # While it starts, SIGINT would end it with a traceback; once it serves, waitress would drop
    # its requests at SIGTERM.
    web = programs.start("web", [*pserve, config_uri, *words], signal.SIGTERM)
    wait_until_it_answers(programs, int(variables["http_port"]))
    web.stop_signal = signal.SIGINT
    programs.start("streamer", [*pserve, f"{STREAMER_INI}#demo", *words], signal.SIGTERM)
    if not programs.wait_for(lambda program, line: "Listening to" in line, PATIENCE):
        raise DemoError(f"the streamer does not listen after {PATIENCE} s")


def wait_until_it_answers(programs: Programs, port: int) -> None:
    """Wait for the web app."""
    end = monotonic() + PATIENCE
    while monotonic() < end:
        with suppress(OSError, http.client.HTTPException):
            if call(port, "GET", "/api/notes") == 200:
                return
        programs.wait_for(nothing, 0.1)
    raise DemoError(f"the web app does not answer after {PATIENCE} s")


def check(programs: Programs, variables: dict[str, str]) -> None:
    """Write a note and see it arrive where browsers would."""
    web, note = f"127.0.0.1:{variables['http_port']}", str(uuid.uuid4())
    address = f"ws://127.0.0.1:{variables['streamer_port']}/live"
    browser = Client.connect(address, headers={"Origin": f"http://{web}"})
    path, body = f"/api/notes/{note}", {"text": "Does everything work?"}
    status = call(int(variables["http_port"]), "PUT", path, body)
    if status != 201:
        raise DemoError(f"the note was answered with status {status}")
    seen = browser.receive(PATIENCE)
    if note not in str(seen):
        raise DemoError(f"the streamer does not push the note after {PATIENCE} s")
    browser.close()
    show("Everything works: the streamer has pushed the note.")


def watch(programs: Programs, server: PrivatePostgres, keys: Keys) -> None:
    """Show what the programs print, and restart PostgreSQL when somebody wants it."""
    told = False
    while True:
        programs.wait_for(nothing, 0.2)
        if keys.pressed("r"):
            restart(programs, server)
            told = False
        elif not server.running and not told:
            if not keys.can_come:
                raise DemoError(f"PostgreSQL has ended; its log is {server.log}")
            show(ENDED.format(log=server.log))
            told = True


def restart(programs: Programs, server: PrivatePostgres) -> None:
    """Let PostgreSQL be away for as long as it takes to see what that does."""
    if server.running:
        server.stop()
        show(STOPPED)
        programs.wait_for(nothing, AWAY)
    server.start()
    show(BACK)


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
