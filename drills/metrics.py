"""The metrics: a Prometheus scrapes the app, has each query answered, and raises each alert.

The rules are those of docs/alerts.yml, with all that is time in them made shorter by one factor,
the *pace*: `for: 1m` becomes `for: 4s` at a pace of 15; and so do the ranges and what is compared
with seconds.
"""

import json
import math
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from drills.load import Clients, Request, readers_and_writers, send
from drills.outage import come_back, go_away
from drills.processes import PATIENCE, ROOT, children
from drills.report import Figure, at_least, at_most
from drills.stack import Stack, stack
from pyramid_dbpool.telemetry.host import command
from tests.support.servers.prometheus import INTERVAL, Prometheus

APP, PATH = "metrics", "/dbpool/metrics"
# Threads enough that a page of metrics waits for nobody who waits for a connection.
WORKERS, THREADS = 2, 24
CLIENTS, THINK = 4, 0.1  # seconds between a client's requests
SLOW_CLIENTS, SLOW = 12, 2.0  # seconds for which a slow request holds its connection
PATIENT, GRACE = 3.0, 3.0  # seconds: the app's pool_timeout and outage_grace
RANGE = "10s"  # of the dashboard's rates
SLACK = 10.0  # seconds that an alert may be late
SECONDS = {"s": 1, "m": 60, "h": 3600}


@dataclass
class Scene:
    """The app and who watches it."""

    made: Stack
    port: int
    workers: list[int]
    prometheus: Prometheus
    pace: float

    def after(self, seconds: float) -> float:
        """Say how long so many of the rules' seconds are here."""
        return seconds / self.pace


@dataclass(frozen=True)
class Trouble:
    """Something that goes wrong as long as a `with` lasts, and the alert for it.

    `late`: after how many of the rules' seconds it is raised. `remembered`: for how many of them
    a rule looks back at it.
    """

    alert: str
    late: float
    happens: Callable[[Scene], AbstractContextManager[object]]
    remembered: float = 0.0


def drill(pace: float) -> list[Figure]:
    """Run it, with rules that are so many times as fast."""
    with watched(pace) as scene:
        clients = Clients(scene.port, CLIENTS, readers_and_writers, THINK)
        figures = ask_all(scene)
        for trouble in TROUBLES:
            figures += raise_one(scene, trouble)
        figures += kill_a_worker(scene)
        clients.stop()
    return figures


@contextmanager
def watched(pace: float) -> Iterator[Scene]:
    """Start the app, and what scrapes it."""
    with stack(APP, patience=PATIENT, grace=GRACE) as made:
        web, port = made.start_web(workers=WORKERS, threads=THREADS, path="/api/notes")
        rules = hurried((ROOT / "docs/alerts.yml").read_text(), pace)
        prometheus = Prometheus(made.folder / "prometheus", port, PATH, rules)
        made.ends.callback(prometheus.stop)
        prometheus.start()
        yield Scene(made, port, children(web.pid), prometheus, pace)


def hurried(rules: str, pace: float) -> str:
    """Make all that is time in the rules so many times shorter."""

    def shorter(found: re.Match[str]) -> str:
        seconds = int(found["count"]) * SECONDS[found["unit"]] / pace
        return f"{found['before']}{max(1, round(seconds))}s{found['after']}"

    shown = re.sub(
        r"(?P<before>for: |\[)(?P<count>\d+)(?P<unit>[smh])(?P<after>\]|$)",
        shorter,
        rules,
        flags=re.MULTILINE,
    )
    return re.sub(
        r"(_seconds > )(\d+)", lambda found: f"{found[1]}{int(found[2]) / pace:g}", shown
    )


# The dashboard


def queries() -> list[str]:
    """List the dashboard's queries, as Grafana sends them for all apps and pools."""
    dashboard = json.loads((ROOT / "docs/grafana.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    return [
        re.sub(r"\$(instance|app|pool)\b", ".*", each.replace("$__rate_interval", RANGE))
        for each in asked
    ]


def ask_all(scene: Scene) -> list[Figure]:
    """Ask all that the dashboard asks, until each has an answer."""
    asked = queries()
    until = time.monotonic() + PATIENCE
    empty = asked
    while empty and time.monotonic() < until:
        time.sleep(INTERVAL)
        empty = [each for each in empty if not scene.prometheus.query(each)]
    for each in empty:
        print(f"no data: {each}")
    return [
        at_least("queries of the dashboard", len(asked), 1),
        at_most("  without data", len(empty), 0),
        at_least(
            "processes shown", len(scene.prometheus.query("dbpool_process_up == 1")), WORKERS
        ),
    ]


# The alerts


def raise_one(scene: Scene, trouble: Trouble) -> list[Figure]:
    """Let something go wrong until its alert is raised, and be well again until none is."""
    limit = scene.after(trouble.late) + SLACK
    with trouble.happens(scene):
        seconds, raised = wait_for(scene, trouble.alert, 3 * limit)
        # What else it raises, it raises a little later.
        time.sleep(scene.after(60))
        raised |= scene.prometheus.alerts()
    others = (raised | settle(scene, trouble.remembered)) - {trouble.alert}
    if others:
        print(f"{trouble.alert}: raised as well: {', '.join(sorted(others))}")
    return [
        at_most(f"{trouble.alert} raised after", seconds, limit, "s"),
        at_most("  others raised as well", len(others), 0),
    ]


def wait_for(scene: Scene, alert: str, patience: float) -> tuple[float, set[str]]:
    """Wait until an alert is raised; say after how many seconds, and which ones are."""
    began, raised = time.monotonic(), set[str]()
    while time.monotonic() - began < patience:
        raised |= scene.prometheus.alerts()
        if alert in raised:
            return time.monotonic() - began, raised
        time.sleep(INTERVAL / 4)
    return math.inf, raised


def settle(scene: Scene, remembered: float) -> set[str]:
    """Wait until no alert is raised or about to be for so long; name those that were."""
    calm = max(2 * INTERVAL, scene.after(remembered))
    raised: set[str] = set()
    calm_since, until = time.monotonic(), time.monotonic() + 2 * PATIENCE
    while time.monotonic() - calm_since < calm and time.monotonic() < until:
        time.sleep(INTERVAL / 2)
        firing = scene.prometheus.alerts()
        raised |= firing
        if firing or scene.prometheus.alerts("pending"):
            calm_since = time.monotonic()
    return raised


@contextmanager
def exhausted(scene: Scene) -> Iterator[None]:
    """Have many ask for what holds its connection for long."""
    ask = Request("GET", f"/trouble/hold/{SLOW}")
    clients = Clients(scene.port, SLOW_CLIENTS, lambda _: ask, THINK, patient=False)
    yield
    clients.stop()


def asked_for(page: str, seconds: float) -> Callable[[Scene], AbstractContextManager[object]]:
    """Ask once for something that lasts a little longer than so many of the rules' seconds."""

    @contextmanager
    def happens(scene: Scene) -> Iterator[None]:
        lasts = scene.after(seconds) + SLACK
        send(scene.port, Request("GET", f"/trouble/{page}/{lasts}"))
        yield

    return happens


@contextmanager
def away(scene: Scene) -> Iterator[None]:
    """Let the database vanish."""
    go_away(scene.made)
    yield
    come_back(scene.made)


@contextmanager
def fenced(scene: Scene) -> Iterator[None]:
    """Have the server refuse to write, as one that is a standby now."""
    fence(scene, "on")
    yield
    fence(scene, "off")


def fence(scene: Scene, state: str) -> None:
    # What it says to others does not hold for whoever has to take it back.
    options = {"options": "-c default_transaction_read_only=off"}
    engine = create_engine(scene.made.postgres.url(), poolclass=NullPool, connect_args=options)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(f"ALTER SYSTEM SET default_transaction_read_only = {state}"))
        connection.execute(text("SELECT pg_reload_conf()"))


@contextmanager
def stopped(scene: Scene) -> Iterator[None]:
    """Stop one of the workers."""
    os.kill(scene.workers[0], signal.SIGSTOP)
    yield
    os.kill(scene.workers[0], signal.SIGCONT)


@contextmanager
def paused(scene: Scene) -> Iterator[None]:
    """Pause the pools of all processes."""
    command(str(scene.made.run_dir), "pause", by="a drill")
    yield
    command(str(scene.made.run_dir), "resume", by="a drill")


TROUBLES = (
    Trouble("DbpoolExhausted", 60, exhausted),
    Trouble("DbpoolConnectionHeld", 300, asked_for("keep", 300)),
    Trouble("DbpoolDatabaseAway", 30, away, remembered=300),
    Trouble("DbpoolReadOnly", 30, fenced),
    Trouble("DbpoolProcessSilent", 60, stopped),
    Trouble("DbpoolTooManyEngines", 300, asked_for("engines", 300)),
    Trouble("DbpoolPausedForLong", 300, paused, remembered=300),
)


# A worker that is killed


def kill_a_worker(scene: Scene) -> list[Figure]:
    """Kill one; its counters end, and those of no other go back."""
    gone = scene.workers[0]
    os.kill(gone, signal.SIGKILL)
    shown = f'dbpool_process_up{{pid="{gone}"}}'
    until = time.monotonic() + PATIENCE
    while scene.prometheus.query(shown) and time.monotonic() < until:
        time.sleep(INTERVAL)
    time.sleep(3 * INTERVAL)
    looked_at, back = 0, 0
    for name in counters(scene):
        looked_at += len(scene.prometheus.query(f"{name}[10m]"))
        back += len(scene.prometheus.query(f"resets({name}[10m]) > 0"))
    return [
        at_most("series of the killed worker", len(scene.prometheus.query(shown)), 0),
        at_least("counters looked at", looked_at, 100),
        at_most("  that went backwards", back, 0),
    ]


def counters(scene: Scene) -> list[str]:
    """Name what only grows."""
    named = 'count by (__name__) ({__name__=~"(dbpool|db_client)_.+_(total|count|bucket|sum)"})'
    return [
        name
        for found in scene.prometheus.query(named)
        if (name := found["metric"]["__name__"]) != "db_client_connection_count"
    ]
